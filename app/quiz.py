"""`app.py quiz`: what a model answers about pictures that it has never seen, asked in words that it has never read."""

from __future__ import annotations

from pathlib import Path

import torch

from model import checkpoints
from model.config import folder_of
from model.data.photos import PhotoSet
from model.data.scenes import SceneDataset
from model.data.things import load_catalog
from model.instructvla import InstructVLA
from model.prompts import Prompter
from model.training.answering import gate_means, photo_scores, request_scores, scene_scores


def quizzed(model: str, photos: Path | None, scenes: Path | None, limit: int) -> dict[str, float]:
    """Scores by name: of photographs, of scenes as "scene ...", of requests where it acts, the gates of two experts."""
    loaded = checkpoints.load(folder_of(model))
    network, prompter = loaded.model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), loaded.prompter
    with torch.autocast(network.device.type, torch.bfloat16, enabled=network.autocast):
        return _asked(network, prompter, photos, scenes, limit, acts=loaded.statistics is not None)


def _asked(
    network: InstructVLA, prompter: Prompter, photos: Path | None, scenes: Path | None, limit: int, acts: bool
) -> dict[str, float]:
    scores = photo_scores(network, prompter, PhotoSet(photos, "test"), limit) if photos is not None else {}
    if scenes is None:
        return scores
    pictures, catalog = SceneDataset(scenes, "held_out"), load_catalog()
    told = scene_scores(network, prompter, pictures, catalog, "test", limit)
    scores |= {f"scene {name}": share for name, share in told.items()}
    if acts:
        scores |= request_scores(network, prompter, pictures, limit, "test")
    if network.decoder.experts > 1:
        scores |= gate_means(network, prompter, pictures, catalog, "test", limit)
    return scores
