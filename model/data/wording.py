"""The sentences of `phrases.yaml` and `needs.yaml`, each list cut into train, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from model.data.splits import Split, divide

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Need:
    """A situation: the ids of the objects that serve, of those that might, and sentences that tell it."""

    serves: tuple[str, ...]
    might: tuple[str, ...]
    says: tuple[str, ...]


@cache
def phrases() -> dict[str, Any]:
    """All of `phrases.yaml`."""
    import yaml

    loaded: dict[str, Any] = yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def needs() -> tuple[Need, ...]:
    """All of `needs.yaml`."""
    import yaml

    entries = yaml.safe_load((HERE / "needs.yaml").read_text(encoding="utf-8"))
    return tuple(Need(tuple(e["serves"]), tuple(e.get("might", ())), tuple(e["says"])) for e in entries)


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
    """The sentences of one split at a place of `phrases.yaml`, e.g. sentences("test", "command", "pick")."""
    node: Any = phrases()
    for key in place:
        node = node[key]
    where = divide(" ".join(place), node, phrases()["trained"]["sentences"])
    return tuple(sentence for sentence in node if where[sentence] == split)


@cache
def needs_of(split: Split) -> tuple[Need, ...]:
    """The situations in the sentences of one split."""
    kept = []
    for need in needs():
        where = divide(f"need {need.says[0]}", need.says)
        kept.append(replace(need, says=tuple(sentence for sentence in need.says if where[sentence] == split)))
    return tuple(kept)


def divide_uses(uses: Iterable[str]) -> dict[str, Split]:
    """Split of the uses that things have, such as "stirring"."""
    return divide("use", uses, phrases()["trained"]["uses"])
