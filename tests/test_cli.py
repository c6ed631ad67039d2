"""The command line: help without heavy imports, one line for an error, options that arrive where they belong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import app.cli as cli
from app import bench, collecting, train_cli
from app.settings import Settings
from sim.evaluate import EpisodeResult, summarise
from sim.interface import Observation, StepResult
from sim.scenes import headings
from sim.suite import load_suite
from sim.tasks import KINDS

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ["", "doctor", "evaluate", "compare", "collect", "train", "train align", "train stage1", "train stage2",
            "serve-model", "bench", "ask", "quiz"]  # fmt: skip


def run(*arguments: str) -> str:
    """Output of a successful command."""
    result = CliRunner().invoke(cli.cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of a command that ends with exit status 2."""
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_everywhere(command: str) -> None:
    assert "Usage: " in run(*command.split(), "--help")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, app.cli, typer.main; typer.main.get_command(app.cli.cli); "
        "print([name for name in ('torch', 'sapien', 'gradio', 'transformers') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_front_door_is_a_program() -> None:
    child = subprocess.run([sys.executable, "app.py", "evaluate", "--suite", "none", "--model", "expert"], cwd=ROOT,
                           capture_output=True, text=True)  # fmt: skip
    assert child.returncode == 2
    assert child.stderr.startswith("error: There is no suite 'none'")
    assert len(child.stderr.splitlines()) == 1


def test_unknown_model_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["--model", "nanno"], ["evaluate", "--suite", "tabletop-basic", "--model", "nanno"]):
        assert fail(monkeypatch, capsys, *command).startswith("error: There is no model 'nanno'")


def test_the_expert_answers_no_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "picture.png"
    text.write_text("not a picture")
    assert "not a picture" in fail(monkeypatch, capsys, "ask", str(text), "What is this?")
    from PIL import Image

    Image.new("RGB", (8, 8)).save(text)
    assert "is no model" in fail(monkeypatch, capsys, "ask", str(text), "What is this?", "--model", "expert")


@pytest.mark.parametrize("name", ["bomb, 13,000 x 13,000", "cut off", "animated", "SVG", "zip by another name"])
def test_a_strange_picture_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.bench_pictures import strange_pictures

    file = tmp_path / "picture.png"
    file.write_bytes(strange_pictures()[name])
    line = fail(monkeypatch, capsys, "ask", str(file), "What is this?")
    assert line.startswith("error: This ") and line.count("\n") == 1


def test_bench_can_put_the_page_under_stress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app import bench_stress

    monkeypatch.setattr(bench_stress, "stress", lambda model: {"model": model})
    run("bench", "--stress", "--model", "expert", "--json", str(tmp_path / "stress.json"))
    assert json.loads((tmp_path / "stress.json").read_text()) == {"model": "expert"}


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "cli", lambda prog_name: {}["missing"])
    with pytest.raises(KeyError):
        cli.main()


def test_serve_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import app.page

    seen: list[tuple[Any, ...]] = []
    def serve(*given: Any, settings: Settings, schedule: Any, against: str | None) -> None:
        seen.append((*given, settings.queue, schedule, against))

    monkeypatch.setattr(app.page, "serve", serve)
    schedule = "think_every=9, execute=4"
    run("--model", "nano", "--host", "127.0.0.1", "--port", "0", "--workers", "3", "--schedule", schedule)
    monkeypatch.setattr(cli, "check_port", lambda host, port: None)
    settings = tmp_path / "settings.yaml"
    settings.write_text("queue: 5")
    run("--model", "expert", "--settings", str(settings), "--against", "nano")
    assert seen[0] == ("nano", "127.0.0.1", 0, 3, 32, (("think_every", 9), ("execute", 4)), None)
    assert seen[1] == ("expert", "127.0.0.1", 7860, 1, 5, (), "nano")
    with pytest.raises(ValueError, match="another model"):
        run("--model", "nano", "--against", "nano")


@pytest.mark.parametrize(
    ("model", "schedule", "complaint"),
    [
        ("nano", "often", "Write a schedule as think_every=10,execute=4 (whole steps), not 'often'"),
        ("nano", "execute=0", "Write a schedule as"),
        ("expert", "execute=4", "The expert policy has no schedule"),
        ("http://127.0.0.1:9", "execute=4", "give --schedule to serve-model"),
    ],
)
def test_a_schedule_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, schedule: str, complaint: str
) -> None:
    command = ("evaluate", "--suite", "tabletop-basic", "--model", model, "--schedule", schedule)
    assert complaint in fail(monkeypatch, capsys, *command)


def test_a_taken_port_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = fail(monkeypatch, capsys, "--model", "expert", "--port", str(port))
    assert line.startswith(f"error: Cannot listen on 127.0.0.1:{port}") and "--port" in line


def test_evaluate_prints_a_row_per_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sim.evaluate

    seen: dict[str, Any] = {}

    def play(suite: Any, make_policy: Any, model: str, **options: Any) -> Any:
        seen.update(options, make_policy=make_policy, model=model)
        results = [EpisodeResult(t.name, s, "", s % 2 == 0, 20, 4.0) for t in suite.tasks for s in range(4)]
        return summarise(suite, model, results)

    monkeypatch.setattr(sim.evaluate, "evaluate", play)
    text = run("evaluate", "--suite", "tabletop-basic", "--model", "expert", "--episodes", "4", "--workers", "1",
               "--json", str(tmp_path / "r.json"))  # fmt: skip
    assert seen == {"make_policy": "expert", "model": "expert", "episodes": 4, "workers": 1, "record": False,
                    "on_episode": None, "json_path": tmp_path / "r.json"}  # fmt: skip
    for task in load_suite("tabletop-basic").tasks:
        assert any(line.startswith(task.name) and "2/4" in line for line in text.splitlines())
    assert "50.0%" in text


def test_kinds_are_checked() -> None:
    assert collecting.parse_kinds("all") == list(KINDS)
    assert collecting.parse_kinds("stack, pick") == ["pick", "stack"]
    with pytest.raises(ValueError, match="no task family 'juggle'"):
        collecting.parse_kinds("pick,juggle")


def test_episodes_and_scenes_are_two_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fail(monkeypatch, capsys, "collect", "--out", str(tmp_path), "--episodes", "1", "--scenes", "1")
    assert "either --episodes or --scenes" in line


def test_still_pictures_follow_from_the_seed() -> None:
    orders = [collecting.still_order(KINDS, seed) for seed in range(40)]
    assert orders == [collecting.still_order(KINDS, seed) for seed in range(40)]
    varied = [collecting.still_order(KINDS, seed, vary=True) for seed in range(40)]
    assert all(order.scene.vary == {"light", "texture", "camera"} for order in varied)
    assert [order.scene.model_copy(update={"vary": frozenset()}) for order in varied] == [o.scene for o in orders]
    assert {order.scene.goal.kind for order in orders} == set(KINDS)
    assert 5 < sum(order.steps == 0 for order in orders) < 25
    assert max(order.steps for order in orders) < collecting.MOST_STEPS


class Camera:
    """A simulator whose episode is over after two steps."""

    last_jpeg = b"jpeg"

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, scene: object) -> None:
        self.steps = 0

    def expert_action(self) -> np.ndarray:
        return np.zeros(7, np.float32)

    def step(self, action: np.ndarray, render: bool) -> StepResult:
        assert not render, "only the picture itself is rendered"
        self.steps += 1
        return StepResult(Observation(None, np.zeros(8, np.float32), self.steps), False, self.steps == 2)

    def observe(self) -> None:
        pass

    def visible_objects(self) -> dict[str, Any]:
        return {"carrot": (0.25, 0.5, 0.1, 0.2, 0.3)}

    def run(self, function: object) -> dict[str, Any]:
        assert function is headings
        return {"carrot": (0.3, 3.1416)}


def test_a_still_shows_what_is_visible() -> None:
    order = next(o for o in (collecting.still_order(KINDS, seed) for seed in range(99)) if o.steps > 5)
    camera = Camera()
    seen = b"jpeg", {"carrot": [0.25, 0.5, 0.1, 0.2, 0.3]}, {"carrot": (0.3, 3.1416)}
    assert collecting.take(camera, order) == seen  # type: ignore[arg-type]
    assert camera.steps == 2, "a finished episode is not played on"


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(tmp_path: Path) -> None:
    train_cli.check_folder(tmp_path, resume=False)
    with pytest.raises(ValueError, match="no run to resume"):
        train_cli.check_folder(tmp_path, resume=True)
    (tmp_path / "state.pt").touch()
    train_cli.check_folder(tmp_path, resume=True)
    with pytest.raises(ValueError, match="add --resume"):
        train_cli.check_folder(tmp_path, resume=False)


def test_train_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import model.training.align
    import model.training.stage1

    seen: list[tuple[Any, ...]] = []
    for module in (model.training.align, model.training.stage1):
        monkeypatch.setattr(module, "run", lambda *paths, **options: seen.append((*paths, options)))
    out, data = str(tmp_path / "run"), str(tmp_path)
    run("train", "align", "--data", data, "--vision", data, "--out", out, "--steps", "7", "--seed", "3",
        "--aligned", data)  # fmt: skip
    run("train", "stage1", "--data", data, "--aligned", data, "--out", out, "--minutes", "5", "--freeze-language")
    assert seen == [
        (tmp_path, tmp_path, Path(out), {"minutes": None, "steps": 7, "seed": 3, "photos": None, "word_steps": 3000,
                                         "batch": 4, "aligned": tmp_path}),
        (tmp_path, tmp_path, Path(out), {"minutes": 5.0, "steps": 20_000, "seed": 0, "freeze_language": True,
                                             "without": None}),
    ]


def test_bench_figures() -> None:
    values = [float(value) for value in range(1, 101)]
    times = bench.summarise("time", "ms", values)
    rates = bench.summarise("rate", "1/s", values, slow_end=5)
    assert (times.median, times.samples) == (50.5, 100)
    assert times.p95 > 95 and rates.p95 < 6, "p95 is the slow end: long times, low rates"
    with pytest.raises(ValueError, match="nothing was measured"):
        bench.summarise("none", "ms", [])
    calls: list[int] = []
    assert len(bench.measure(lambda: calls.append(1), 3)) == 3
    assert len(calls) == 4, "the first call warms up"


def test_bench_writes_its_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "frame", "unit": "ms", "median": 50.0, "p95": 80.0, "samples": 20}
    result = {"model": "nano", "about": "a small model", "machine": bench.machine(), "rows": [row]}
    monkeypatch.setattr(bench, "bench", lambda load, model, times: result)
    text = run("bench", "--json", str(tmp_path / "new" / "bench.json"))
    assert "a small model" in text and "frame" in text
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == result
    assert result["machine"]["cores"] >= 1


def test_a_space_is_served_to_everybody_within_its_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from app import page

    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(page, "serve", lambda *given, settings, **_: served.append((*given, settings.behind_proxy)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    run("--model", "expert")
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    monkeypatch.setenv("INSTRUCTVLA_MODEL", "expert")
    run()
    assert served == [("expert", "0.0.0.0", port, 1, False), ("expert", "0.0.0.0", port, 1, True)]
