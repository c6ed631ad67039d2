"""Commands of `app.py`. Everything heavy is imported inside the command that needs it, so that `--help` is instant."""

from __future__ import annotations

import json
import logging
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.train_cli import train

if TYPE_CHECKING:
    from model.engine import Engine

cli = typer.Typer(
    help="InstructVLA: type an instruction, watch the model reason and move a simulated robot.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli.add_typer(train, name="train")

Model = Annotated[str, typer.Option(help="`nano`, a checkpoint folder, or `expert` (scripted, sees the state).")]
Workers = Annotated[int, typer.Option(min=1, help="Simulator processes.")]
JsonFile = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write the result here.")]


@cli.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    model: Model = "nano",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 7860,
    workers: Workers = 1,
) -> None:
    """Serve the page (when no command is given)."""
    if context.invoked_subcommand is not None:
        return
    check_model(model)
    check_port(host, port)
    from app.page import serve as serve_page

    print(f"The page: http://{host}:{port}   (Ctrl+C ends it)", flush=True)
    serve_page(model, host, port, workers)


@cli.command()
def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Only get the language backbone's weights.")] = False,
) -> None:
    """Say what works on this machine, and which command mends the rest. Exit status 1: the page cannot start."""
    if fetch:
        from model.checkpoints import base_weights

        try:
            print(f"base weights: {base_weights()}")
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        return
    from app.doctor import report

    raise typer.Exit(report())


@cli.command()
def evaluate(
    suite: Annotated[str, typer.Option(help="Name of a suite in assets/suites, or the path of a .yaml file.")],
    model: Model = "nano",
    think: Annotated[bool, typer.Option("--think/--no-think", help="Write a thought before planning.")] = True,
    episodes: Annotated[int | None, typer.Option(min=1, help="Seeds per task; default: the suite's.")] = None,
    workers: Workers = 2,
    file: JsonFile = None,
) -> None:
    """Play a suite and report success per task with 95 % Wilson intervals. With --json a stopped run goes on."""
    check_model(model)
    from sim.evaluate import evaluate as play
    from sim.suite import load_suite

    tasks = load_suite(suite)
    if model == "expert":
        report = play(tasks, "expert", "expert", episodes=episodes, workers=workers, json_path=file)
    else:
        from app.pilots import fingerprint

        engine = load(model)
        name = f"{model} ({fingerprint(model)}), {'thinking' if think else 'not thinking'}"
        report = play(tasks, lambda: engine.policy(think), name, episodes=episodes, workers=workers, json_path=file)
    print(f"\n{report.model} on {report.suite}\n{'task':<24}{'success':>10}{'95 % interval':>18}{'steps':>8}{'Hz':>8}")
    for task in report.tasks:
        interval = f"{task.wilson_low:.0%} - {task.wilson_high:.0%}"
        count = f"{task.successes}/{task.episodes}"
        print(f"{task.name:<24}{count:>10}{interval:>18}{task.mean_steps:>8.1f}{task.control_hz:>8.1f}")
    print(f"{'mean success':<24}{report.mean_success:>10.1%}")


@cli.command()
def collect(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the set; one that exists is continued.")],
    episodes: Annotated[int, typer.Option(min=0, help="Demonstrations to record, one per scene seed.")] = 0,
    scenes: Annotated[int, typer.Option(min=0, help="Still pictures to take instead, for `train align`.")] = 0,
    kinds: Annotated[str, typer.Option(help="Task families, as `pick,stack`.")] = "all",
    workers: Workers = 2,
    seed_start: Annotated[int, typer.Option(min=0, help="First scene seed.")] = 0,
    render: Annotated[bool, typer.Option("--render/--states-only", help="Store frames, missing ones too.")] = True,
    driver: Annotated[str | None, typer.Option(help="Model that begins each episode; the expert corrects.")] = None,
    lerobot: Annotated[Path | None, typer.Option(help="Then write the set here as a LeRobotDataset v3.")] = None,
) -> None:
    """Record the scripted expert (with disturbances and recoveries), or take still pictures of scenes."""
    from app.collecting import collect_episodes, collect_scenes, parse_kinds, render_missing

    families = parse_kinds(kinds)
    if scenes and episodes:
        raise ValueError("Give either --episodes or --scenes: the two sets live in folders of their own.")
    if scenes:
        print(f"{collect_scenes(out, families, scenes, seed_start, workers)} new pictures in {out}")
        return
    if episodes:
        policy = None
        if driver is not None:
            if not render:
                raise ValueError("A driver looks at pictures: leave out --states-only.")
            check_learned(driver)
            engine = load(driver)
            policy = partial(engine.policy, False)
        tally = collect_episodes(out, families, episodes, seed_start, workers, render, policy)
        print(f"{tally.recorded} recorded, {len(tally.failed)} dropped (the expert failed), {len(tally.errors)} errors")
    if render:
        print(f"{render_missing(out, workers)} episodes rendered afterwards")
    if lerobot is not None:
        from model.data.lerobot import export_lerobot

        export_lerobot(out, lerobot)
        print(f"{out} exported to {lerobot}")


@cli.command()
def bench(
    model: Annotated[str, typer.Option(help="`nano` or a checkpoint folder.")] = "nano",
    times: Annotated[int, typer.Option(min=2, help="Measurements per figure.")] = 20,
    file: JsonFile = None,
) -> None:
    """Measure every part and the whole control loop, each as median and p95."""
    check_learned(model)
    from app.bench import bench as measure

    result = measure(lambda: load(model), model, times)
    print(f"{result['about']}\n{json.dumps(result['machine'])}\n")
    print(f"{'':<42}{'median':>10}{'p95':>10}")
    for row in result["rows"]:
        print(f"{row['name']:<42}{row['median']:>10.2f}{row['p95']:>10.2f} {row['unit']}")
    write_json(file, result)


@cli.command()
def ask(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JPEG, PNG, WebP, GIF or BMP.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[str, typer.Option(help="`nano` or a checkpoint folder.")] = "nano",
) -> None:
    """Ask the model about a picture; the answer streams to standard output."""
    from app.pictures import open_picture

    picture = open_picture(image)
    check_learned(model)
    for piece in load(model).ask(picture, question):
        print(piece, end="", flush=True)
    print()


def check_model(name: str) -> None:
    """Raise `ValueError` for a model that cannot exist, before anything slow is imported."""
    if name not in ("nano", "expert") and not Path(name).is_dir():
        raise ValueError(f"There is no model {name!r}: choose nano, expert, or the folder of a checkpoint.")


def check_port(host: str, port: int) -> None:
    """Raise `OSError` in one sentence where the page could not listen."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"Cannot listen on {host}:{port} ({reason}): try another --port or --host.") from None


def check_learned(name: str) -> None:
    """As `check_model`, and the scripted expert does not count: it answers nothing and has no weights."""
    check_model(name)
    if name == "expert":
        raise ValueError("The scripted expert is no model; choose nano or the folder of a checkpoint.")


def load(name: str) -> Engine:
    """A ready engine. Raises `ValueError` in one sentence where the model cannot be loaded."""
    from model.engine import Engine

    logging.getLogger("model.engine").disabled = True  # it logs a traceback; the sentence below says it all
    try:
        return Engine(name).wait()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def write_json(file: Path | None, result: object) -> None:
    """Write a result where `--json FILE` was given."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nwritten to {file}")


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit status 2."""
    try:
        cli(prog_name="app.py")
    except Exception as error:
        from sim.worker import WorkerError

        if not isinstance(error, (ValueError, OSError, WorkerError)):
            raise
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
