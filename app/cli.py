"""Commands of `app.py`. Everything heavy is imported inside the command that needs it, so that `--help` is instant."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.ask_cli import answer_questions, ask, is_question_set, quiz
from app.collect_cli import collect
from app.serve_cli import Schedule, serve_model
from app.train_cli import train
from model.config import GENERALIST, folder_of, is_hub_id

if TYPE_CHECKING:
    from app.remote import RemoteEngine
    from model.engine import Changes, Engine
    from sim.interface import Policy

cli = typer.Typer(
    help="InstructVLA: type an instruction, watch the model reason and move a simulated robot.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli.add_typer(train, name="train")
for command in (collect, serve_model, ask, quiz):
    cli.command()(command)
assets = typer.Typer(help="Files that do not come with the project.", no_args_is_help=True)
cli.add_typer(assets, name="assets")

MODELS = (
    "`generalist`, `nano` (stage 1), a checkpoint folder (ours or a released run), the hub id of a released run, "
    "http://HOST:PORT of `serve-model`, or `expert` (scripted, sees the state)."
)
Model = Annotated[str, typer.Option(help=MODELS)]
Learned = Annotated[
    str,
    typer.Option(
        "--model",
        help="`generalist`, `nano` (stage 1), a checkpoint folder (ours or a released run), the hub id of one, or "
        "http://HOST:PORT of `serve-model`.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Simulator processes.")]
JsonFile = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write the result here.")]


@cli.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Option(help=MODELS, envvar="INSTRUCTVLA_MODEL")] = GENERALIST,
    against: Annotated[str | None, typer.Option(help="A second model to compare it with; named as --model.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="GRADIO_SERVER_NAME")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on.", envvar="GRADIO_SERVER_PORT")
    ] = 7860,
    workers: Workers = 1,
    settings: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Limits of a public page, as YAML; on a Hugging Face Space: space.yaml."
        ),
    ] = None,
    schedule: Schedule = None,
) -> None:
    """Serve the page (when no command is given)."""
    if context.invoked_subcommand is not None:
        return
    check_model(model)
    if against is not None:
        check_model(against)
        if against == model:
            raise ValueError("--against names another model than --model: thinking on and off are compared anyway.")
    check_port(host, port)
    from app.page import serve as serve_page
    from app.settings import Settings

    if settings is None and "SPACE_ID" in os.environ:  # set by Hugging Face, where visitors come through a proxy
        settings = Path(__file__).parents[1] / "space.yaml"
    limits = Settings() if settings is None else Settings.load(settings)
    changes = changes_of(model, schedule)
    print(f"The page: http://{host}:{port}   (Ctrl+C ends it)", flush=True)
    serve_page(model, host, port, workers, settings=limits, schedule=changes, against=against)


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


@assets.command()
def fetch(
    pack: Annotated[Literal["simpler"], typer.Argument(help="`simpler`: SimplerEnv's WidowX scenes, 83 MB.")],
) -> None:
    """Download official assets into ManiSkill's folder ($MS_ASSET_DIR, default ~/.maniskill). Asks nothing; resumes."""
    from sim.fetch import add_instruct_models
    from sim.fetch import fetch as get

    get()
    add_instruct_models()


@cli.command()
def evaluate(
    suite: Annotated[
        str, typer.Option(help="A suite in assets/suites, a .yaml file, `vqa` or a .tsv file (questions).")
    ],
    model: Model = GENERALIST,
    think: Annotated[Literal["on", "off"], typer.Option(help="Write a thought before planning.")] = "on",
    episodes: Annotated[int | None, typer.Option(min=1, help="Seeds per task; default: the suite's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Step limit; default: the suite's.")] = None,
    workers: Workers = 2,
    file: JsonFile = None,
    schedule: Schedule = None,
    ray: Annotated[
        str | None, typer.Option(help="Play on this Ray cluster, as HOST:PORT; `local` starts one here.")
    ] = None,
    failures: Annotated[Path | None, typer.Option(file_okay=False, help="Keep videos of failed episodes here.")] = None,
    oracle: Annotated[bool, typer.Option("--planner-oracle", help="Say each goal in its plainest words.")] = False,
    planner: Annotated[str | None, typer.Option("--planner-url", help="A vision model rewrites instructions.")] = None,
    planner_model: Annotated[str | None, typer.Option(help="That model's name at its address.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Questions: ask for short answers.")] = False,
) -> None:
    """Play a suite and report success per task with 95 % Wilson intervals. With --json a stopped run goes on.

    `--model random` acts without looking. Runs with the same seeds are put side by side by `compare`. A set of
    questions is scored by exact match, relaxed accuracy and ANLS; `--episodes` is then the number of questions.
    """
    if is_question_set(suite):
        if steps or ray or failures or oracle or planner:
            raise ValueError("A set of questions takes --model, --brief, --episodes, --workers and --json alone.")
        answer_questions(suite, model, brief, episodes, workers, file)
        return
    if model != "random":
        check_model(model)
    if model in ("random", "expert") and (oracle or planner):
        raise ValueError(f"The {model} policy reads no instruction: a planner needs a model that does.")
    if planner is not None and planner_model is None:
        raise ValueError("Name the planner's model with --planner-model.")
    from app.evaluating import failure_videos, print_report
    from sim.evaluate import evaluate as play
    from sim.suite import load_suite

    tasks, on_episode = load_suite(suite), failure_videos(failures) if failures is not None else None
    tasks.require_assets()
    if steps is not None:
        tasks = tasks.limited(steps)
    pool: dict[str, Any] = {}
    if ray is not None:
        from sim.cluster import RayPool, require_ray

        require_ray()
        pool = {"open_pool": partial(RayPool, address=ray)}
    make, name = contestant(model, think == "on", planner, planner_model, changes_of(model, schedule))
    if oracle:
        from app.baselines import told_the_truth

        tasks, name = told_the_truth(tasks), f"{name}, oracle planner"
    report = play(
        tasks, make, name, episodes=episodes, workers=workers, json_path=file, record=failures is not None,
        on_episode=on_episode, **pool,
    )  # fmt: skip
    limits = sorted({scene.limit for _, scene in tasks.scenes(1)})
    print_report(report, f"at most {' or '.join(map(str, limits))} steps, success: {report.success}")


def contestant(
    model: str, think: bool, planner: str | None, planner_model: str | None, schedule: Changes = ()
) -> tuple[Callable[[], Policy] | Literal["expert"], str]:
    """What plays, and its name in reports, which changes with the weights."""
    if model == "expert":
        return "expert", "expert"
    from app.baselines import Planner, RandomPolicy, planned

    if model == "random":
        return RandomPolicy, "random"
    from app.remote import policy_of

    name = f"{model} ({load(model, schedule).fingerprint()[:8]}), {'thinking' if think else 'not thinking'}"
    name += "".join(f", {change}={value}" for change, value in schedule)
    make = partial(policy_of, model, think, schedule)
    if planner is None:
        return make, name
    from app.endpoint import ChatEndpoint

    return planned(Planner(ChatEndpoint(planner, planner_model or "")), make), f"{name}, planner {planner_model}"


@cli.command()
def compare(
    reports: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Files of `evaluate --json`.")],
    table: Annotated[Path | None, typer.Option("--markdown", dir_okay=False, help="Write the tables here.")] = None,
    png: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the means here.")] = None,
) -> None:
    """Put evaluations side by side, each against the first, with McNemar's exact test on the episodes they share."""
    from sim.compare import markdown, plot
    from sim.evaluate import Report

    loaded = [Report.load(path) for path in reports]
    text = markdown(loaded)
    print(text)
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(text, encoding="utf-8")
    if png is not None:
        plot(loaded, png)


@cli.command()
def bench(
    model: Learned = GENERALIST,
    random_2b: Annotated[
        bool, typer.Option("--random-2b", help="Measure a released generalist's sizes, with random weights.")
    ] = False,
    stress: Annotated[
        bool, typer.Option("--stress", help="Instead: visitors, strange pictures and broken simulators on a real page.")
    ] = False,
    page: Annotated[bool, typer.Option("--page", help="Measure opening the page in Chromium instead.")] = False,
    times: Annotated[int, typer.Option(min=2, help="Measurements per figure.")] = 20,
    file: JsonFile = None,
) -> None:
    """Measure every part and the whole control loop, each as median and p95."""
    if stress:
        check_model(model)  # the scripted expert's page can be tried, too
        from app.bench_stress import stress as try_hard

        write_json(file, try_hard(model))
        return
    check_learned(model)
    if page:
        from app.bench_page import bench_page

        result = bench_page(times)
    else:
        from app.bench import bench as measure

        if random_2b:
            from app.bench_released import random_2b_run

            model = str(random_2b_run())
        result = measure(lambda: load(model, anew=True), model, times)
    print(f"{result['about']}\n{json.dumps(result['machine'])}\n")
    print(f"{'':<42}{'median':>10}{'p95':>10}")
    for row in result["rows"]:
        bar = f"   bar: {row['bar']}" if row.get("bar") else ""
        print(f"{row['name']:<42}{row['median']:>10.2f}{row['p95']:>10.2f} {row['unit']}{bar}")
    write_json(file, result)


def check_model(name: str) -> None:
    """Raise `ValueError` for a model that cannot exist, before anything slow is imported."""
    if name.startswith(("http://", "https://")):
        return
    if name != "expert" and not folder_of(name).is_dir() and not is_hub_id(name):
        raise ValueError(
            f"There is no model {name!r}: choose generalist, nano, expert, the folder of a checkpoint, or a hub id."
        )


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
        raise ValueError("The scripted expert is no model; choose generalist, nano or the folder of a checkpoint.")


def changes_of(model: str, schedule: str | None) -> Changes:
    """What `--schedule` asks for. Raises `ValueError` for a policy that has none, or where it is not written so."""
    from app.remote import schedule_of

    if schedule is not None and model in ("expert", "random"):
        raise ValueError(f"The {model} policy has no schedule: leave out --schedule.")
    return schedule_of(schedule)


def load(name: str, schedule: Changes = (), anew: bool = False) -> Engine | RemoteEngine:
    """A ready engine, the one that this process has or another one. `ValueError` in one sentence where it cannot be."""
    from app.remote import engine_of, shared_engine

    logging.getLogger("model.engine").disabled = True  # it logs a traceback; the sentence below says it all
    try:
        return engine_of(name, schedule).wait() if anew else shared_engine(name, schedule)
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
