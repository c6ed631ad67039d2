"""What happens during a rollout, as plain values: page and recording live on this stream and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_args

from app.steering import OrderKind
from sim.twins import Scene, load_scene


@dataclass(frozen=True)
class SceneReady:
    """The scene stands as its seed says. `jpeg` is the first camera frame, `proprio` the robot's state (8 numbers)."""

    jpeg: bytes
    spec: Scene
    instruction: str
    proprio: tuple[float, ...] = ()


@dataclass(frozen=True)
class ThoughtStarted:
    """The policy starts to write, before control step `step` (0 is the first)."""

    step: int


@dataclass(frozen=True)
class ThoughtToken:
    """The next piece of the thought, as decoded. `gate` is the action expert's share in it, 0..1, where one is read."""

    text: str
    gate: float | None = None


@dataclass(frozen=True)
class ThoughtDone:
    """The whole thought."""

    text: str


@dataclass(frozen=True)
class Planned:
    """A new chunk of actions: milliseconds per part, and where in the image the policy will act (u, v in [0, 1]).

    `heat` is the latents' attention over the image's patches (`model.policy.heat_rows`), for the same names.
    """

    timings: dict[str, float]
    focus: dict[str, tuple[float, float]] | None
    heat: dict[str, str] | None = None


@dataclass(frozen=True)
class Frame:
    """The camera after `step` control steps, `sim_time` simulated seconds into the rollout.

    `action` is what led here: dx dy dz [m], droll dpitch dyaw [rad], gripper (1 open, 0 closed); `proprio` is where it
    led, as in `sim.interface.Observation`; `success` is whether the scene's rule holds now.
    """

    jpeg: bytes
    step: int
    sim_time: float
    action: tuple[float, ...] = ()
    proprio: tuple[float, ...] = ()
    success: bool = False


@dataclass(frozen=True)
class Steered:
    """The visitor intervened before control step `step`; `problem` says in one sentence why it could not be done.

    `jpeg` is the camera after it, where it changed what there is to see.
    """

    order: OrderKind
    step: int
    text: str = ""
    problem: str = ""
    jpeg: bytes = b""


@dataclass(frozen=True)
class StepTiming:
    """Wall-clock milliseconds one control step took: the policy's part and the simulator's.

    Of the latter, `render_ms` went into the camera's picture and `encode_ms` into its JPEG; the rest is physics, and
    the way to the simulator's process and back.
    """

    step: int
    policy_ms: float
    simulator_ms: float
    render_ms: float = 0.0
    encode_ms: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How it ended. `rule` is the success rule in words, `seconds` wall-clock time, `stopped` means by the visitor."""

    success: bool
    rule: str
    steps: int
    seconds: float
    stopped: bool = False


@dataclass(frozen=True)
class Failure:
    """The rollout could not go on; one plain sentence for the visitor."""

    message: str


Event = (
    SceneReady
    | ThoughtStarted
    | ThoughtToken
    | ThoughtDone
    | Planned
    | Frame
    | Steered
    | StepTiming
    | Outcome
    | Failure
)


@dataclass(frozen=True)
class Command:
    """What a visitor asks for: a scene, words for the policy (`spec.text`), whether to think aloud, the noise seed."""

    spec: Scene
    think: bool = True
    seed: int = 0


def to_json(event: Event) -> dict[str, Any]:
    """One JSON-ready dict per event: `type` and the fields, images left out (the video has them)."""
    values = {f.name: getattr(event, f.name) for f in fields(event) if f.name != "jpeg"}
    if isinstance(event, SceneReady):
        values["spec"] = event.spec.model_dump(mode="json")
    return {"type": type(event).__name__, **values}


def from_json(line: dict[str, Any]) -> Event | None:
    """The event that `to_json` wrote, with an empty picture; None for a line of another kind."""
    kinds = {kind.__name__: kind for kind in get_args(Event)}
    if line.get("type") not in kinds:
        return None
    kind = kinds[line["type"]]
    values = {f.name: line[f.name] for f in fields(kind) if f.name in line}
    if kind in (SceneReady, Frame):
        values["jpeg"] = b""
    values |= {name: tuple(values[name]) for name in ("action", "proprio") if name in values}
    if kind is SceneReady:
        values["spec"] = load_scene(values["spec"])
    event: Event = kind(**values)
    return event
