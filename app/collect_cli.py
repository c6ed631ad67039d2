"""`app.py collect`: recording, drawing, annotating and looking at sets of episodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def collect(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the set; one that exists is continued.")],
    episodes: Annotated[int, typer.Option(min=0, help="Demonstrations to record, one per scene seed.")] = 0,
    scenes: Annotated[int, typer.Option(min=0, help="Still pictures to take instead, for `train align`.")] = 0,
    kinds: Annotated[str, typer.Option(help="Task families, as `pick,stack`.")] = "all",
    workers: Annotated[int, typer.Option(min=1, help="Simulator processes.")] = 2,
    seed_start: Annotated[int, typer.Option(min=0, help="First scene seed.")] = 0,
    render: Annotated[bool, typer.Option("--render/--states-only", help="Store frames, missing ones too.")] = True,
    driver: Annotated[str | None, typer.Option(help="Model that begins each episode; the expert corrects.")] = None,
    vary: Annotated[
        bool, typer.Option("--vary", help="Change light, table top and camera from scene to scene.")
    ] = False,
    lerobot: Annotated[Path | None, typer.Option(help="Then write the set here as a LeRobotDataset v3.")] = None,
    annotator: Annotated[
        str | None, typer.Option("--annotate", help="Then annotate it: `grammar`, or the address of a vision model.")
    ] = None,
    annotator_model: Annotated[str | None, typer.Option(help="The model's name at that address.")] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="Its dollars per million tokens in, out; for the estimate.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before an annotator that costs money.")] = False,
    preview: Annotated[Path | None, typer.Option(file_okay=False, help="Then write a page about it here.")] = None,
) -> None:
    """Record the scripted expert (with disturbances and recoveries), or take still pictures of scenes."""
    from app.cli import check_learned, load
    from app.collecting import collect_episodes, collect_scenes, parse_kinds, render_missing

    families = parse_kinds(kinds)
    if scenes and episodes:
        raise ValueError("Give either --episodes or --scenes: the two sets live in folders of their own.")
    if scenes:
        print(f"{collect_scenes(out, families, scenes, seed_start, workers, vary)} new pictures in {out}")
        return
    if episodes:
        policy = None
        if driver is not None:
            if not render:
                raise ValueError("A driver looks at pictures: leave out --states-only.")
            check_learned(driver)
            engine = load(driver)
            policy = partial(engine.policy, False)
        tally = collect_episodes(out, families, episodes, seed_start, workers, render, policy, vary)
        print(f"{tally.recorded} recorded, {len(tally.failed)} dropped (the expert failed), {len(tally.errors)} errors")
    if render:
        print(f"{render_missing(out, workers)} episodes rendered afterwards")
    if lerobot is not None:
        from model.data.lerobot import export_lerobot

        export_lerobot(out, lerobot)
        print(f"{out} exported to {lerobot}")
    if annotator is not None:
        annotate_set(out, annotator, annotator_model, price, yes, workers)
    if preview is not None:
        from app.preview import write_preview

        print(f"a page about {out}: {write_preview(out, preview)}")


def annotate_set(
    out: Path, annotator: str, model: str | None, price: tuple[float, float] | None, yes: bool, workers: int
) -> None:
    """Annotate a recorded set; says first what an endpoint will cost, and asks."""
    from app.annotating import EndpointAnnotator, annotate, estimate, to_annotate
    from app.endpoint import ChatEndpoint
    from model.data.vla_it import GrammarAnnotator

    if annotator == "grammar":
        new = annotate(out, GrammarAnnotator(), workers)
    else:
        if model is None:
            raise ValueError("Name the endpoint's model with --annotator-model.")
        endpoint = ChatEndpoint(annotator, model)
        bill = estimate(len(to_annotate(out)))
        print(bill, f"${bill.cost(price):.2f}" if price else "(give --price for dollars)", sep=": ")
        if bill.requests and not yes:
            typer.confirm("Go on?", abort=True)
        new = annotate(out, EndpointAnnotator(endpoint), workers, frames=True)
    print(f"{new} episodes annotated in {out}")
