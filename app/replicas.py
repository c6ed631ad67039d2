"""`app.py serve-model`: replicas of one model behind Ray Serve, more of them when more rollouts run."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from sim.cluster import HERE, join

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from model.engine import Changes

NAME = "model"
DRAIN_S = 600.0
"""How long a replica that is no longer needed may finish its rollouts."""
QUEUED = 32
QUIET = {"log_level": "WARNING", "enable_access_log": False}


def deploy(
    model: str,
    host: str,
    port: int,
    *,
    replicas: int = 1,
    most: int | None = None,
    rollouts: int = 4,
    batch: int = 1,
    gpus: float = 0.0,
    schedule: Changes = (),
    cluster: str = HERE,
) -> Any:
    """Start serving and return the `ray.serve` module once the first replicas have loaded the model.

    Args:
        model: what `model.engine.Engine` takes.
        host, port: where to listen.
        replicas: copies of the model, at least.
        most: copies at most; between the two, Ray Serve follows the number of rollouts (None: as many as `replicas`).
        rollouts: rollouts a copy should carry; it takes up to twice as many before the next ones wait.
        batch: rollouts of one copy that share a forward pass; 1 gives what a local model gives, to the bit.
        gpus: GPUs per copy, a fraction where copies share one.
        schedule: changes of when the model thinks and plans.
        cluster: address of a Ray cluster; "local" starts one on this machine.

    Raises:
        ValueError: Ray is missing, there is no such cluster, or the model cannot be loaded there.
    """
    ray = join(cluster)
    from ray import serve

    def build() -> Starlette:
        """Runs in each replica, once."""
        from app.model_server import application
        from model.engine import Engine

        return application(Engine(model, batch=batch, schedule=schedule).wait())

    scaling: dict[str, Any] = {"num_replicas": replicas}
    if most is not None and most > replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas,
                "max_replicas": most,
                "target_ongoing_requests": rollouts,
            }
        }
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        max_ongoing_requests=2 * rollouts,
        max_queued_requests=QUEUED,
        graceful_shutdown_timeout_s=DRAIN_S,
        logging_config=QUIET,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        **scaling,
    )
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
        serve.run(deployment.bind(), name=NAME, route_prefix="/")
    except (RuntimeError, ray.exceptions.RayError):
        reason = _reason(serve)
        withdraw(cluster)
        raise ValueError(f"{model} could not be served: {reason}") from None
    return serve


def withdraw(cluster: str = HERE) -> None:
    """Stop serving and leave the cluster; one that was started here ends with it, rollouts or not."""
    import ray
    from ray import serve

    if cluster != HERE:
        serve.delete(NAME)
    ray.shutdown()


def serve_model(model: str, host: str, port: int, *, cluster: str = HERE, **options: Any) -> None:
    """`deploy`, then serve until Ctrl+C."""
    deploy(model, host, port, cluster=cluster, **options)
    print(f"The model: http://{host}:{port}   (Ctrl+C ends it; use it with --model http://HOST:{port})", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        withdraw(cluster)


def _reason(serve: Any) -> str:
    """Why the replicas did not start: the engine's own sentence, if there is one in what Ray Serve tells."""
    applications = [app for name, app in serve.status().applications.items() if name == NAME]
    parts = [part.message for app in applications for part in app.deployments.values()]
    lines = [line for part in parts for line in part.splitlines() if "could not be loaded: " in line]
    return lines[-1].split("could not be loaded: ")[-1] if lines else "its replicas did not start; Ray's log says why."
