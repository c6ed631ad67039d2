"""`app.py serve-model`: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from model.config import GENERALIST

Schedule = Annotated[
    str | None,
    typer.Option(
        help="Steps between renewals. Ours: think_every=20,execute=8; released models: think_every=20,latent_every=1,"
        "thought_tokens=50. Name what you change.",
    ),
]


def serve_model(
    model: Annotated[
        str, typer.Option(help="`generalist`, `nano`, a checkpoint folder, or the hub id of a released run.")
    ] = GENERALIST,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the model, at least.")] = 1,
    most: Annotated[int | None, typer.Option(min=1, help="Copies at most; more come and go with the load.")] = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts per copy before another one is started.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Rollouts that share a forward pass.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per copy; a fraction shares one.")] = 0.0,
    schedule: Schedule = None,
    ray: Annotated[str, typer.Option(help="The Ray cluster, as HOST:PORT; `local` starts one here.")] = "local",
) -> None:
    """Put a model behind HTTP, on Ray Serve: `--model http://HOST:PORT` uses it from other machines."""
    from app.cli import check_learned, check_port

    check_learned(model)
    if model.startswith(("http://", "https://")):
        raise ValueError("This model is served already: name one that is on this machine.")
    check_port(host, port)
    from app.remote import schedule_of
    from app.replicas import serve_model as serve_replicas

    serve_replicas(
        model, host, port, replicas=replicas, most=most, rollouts=rollouts, batch=batch, gpus=gpus, cluster=ray,
        schedule=schedule_of(schedule),
    )  # fmt: skip
