"""VLA-IT annotations of a recorded set: by the grammar, or by a vision model behind an address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from tqdm import tqdm

from app.endpoint import ChatEndpoint
from model.data.episodes import EpisodeDataset
from model.data.phrases import Annotation
from model.data.splits import scene_split
from model.data.vla_it import (
    KINDS,
    AnnotatedEpisode,
    EpisodeAnnotator,
    EpisodeFacts,
    Key,
    from_entry,
    read_vla_it,
    to_entry,
    write_vla_it,
)
from sim.tasks import SceneSpec
from sim.worker import TABLETOP, WorkerPool

FILE = "annotations.json"
REPLY_WORDS = 20
IMAGE_TOKENS, ANSWER_TOKENS, LETTERS_PER_TOKEN = 85, 350, 4
"""What a low-detail picture, an answer, and English text cost, roughly."""

PROMPT = """\
You watch a robot arm at a table and prepare training text for it. You get three frames of one demonstration (its start,
its middle, its end) and the instruction that the robot really followed. Trust the instruction over the pictures.
Write, in English unless a request is put in another language:
Caption: one sentence on what lies on the table in the first frame. Never mention the robot.
CR: requests that mean the same as the instruction but point at the objects by colour, shape, use, material or
place. Each description must fit one object only.
CC: a need, a situation, a request of two steps or one with an exception, from which the instruction follows. The
request must not name the object that it is about.
QA: questions about the first frame that have one short answer.
Answers of CR and CC are what the robot says before it moves: one sentence that begins with "I will", names one next
action and its objects in plain words, and has at most 20 words. Never chain actions, never repeat the request."""


def _brief(reply: str) -> str:
    if not 0 < len(reply.split()) <= REPLY_WORDS:
        raise ValueError(f"an answer has 1 to {REPLY_WORDS} words")
    return reply


class Pair(BaseModel):
    """A request or question with its answer."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1)
    answer: Annotated[str, AfterValidator(_brief)]


Pairs = Annotated[list[Pair], Field(min_length=1, max_length=3)]


class Answers(BaseModel):
    """What the vision model writes about one episode."""

    model_config = ConfigDict(extra="forbid")

    Caption: str = Field(min_length=1)
    CR: Pairs
    CC: Pairs
    QA: Pairs


class EndpointAnnotator:
    """A vision model as an annotator: three key frames and the true instruction in, JSON out."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint

    def annotate(self, facts: EpisodeFacts) -> list[Annotation]:
        """See `EpisodeAnnotator.annotate`. Raises EndpointError where the endpoint gives nothing usable."""
        answers = self._endpoint.complete(PROMPT, request(facts), Answers, facts.frames)
        told = [Annotation("Caption", "", answers.Caption)]
        for kind in KINDS:
            if kind != "Caption":
                told += [Annotation(kind, pair.question, pair.answer) for pair in getattr(answers, kind)]
        return told


def request(facts: EpisodeFacts) -> str:
    """What a vision model is told about an episode beside its frames."""
    return f"The instruction: {facts.instruction}"


@dataclass(frozen=True)
class Estimate:
    """About what an endpoint will charge for."""

    requests: int
    tokens_in: int
    tokens_out: int

    def cost(self, prices: tuple[float, float]) -> float:
        """Dollars at (in, out) dollars per million tokens."""
        return (self.tokens_in * prices[0] + self.tokens_out * prices[1]) / 1e6

    def __str__(self) -> str:
        return f"{self.requests:,} requests, about {self.tokens_in:,} tokens in and {self.tokens_out:,} out"


def estimate(episodes: int) -> Estimate:
    """The cost of annotating so many episodes at an endpoint."""
    schema = len(json.dumps(Answers.model_json_schema()))
    text = (len(PROMPT) + schema + len("The instruction: put the green pepper on the blue plate")) // LETTERS_PER_TOKEN
    return Estimate(episodes, episodes * (text + 3 * IMAGE_TOKENS), episodes * ANSWER_TOKENS)


def to_annotate(folder: Path) -> list[int]:
    """Episodes of a set that have no annotations yet, by index."""
    dataset = EpisodeDataset(folder)
    finished = _Journal(folder / FILE).finished
    return [index for index in range(len(dataset)) if dataset.key(index) not in finished]


def annotate(
    folder: Path, annotator: EpisodeAnnotator, workers: int, frames: bool = False, world: str = TABLETOP
) -> int:
    """Annotate the episodes of a set that lack it, into `annotations.json` beside them; returns how many are new.

    A stopped run goes on where it was: finished episodes are kept in a journal beside the file until all are done.
    `frames` gives the annotator three key frames. Raises ValueError where a set has no frames then.
    """
    dataset, journal = EpisodeDataset(folder), _Journal(folder / FILE)
    indices = [index for index in range(len(dataset)) if dataset.key(index) not in journal.finished]
    if not indices:
        return 0
    with (
        WorkerPool(min(workers, len(indices)), (32, 24), world=world) as pool,
        ThreadPoolExecutor(pool.size) as threads,
    ):

        def work(index: int) -> tuple[int, AnnotatedEpisode]:
            row = dataset[index]
            objects = pool.attempt(lambda worker: _objects(worker, row.scene))
            key_frames = (0, len(row) // 2, len(row) - 1) if frames else ()
            facts = EpisodeFacts(
                {**row.scene, "objects": objects},
                row.instruction,
                scene_split(row.scene),
                tuple(dataset.jpeg(index, step) for step in key_frames),
            )
            told = annotator.annotate(facts)
            return index, AnnotatedEpisode(tuple(told), tuple(row.language_motion), facts.split, objects)

        try:
            for index, annotated in tqdm(threads.map(work, indices), total=len(indices), unit="ep"):
                journal.add(dataset.key(index), annotated)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.close()
            raise
    journal.finish()
    return len(indices)


def _objects(worker: Any, scene: dict[str, Any]) -> dict[str, list[float]]:
    worker.reset(SceneSpec.model_validate(scene), render=False)
    return {name: [float(x) for x in place[:2]] for name, place in worker.visible_objects().items()}


class _Journal:
    """Annotations of an unfinished run, one episode a line."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, path.with_suffix(".jsonl")
        self.finished: dict[Key, AnnotatedEpisode] = read_vla_it(path) if path.exists() else {}
        self.finished |= dict(self._read())

    def _read(self) -> Iterator[tuple[Key, AnnotatedEpisode]]:
        lines = self._lines.read_text(encoding="utf-8").splitlines(keepends=True) if self._lines.exists() else []
        for line in lines:
            if line.endswith("\n"):  # a killed run may leave half a line
                file, episode, entry = json.loads(line)
                yield (file, episode), from_entry(entry)
        if lines and not lines[-1].endswith("\n"):
            self._lines.write_text("".join(lines[:-1]), encoding="utf-8")

    def add(self, key: Key, annotated: AnnotatedEpisode) -> None:
        self.finished[key] = annotated
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps([*key, to_entry(annotated)], ensure_ascii=False) + "\n")

    def finish(self) -> None:
        write_vla_it(self._path, self.finished)
        self._lines.unlink(missing_ok=True)
