"""Annotations on disk in the layout of the public VLA-IT files (Yang et al., data release), written and read.

    {file: {episode: {"features": {"move_primitive": [one per step]},
                      "alt_instruction": {"Caption": str, "CR": [{"question", "answer"}], "CC": [...], "QA": [...]}}}}

An episode without a usable instruction has no `alt_instruction`. Files written here add two keys that a reader of
the public ones passes over: `split` of an episode, and `features.objects`, id -> (u, v) of what lies on the table.
There `file` is a shard of `model.data.episodes` and `episode` its row.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args

from model.data.phrases import Annotation, Grammar, Kind
from model.data.shards import replacing
from model.data.splits import Split

KINDS: tuple[Kind, ...] = get_args(Kind)
PER_KIND = 3
"""The public set has one caption and one to three of every other kind per episode."""
Key = tuple[str, str]
"""File and episode."""


@dataclass(frozen=True)
class EpisodeFacts:
    """What an annotator is told. `scene` as `model.data.phrases.Grammar.annotations` takes it."""

    scene: Mapping[str, Any]
    instruction: str
    split: Split
    frames: tuple[bytes, ...] = ()
    """JPEGs of the first, a middle and the last step; the grammar needs none."""


class EpisodeAnnotator(Protocol):
    """Writes the annotations of an episode: the grammar, or a language model behind an address."""

    def annotate(self, facts: EpisodeFacts) -> list[Annotation]:
        """The same facts get the same annotations, as far as the writer can promise that."""


class GrammarAnnotator:
    """The grammar as an annotator; draws come from the scene's seed."""

    def __init__(self, per_kind: int = PER_KIND) -> None:
        self._grammar, self._per_kind = Grammar(), per_kind

    def annotate(self, facts: EpisodeFacts) -> list[Annotation]:
        """See `EpisodeAnnotator.annotate`."""
        draw = random.Random(f"annotations {facts.scene['seed']}")
        return self._grammar.annotations(facts.scene, facts.split, draw, self._per_kind)


@dataclass(frozen=True)
class AnnotatedEpisode:
    """One episode's annotations. `split` and `objects` are None and empty in public files."""

    annotations: tuple[Annotation, ...]
    move_primitive: tuple[str, ...] = ()
    """Language motion, one per step."""
    split: Split | None = None
    objects: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Annotation]:
        """The annotations of one kind."""
        return [annotation for annotation in self.annotations if annotation.kind == kind]


def write_vla_it(path: str | Path, episodes: Mapping[Key, AnnotatedEpisode]) -> None:
    """Write a file in one move."""
    path = Path(path)
    content: dict[str, dict[str, Any]] = {}
    for (file, episode), annotated in episodes.items():
        content.setdefault(file, {})[episode] = to_entry(annotated)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_vla_it(path: str | Path) -> dict[Key, AnnotatedEpisode]:
    """Read a file, ours or a public one; episodes without annotations are left out.

    Raises ValueError that names the file and the episode which does not have the layout.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as VLA-IT annotations ({error}); check the path.") from None
    found: dict[Key, AnnotatedEpisode] = {}
    try:
        for file, episodes in content.items():
            for episode, entry in episodes.items():
                key = (str(file), str(episode))
                if entry.get("alt_instruction"):
                    found[key] = from_entry(entry)
    except (AttributeError, KeyError, TypeError) as error:
        place = f", episode {key[1]} of {key[0]}" if "key" in locals() else ""
        raise ValueError(f"{path}{place}: is not in the VLA-IT layout ({type(error).__name__}: {error}).") from None
    return found


def to_entry(annotated: AnnotatedEpisode) -> dict[str, Any]:
    """One episode as it stands in a file."""
    told: dict[str, Any] = {kind: _pairs(annotated.of(kind)) for kind in KINDS if kind != "Caption"}
    captions = annotated.of("Caption")
    if captions:
        told["Caption"] = captions[0].answer
    features: dict[str, Any] = {"move_primitive": list(annotated.move_primitive)}
    entry: dict[str, Any] = {"features": features, "alt_instruction": told}
    if annotated.objects:
        features["objects"] = {name: [round(float(x), 4) for x in place] for name, place in annotated.objects.items()}
    if annotated.split is not None:
        entry["split"] = annotated.split
    return entry


def from_entry(entry: Mapping[str, Any]) -> AnnotatedEpisode:
    """The inverse of `to_entry`; a caption has no question in a file."""
    told, features = entry["alt_instruction"], entry.get("features") or {}
    annotations = [Annotation("Caption", "", str(told["Caption"]))] if told.get("Caption") else []
    for kind in KINDS:
        if kind != "Caption":
            annotations += [Annotation(kind, str(p["question"]), str(p["answer"])) for p in told.get(kind) or ()]
    motion, objects = tuple(features.get("move_primitive") or ()), features.get("objects") or {}
    return AnnotatedEpisode(tuple(annotations), motion, entry.get("split"), objects)


def _pairs(annotations: Iterable[Annotation]) -> list[dict[str, str]]:
    return [{"question": annotation.question, "answer": annotation.answer} for annotation in annotations]
