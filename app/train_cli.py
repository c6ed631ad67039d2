"""`app.py train`: one command per training stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

train = typer.Typer(help="Train a stage; a run that was stopped goes on with --resume.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(file_okay=False, help="Folder of the run; the best weights go to OUT/checkpoint.")]
Photos = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Photographs to ask about too: labels.jsonl, pictures."),
]
Minutes = Annotated[float | None, typer.Option(min=0.0, help="Stop after this much training time.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps; the learning rate's schedule ends there.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes order, noise and dropout.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in OUT.")]


@train.command()
def align(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Still pictures from `collect --scenes`.")],
    vision: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="DINOv2-S in Hugging Face's layout, or a checkpoint whose eyes to take."
        ),
    ],
    out: Out,
    photos: Photos = None,
    aligned: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Aligned checkpoint to go on from, words and all.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps after the words; 0: words alone.")] = 3000,
    word_steps: Annotated[
        int, typer.Option(min=1, help="Steps before that, in which the connector learns words.")
    ] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per step and process.")] = 4,
    minutes: Minutes = None,
    seed: Seed = 0,
    resume: Resume = False,
) -> None:
    """Teach DINOv2 and SmolLM2 to answer about scenes and photographs: connector, vision tail and one LoRA."""
    from model.training.align import run

    check_folder(out, resume)
    run(
        data, vision, out, photos=photos, aligned=aligned, minutes=minutes, steps=steps, word_steps=word_steps,
        batch=batch, seed=seed,
    )  # fmt: skip


@train.command()
def closeup(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Still pictures from `collect --scenes`.")],
    episodes: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Episodes from `collect`.")],
    acting: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A checkpoint that acts.")],
    out: Out,
    steps: Steps = 3000,
    minutes: Minutes = None,
    seed: Seed = 0,
    resume: Resume = False,
) -> None:
    """Teach the action expert to see where exactly things are and how they lie, and to turn its hand by it."""
    from model.training.closeup import run

    check_folder(out if (out / "state.pt").exists() else out / "seeing", resume)
    run(data, episodes, acting, out, steps=steps, seed=seed, minutes=minutes)


@train.command()
def stage1(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Episodes from `collect`.")],
    aligned: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="What `train align` left, or a model that goes on.")
    ],
    out: Out,
    steps: Steps = 20_000,
    minutes: Minutes = None,
    seed: Seed = 0,
    freeze_language: Annotated[bool, typer.Option("--freeze-language", help="Train the action expert alone.")] = False,
    without: Annotated[
        Literal["film", "second-look", "language-motion"] | None, typer.Option(help="Ablation: leave this part out.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Action pre-training: language loss, flow matching and pointing, from the aligned model."""
    from model.training.stage1 import run

    check_folder(out, resume)
    run(data, aligned, out, minutes=minutes, steps=steps, seed=seed, freeze_language=freeze_language, without=without)


@train.command()
def stage2(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Episodes, annotated by `collect`.")],
    scenes: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Still pictures to ask about.")],
    acting: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Checkpoint that `train stage1` left; or a generalist, which goes on, its own example.",
        ),
    ],
    out: Out,
    aligned: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Checkpoint whose LoRA becomes the language expert's, or a generalist that is trained further.",
        ),
    ] = None,
    photos: Photos = None,
    recipe: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Another stage2.yaml.")] = None,
    without: Annotated[
        Literal["experts", "descriptions", "frozen-backbone"] | None,
        typer.Option(help="Ablation: one LoRA for both, no questions and captions, or full fine-tuning."),
    ] = None,
    steps: Steps = 4000,
    minutes: Minutes = None,
    seed: Seed = 0,
    resume: Resume = False,
) -> None:
    """Instruction tuning: two experts and their gates learn free-form requests, and to answer as before."""
    from model.training.stage2 import RECIPE, run

    check_folder(out, resume)
    run(
        data, scenes, acting, aligned, out, photos=photos, minutes=minutes, steps=steps, seed=seed,
        recipe=recipe or RECIPE, without=without,
    )  # fmt: skip


def check_folder(out: Path, resume: bool) -> None:
    """A run neither overwrites another nor resumes nothing; raises `ValueError` that says which option to change."""
    started = (out / "state.pt").exists()
    if started and not resume:
        raise ValueError(f"{out} holds a run already: add --resume to go on with it, or choose another --out.")
    if resume and not started:
        raise ValueError(f"{out} holds no run to resume: leave --resume away, or correct --out.")
