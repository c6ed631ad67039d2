"""What a visitor may choose: families of tasks, scene numbers, words; and how often the model solved such scenes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from app.recording import Recording
from model.config import CHECKPOINTS
from sim.suite import EVALUATION_SEEDS
from sim.tasks import Kind, SceneSpec, Variation, instruction, sample_goal
from sim.twin_assets import WIDOWX, missing
from sim.twins import TWINS, Scene, TwinScene

ASSETS = Path(__file__).resolve().parents[1] / "assets"
EXAMPLES = ASSETS / "examples"
PICTURES = ASSETS / "pictures"

FAMILIES: dict[str, Kind] = {
    "Pick up": "pick",
    "Put on": "put_on",
    "Put in": "put_in",
    "Stack": "stack",
    "Move near": "near",
    "Open drawer": "open",
    "Close drawer": "close",
}
LOOKS: dict[str, Variation] = {"Light": "light", "Table top": "texture", "Camera": "camera"}
FREE_WORDS: dict[Kind, str] = {
    "put_in": "This goes to the rabbit. Have it waiting in the basket.",
    "near": "My torch is dead. Leave what it needs next to the red cube.",
    "open": "Make room for the cutlery, it goes into the topmost drawer.",
    "put_on": "把胡萝卜放到白色盘子上。",
    "pick": "Nimm den grünen Würfel.",
}
"""What somebody might say of each family's first scene; in Chinese: put the carrot on the white plate."""
LABELS: dict[str, str] = {kind: label for label, kind in FAMILIES.items()}
TEXT_LIMIT = 500
FIRST_SEED = EVALUATION_SEEDS.start
LAST_SEED = EVALUATION_SEEDS.stop - 1


def families() -> dict[str, str]:
    """What can be chosen here: our own families, and the official WidowX scenes whose assets are on this machine."""
    official = {f"SimplerEnv: {TWINS[name].instruction}": name for name in WIDOWX if not missing([name])}
    return FAMILIES | official


def spec(kind: str, seed: int, words: str | None = None, vary: Iterable[Variation] = ()) -> Scene:
    """The scene `seed` of a family, laid out as the evaluation does, so that the measured odds hold for it.

    They don't hold for what `vary` changes: "light", "texture" (of the table), "camera". Official scenes have few
    episodes, every further seed is one of them again, and always look the same.
    """
    if kind in TWINS:
        return TwinScene(twin=kind, seed=seed % TWINS[kind].episodes, instruction=words)
    distractors = 0 if kind in ("open", "close") else 1
    goal = sample_goal(cast(Kind, kind), seed)
    return SceneSpec(goal=goal, seed=seed, distractors=distractors, instruction=words, vary=frozenset(vary))


def template(kind: Kind, seed: int) -> str:
    """The scene's own instruction."""
    return instruction(sample_goal(kind, seed))


def shuffled_seed() -> int:
    """A scene number nobody trained on."""
    return random.randrange(FIRST_SEED, LAST_SEED + 1)


def words_problem(words: str | None) -> str | None:
    """What is wrong with an instruction, in one line; None when it can be run."""
    return _text_problem(words, "Type what the robot should do.")


def question_problem(question: str | None) -> str | None:
    """The same for a question."""
    return _text_problem(question, "Type a question about the picture.")


def _text_problem(text: str | None, wanted: str) -> str | None:
    text = (text or "").strip()
    if not text:
        return wanted
    if len(text) > TEXT_LIMIT:
        return f"Keep it to {TEXT_LIMIT} characters; this has {len(text):,}."
    if any("\ud800" <= character <= "\udfff" for character in text):  # half a character, which no file can hold
        return f"There are broken characters in this. {wanted}"
    if not any(character.isalnum() for character in text):
        return f"There is no word in this. {wanted}"
    return None


def seed_problem(seed: float | None) -> str | None:
    """What is wrong with a scene number, in one line; None when it exists."""
    if seed is None or seed != int(seed) or not 0 <= seed <= LAST_SEED:
        return f"A whole number from 0 to {LAST_SEED}."
    return None


def checkpoint_folder(model: str) -> Path:
    """Where a model's checkpoint, and what was measured with it, would be."""
    return CHECKPOINTS / model if (CHECKPOINTS / model).is_dir() else Path(model)


def odds(kind: str, model: str) -> str:
    """How often the model solved this family when it was measured, with its 95 % Wilson interval."""
    if model == "expert":
        return "The expert knows where everything is; its success says nothing about a model."
    label = LABELS.get(kind, "This official scene")
    try:
        report = json.loads((checkpoint_folder(model) / "evaluation.json").read_text(encoding="utf-8"))
        task = next(task for task in report["tasks"] if task["name"] == kind)
        low, high = 100 * task["wilson_low"], 100 * task["wilson_high"]
        measured = (
            f"{task['successes']} of {task['episodes']} unseen scenes (95 % interval {low:.0f}\u2013{high:.0f} %)"
        )
    except (OSError, ValueError, KeyError, StopIteration):
        return f"{label}: not measured yet for this model."
    return " ".join([f"{label}: solved {measured}.", *_free_odds(model)])


def _free_odds(model: str) -> list[str]:
    """The same, one sentence, for requests in other words than the scenes' own, where that was measured."""
    try:
        report = json.loads((checkpoint_folder(model) / "instruct-on.json").read_text(encoding="utf-8"))
        solved = sum(task["successes"] for task in report["tasks"])
        return [f"Of {report['episodes']} unseen requests in free words it solved {solved}."]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def examples() -> list[tuple[Kind, int, str]]:
    """One scene per family with its instruction, then some in free words, ready to click."""
    return [(kind, FIRST_SEED, template(kind, FIRST_SEED)) for kind in FAMILIES.values()] + free_examples()


def free_examples() -> list[tuple[Kind, int, str]]:
    """The same scenes, and what somebody might say about them."""
    return [(kind, FIRST_SEED, words) for kind, words in FREE_WORDS.items()]


def shipped_examples() -> list[Recording]:
    """Finished rollouts that come with the project; the page shows the first before anybody has pressed Run."""
    return [Recording(folder) for folder in sorted(EXAMPLES.glob("*")) if (folder / "rollout.mp4").is_file()]


def example_pictures() -> list[Path]:
    """Small pictures of scenes nobody trained on, to ask about."""
    return sorted(PICTURES.glob("*.jpg"))
