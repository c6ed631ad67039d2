"""`app.py ask`, `quiz` and `evaluate --suite vqa`: questions about pictures, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.config import GENERALIST


def ask(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JPEG, PNG, WebP, GIF or BMP.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[str, typer.Option(help="As for `evaluate`.")] = GENERALIST,
    also: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="A further picture; released models take four in all."),
    ] = None,
) -> None:
    """Ask the model about a picture; the answer streams to standard output."""
    from app.cli import check_learned, load
    from app.pictures import open_picture

    pictures = [open_picture(path) for path in (image, *(also or []))]
    check_learned(model)
    for piece in load(model).ask(pictures, question):
        print(piece, end="", flush=True)
    print()


def quiz(
    photos: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder with labels.jsonl and pictures.")
    ] = None,
    scenes: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Still pictures from `collect --scenes`.")
    ] = None,
    model: Annotated[str, typer.Option(help="`generalist`, `nano` or a checkpoint folder.")] = GENERALIST,
    limit: Annotated[int, typer.Option(min=1, help="Pictures of each kind to ask about.")] = 300,
    file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write the result here.")] = None,
) -> None:
    """Ask about held-out photographs and scenes in words that were never trained on: exact match per kind of question.

    For photographs also the closed-set accuracy over the labels; for a model that acts, whether it replies rightly to
    requests about the scenes and points at what is meant; for one of two experts the gates' means.
    """
    from app.cli import check_learned, write_json

    if photos is None and scenes is None:
        raise ValueError("Name pictures to ask about: --photos FOLDER, --scenes FOLDER, or both.")
    check_learned(model)
    from app.quiz import quizzed

    scores = quizzed(model, photos, scenes, limit)
    for name, value in scores.items():
        print(f"{name:<28}{value:>10.0f}" if name.endswith("questions") else f"{name:<28}{value:>10.1%}")
    write_json(file, scores)


def is_question_set(suite: str) -> bool:
    """Whether a suite's name means questions instead of scenes."""
    return suite == "vqa" or suite.lower().endswith(".tsv")


def answer_questions(suite: str, model: str, brief: bool, limit: int | None, workers: int, file: Path | None) -> None:
    """Ask every question of a set and print its scores. Raises `ValueError` in one sentence."""
    from app.cli import check_learned, load
    from app.vqa import SHIPPED, answer_all, read_items, table

    check_learned(model)
    path = SHIPPED if suite == "vqa" else Path(suite)
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give a .tsv with questions, or `vqa` for the shipped set.")
    read_items(path)  # what is wrong with it should be said before a model is loaded
    engine = load(model)
    name = f"{model} ({engine.fingerprint()[:8]})"
    report = answer_all(engine, path, name, brief=brief, limit=limit, workers=workers, json_path=file)
    print("\n" + "\n".join(table(report)))
    if file is not None:
        print(f"\nwritten to {file}")
