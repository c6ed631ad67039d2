"""Visual words: before the first sentence, the connector learns to say what each cell of a picture shows.

Each image token is drawn towards the decoder's own input embeddings of the words for what lies in its cell, among all
words that name something. A decoder that has never seen a picture can then read one from the first step of alignment,
and no step of this costs a decoder pass. The vision tower stays as it is, so its features are computed once and
remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from model.config import VisionConfig
from model.data.photos import PhotoSet
from model.data.scenes import SceneDataset
from model.data.things import Catalog, Thing
from model.instructvla import InstructVLA
from model.training.trainer import Group, ShuffledOrder, TrainingConfig, in_processes, spare_processes, train
from model.vision import pixel_shuffle, preprocess

LEARNING_RATE, BATCH = 1e-3, 64
SHARPNESS = 20.0
"""Factor of the cosine between a token and a word before the softmax over words."""
BACKGROUND, BACKGROUND_WEIGHT = "table", 0.05
"""What a scene's cell without an object shows, and how much that counts beside an object's cell."""
LENGTH_WEIGHT = 0.1
"""How firmly tokens are kept as long as a word's embedding."""
HELD_OUT = 256


@dataclass(frozen=True)
class Labelled:
    """A picture and what it shows: phrases by cell of the decoder's image tokens, or (`cells` None) in all of them."""

    picture: Callable[[], NDArray[np.uint8]]
    phrases: tuple[str, ...] = ()
    cells: dict[int, tuple[str, ...]] | None = None


def labelled_scenes(scenes: SceneDataset, catalog: Catalog, vision: VisionConfig) -> list[Labelled]:
    """Rendered scenes, by the image positions of the objects in them."""
    rows, columns = (size // vision.shuffle for size in vision.grid)
    found = []
    for index in range(len(scenes)):
        cells: dict[int, tuple[str, ...]] = {}
        for name, (u, v, *_) in scenes[index].visible.items():
            if name in catalog and 0 < u < 1 and 0 < v < 1:
                cell = int(v * rows) * columns + int(u * columns)
                cells[cell] = (*cells.get(cell, ()), *_words(catalog[name]))
        found.append(Labelled(partial(scenes.frame, index), cells=cells))
    return found


def labelled_photos(photos: PhotoSet) -> list[Labelled]:
    """Photographs of one thing each."""
    found = []
    for index, photo in enumerate(photos.photos):
        if not photo.scene:
            phrases = (*photo.labels, photo.category)
            found.append(Labelled(partial(photos.image, index), phrases))
    return found


class Vocabulary:
    """The decoder's tokens of some phrases, and their embeddings."""

    def __init__(self, tokenizer: Tokenizer, phrases: Iterable[str], embedding: Tensor) -> None:
        """`embedding` (V, D) is the decoder's."""
        self._tokenizer = tokenizer
        ids = sorted({token for phrase in (*phrases, BACKGROUND) for token in self._ids(phrase)})
        self._place = {token: index for index, token in enumerate(ids)}
        words = embedding[ids].float()
        self.directions, self.length = F.normalize(words, dim=-1), words.norm(dim=-1).mean()

    def target(self, phrases: Sequence[str]) -> Tensor:
        """(W,) the share of every token in some phrases."""
        share = torch.zeros(len(self._place))
        for phrase in phrases:
            for token in self._ids(phrase):
                share[self._place[token]] += 1
        return share / share.sum()

    def _ids(self, phrase: str) -> list[int]:
        return self._tokenizer.encode(f" {phrase}", add_special_tokens=False).ids


class WordData:
    """Turns labelled pictures into batches by the step alone; features are computed at the first visit."""

    def __init__(self, model: InstructVLA, vocabulary: Vocabulary, pictures: Sequence[Labelled], seed: int) -> None:
        self._model, self._vocabulary, self._pictures = model, vocabulary, pictures
        self._order = ShuffledOrder(len(pictures), BATCH, seed)
        self._features: dict[int, Tensor] = {}

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `batch`."""
        return self.batch([int(index) for index in self._order(step)])

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Folded features (B, M, F), word targets (B, M, W) and weights (B, M)."""
        self.look(chosen)
        features = torch.stack([self._features[index].float() for index in chosen])
        told = [self._told(self._pictures[index]) for index in chosen]
        return features, torch.stack([target for target, _ in told]), torch.stack([weight for _, weight in told])

    @torch.no_grad()
    def look(self, chosen: Sequence[int]) -> None:
        """Compute the features of pictures that have not been visited yet."""
        vision, tower = self._model.config.vision, self._model.vision
        new = [index for index in chosen if index not in self._features]
        shown = in_processes(self._shown, new, spare_processes() if len(new) > BATCH else 0)
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            pixels = torch.stack(list(islice(shown, len(some))))
            seen = tower.tail(tower.trunk(pixels.to(self._model.device)))
            folded = pixel_shuffle(seen, vision.grid, vision.shuffle)
            self._features |= dict(zip(some, folded.half().cpu(), strict=True))

    def _shown(self, index: int) -> Tensor:
        return preprocess(self._pictures[index].picture(), self._model.config.vision)

    def _told(self, picture: Labelled) -> tuple[Tensor, Tensor]:
        cells = self._model.config.vision.tokens
        if picture.cells is None:
            return self._vocabulary.target(picture.phrases).expand(cells, -1), torch.full((cells,), 1 / cells)
        target = self._vocabulary.target((BACKGROUND,)).repeat(cells, 1)
        weight = torch.full((cells,), BACKGROUND_WEIGHT)
        for cell, phrases in picture.cells.items():
            target[cell], weight[cell] = self._vocabulary.target(phrases), 1.0
        return target, weight


def losses(model: InstructVLA, vocabulary: Vocabulary, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of the cells' words; `right` is the share of told cells whose likeliest word is one of theirs."""
    features, target, weight = (part.to(model.device) for part in batch)
    tokens = model.connector(features).float()
    directions, length = vocabulary.directions.to(tokens.device), vocabulary.length.to(tokens.device)
    logits = SHARPNESS * F.normalize(tokens, dim=-1) @ directions.T
    entropy = -(target * logits.log_softmax(-1)).sum(-1)
    words = (entropy * weight).sum() / weight.sum()
    stretched = (tokens.norm(dim=-1) / length - 1).square().mean()
    told = weight != BACKGROUND_WEIGHT
    best = target.gather(-1, logits.argmax(-1, keepdim=True))[..., 0] > 0
    right = (best & told).sum() / told.sum().clamp_min(1)
    return {"loss": words + LENGTH_WEIGHT * stretched, "words": words, "length": stretched, "right": right}


def teach(
    model: InstructVLA,
    tokenizer: Tokenizer,
    pictures: Sequence[Labelled],
    tests: Sequence[Labelled],
    folder: Path,
    steps: int,
    seed: int,
) -> None:
    """Train the connector of `model`; a run in `folder` goes on, one that is over is only read back."""
    every = [*pictures, *tests]
    phrases = {p for one in every for p in one.phrases}
    phrases |= {p for one in every for told in (one.cells or {}).values() for p in told}
    vocabulary = Vocabulary(tokenizer, sorted(phrases), model.decoder.embedding.weight.detach().cpu())
    data, held_out = WordData(model, vocabulary, pictures, seed), WordData(model, vocabulary, tests, seed)
    if spare_processes():
        data.look(range(len(pictures)))
    chosen = range(0, len(tests), max(1, len(tests) // HELD_OUT))
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    config = TrainingConfig(
        folder, steps, seed=seed, warmup=20, schedule="cosine", evaluate_every=250, save_every=500,
        best=("words", "min"), log_every=20,
    )  # fmt: skip
    train(
        model,
        [Group(list(model.connector.parameters()), LEARNING_RATE)],
        data,
        lambda batch: losses(model, vocabulary, batch),
        config,
        lambda: {name: float(value) for name, value in losses(model, vocabulary, held_out.batch(chosen)).items()},
    )


def _words(thing: Thing) -> tuple[str, ...]:
    return (thing.name, thing.category, *thing.colours[:1])
