"""The sentences of `phrases.yaml` and `needs.yaml`, each list cut into train, validation and test.

Training has those of `paraphrases*.yaml` as well, which leave the other two splits as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from model.data.splits import TRAIN, Split, divide

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Need:
    """A situation: the ids of the objects that serve, of those that might, and sentences that tell it."""

    serves: tuple[str, ...]
    might: tuple[str, ...]
    says: tuple[str, ...]


def _read(name: str) -> Any:
    import yaml

    return yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def phrases() -> dict[str, Any]:
    """All of `phrases.yaml`."""
    loaded: dict[str, Any] = _read("phrases")
    return loaded


@cache
def paraphrases() -> dict[str, Any]:
    """Further sentences by the places of `phrases.yaml`, for training alone."""
    loaded: dict[str, Any] = _read("paraphrases") | _read("paraphrases_questions") | _read("paraphrases_languages")
    return loaded


@cache
def needs() -> tuple[Need, ...]:
    """All of `needs.yaml`."""
    return _needs("needs")


@cache
def further_needs() -> tuple[Need, ...]:
    """Further situations, and further sentences for those of `needs`, for training alone."""
    return _needs("paraphrases_needs")


def _needs(name: str) -> tuple[Need, ...]:
    return tuple(Need(tuple(e["serves"]), tuple(e.get("might", ())), tuple(e["says"])) for e in _read(name))


@cache
def further_words() -> dict[str, dict[str, list[str]]]:
    """Further uses ("use") and names ("synonyms") of objects by their id, for training alone."""
    loaded: dict[str, dict[str, list[str]]] = _read("paraphrases_objects")
    return loaded


def lists() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every list of sentences that is divided, with the name of its place, e.g. "command pick"."""
    for need in needs():
        yield f"need {need.says[0]}", need.says
    yield from _lists("", {k: v for k, v in phrases().items() if k not in ("drawer_names", "trained")})


def _lists(name: str, node: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _lists(f"{name} {key}".strip(), child)
    else:
        yield name, tuple(node)


@cache
def sentences(split: Split, *place: str) -> tuple[str, ...]:
    """The sentences of one split at a place of `phrases.yaml`, e.g. sentences("test", "command", "pick").

    Those of training are followed by the paraphrases.
    """
    node, further = phrases(), paraphrases()
    for key in place:
        node, further = node[key], further.get(key, {})
    where = divide(" ".join(place), node, phrases()["trained"]["sentences"])
    divided = tuple(sentence for sentence in node if where[sentence] == split)
    return (*divided, *further) if split == TRAIN else divided


@cache
def needs_of(split: Split) -> tuple[Need, ...]:
    """The situations in the sentences of one split."""
    kept = []
    for need in needs():
        where = divide(f"need {need.says[0]}", need.says)
        kept.append(replace(need, says=tuple(sentence for sentence in need.says if where[sentence] == split)))
    return (*kept, *further_needs()) if split == TRAIN else tuple(kept)


def divide_uses(uses: Iterable[str]) -> dict[str, Split]:
    """Split of the uses that things have, such as "stirring"."""
    return divide("use", uses, phrases()["trained"]["uses"])
