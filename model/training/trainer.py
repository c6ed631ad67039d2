"""The one training loop. Batches and random draws follow from the seed and the step's number alone, so a run that is
stopped and resumed makes exactly the steps an uninterrupted one makes.

    <folder>/state.pt        latest step: trained weights, optimiser, best score so far
    <folder>/metrics.jsonl   one line per logged step and per evaluation
    <folder>/curves.png      the same, drawn (where matplotlib is installed)
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.precision import fast_dtype
from model.training.curves import draw_curves

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Group:
    """Parameters that share a peak learning rate."""

    parameters: Iterable[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, how often. `minutes` ends the run early, counting the time before a resume too."""

    folder: Path
    steps: int
    seed: int = 0
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float = 1.0
    bf16: bool = True
    """Autocast, where the device computes in bfloat16 (`fast_dtype`)."""
    minutes: float | None = None
    log_every: int = 10
    save_every: int = 200
    evaluate_every: int = 500
    best: tuple[str, Literal["min", "max"]] = ("loss", "min")
    """The evaluation's metric that decides which weights are kept."""
    workers: int = 0
    """Threads that prepare batches ahead."""
    processes: int = 0
    """Processes that do so instead, for a GPU that is faster than one of Python's threads."""


class ShuffledOrder:
    """Which of `count` examples make up a step's batch: each epoch is its own seeded shuffle."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1:
            raise ValueError("There is nothing to train on: the training split is empty.")
        self._count, self._batch, self._seed = count, batch, seed
        self._shuffles: dict[int, NDArray[np.int64]] = {}

    def __call__(self, step: int) -> NDArray[np.int64]:
        """(batch,) indices; a batch may straddle two epochs."""
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        return np.array([self._shuffle(int(p // self._count))[p % self._count] for p in places])

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._shuffles:
            self._shuffles = {e: s for e, s in self._shuffles.items() if e >= epoch - 1}
            self._shuffles[epoch] = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return self._shuffles[epoch]


def train(
    model: nn.Module,
    groups: list[Group],
    batch_at: Callable[[int], Batch],
    losses: Callable[[Batch], dict[str, Tensor]],
    config: TrainingConfig,
    evaluate: Callable[[], dict[str, float]] | None = None,
    keep: Callable[[], None] | None = None,
) -> int:
    """Train until `config.steps` or the time limit, from where `config.folder` left off; returns the steps made in all.

    `batch_at(step)` prepares a batch (in a thread, when `workers` > 0); it must depend on nothing but the step.
    `losses(batch)` runs the model under autocast and returns what to log, "loss" being what is minimised.
    `evaluate()` runs without gradients, in eval mode; `keep()` saves the model whenever it scored best.
    Under `torchrun` every process takes its own batches and gradients are averaged; the first one evaluates and saves.
    """
    join_processes()
    run = _Run(model, groups, config)
    start = run.resume()
    device = next(model.parameters()).device
    model.train()
    bar = tqdm(total=config.steps, initial=start, unit="step", dynamic_ncols=True, disable=run.rank > 0)
    with bar:
        for step, batch in _ahead(lambda s: batch_at(run.draw(s)), start, config):
            torch.manual_seed(hash((config.seed, run.draw(step))) & 0x7FFF_FFFF)
            with _fast(device.type, config.bf16):
                parts = losses(batch)
            run.update(step, parts)
            bar.update()
            last = step + 1 == config.steps or run.out_of_time()
            if run.rank > 0:
                if last:
                    return step + 1
                continue
            if step % config.log_every == 0 or last:
                bar.set_postfix(
                    {name: f"{value:.4g}" for name, value in run.log(step, parts).items() if "loss" in name}
                )
            if (step + 1) % config.save_every == 0 or last:
                run.save(step + 1)
            if evaluate is not None and ((step + 1) % config.evaluate_every == 0 or last):
                with _fast(device.type, config.bf16):
                    run.judge(step, evaluate, keep)
                run.save(step + 1)  # with what is the best so far
            if last:
                return step + 1
    return start


def join_processes() -> None:
    """Meet the other processes where `torchrun` started several; otherwise nothing."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


class _Run:
    """The moving parts of one run, and how they are saved."""

    def __init__(self, model: nn.Module, groups: list[Group], config: TrainingConfig) -> None:
        self.model, self.config = model, config
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        lists: list[dict[str, Any]] = [
            {"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups
        ]
        grouped = {id(p) for group in lists for p in group["params"]}
        forgotten = [name for name, p in self.named.items() if id(p) not in grouped]
        if forgotten:
            raise ValueError(f"These parameters require gradients but are in no group: {', '.join(forgotten[:5])}.")
        narrow = [name for name, p in self.named.items() if p.dtype != torch.float32]
        if narrow:  # bfloat16 would swallow small updates; autocast gives its speed without that
            raise ValueError(
                f"Train in float32, {narrow[0]} is {self.named[narrow[0]].dtype}: load with dtype=float32."
            )
        self.parameters = [p for group in lists for p in group["params"]]
        self.peaks = [group.lr for group in groups]
        self.optimizer = torch.optim.AdamW(lists, fused=True)
        self.buffers = dict(model.named_buffers())
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.best: float | None = None
        self.skipped = 0
        self.started, self.before, self.agreed = time.monotonic(), 0.0, 0.0
        config.folder.mkdir(parents=True, exist_ok=True)
        self.state, self.metrics = config.folder / "state.pt", config.folder / "metrics.jsonl"

    def resume(self) -> int:
        if not self.state.exists():
            self.metrics.unlink(missing_ok=True)
            return 0
        state = torch.load(self.state, map_location="cpu", weights_only=True)
        if set(state["weights"]) != set(self.named) | set(self.buffers):
            raise ValueError(f"{self.state} belongs to another model: give a fresh folder, or delete it to start over.")
        with torch.no_grad():
            for name, tensor in (self.named | self.buffers).items():
                tensor.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.before, self.skipped = state["best"], state["seconds"], state["skipped"]
        self.agreed = self.before
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        self.metrics.write_text("".join(f"{x}\n" for x in lines if json.loads(x)["step"] < state["step"]))
        return int(state["step"])

    def save(self, step: int) -> None:
        weights = {name: tensor.detach().cpu() for name, tensor in (self.named | self.buffers).items()}
        state = {"step": step, "weights": weights, "optimizer": self.optimizer.state_dict()}
        state |= {"best": self.best, "seconds": self.seconds(), "skipped": self.skipped}
        temporary = self.state.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.state)
        draw_curves(self.metrics, self.config.folder / "curves.png")

    def update(self, step: int, parts: dict[str, Tensor]) -> None:
        scale = self.scale(step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        parts["loss"].backward()
        if self.world > 1:
            self.agree()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:  # one bad batch must not end a long run, but it has to be seen in the metrics
            self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)

    def scale(self, step: int) -> float:
        """Share of the peak learning rate. A cosine reaches zero at the step or time limit, whichever is nearer."""
        rise = min(1.0, (step + 1) / max(self.config.warmup, 1))
        if self.config.schedule == "constant":
            return rise
        share = step / self.config.steps
        if self.config.minutes is not None:
            share = max(share, self.seconds() / (60 * self.config.minutes))
        return rise * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def draw(self, step: int) -> int:
        """Which of all batches this process takes at a step."""
        return step * self.world + self.rank

    def agree(self) -> None:
        """Average gradients, buffers and the clock over all processes, so that they stay copies of one another."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        tensors = [*gradients, *self.buffers.values()]
        clock = torch.tensor([self.before + time.monotonic() - self.started], device=tensors[0].device)
        flat = torch.cat([tensor.flatten().float() for tensor in (*tensors, clock)])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in (*tensors, clock)]), strict=False):
            tensor.copy_(mean.view_as(tensor))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.agreed = float(flat[-1])

    def seconds(self) -> float:
        return self.agreed if self.world > 1 else self.before + time.monotonic() - self.started

    def out_of_time(self) -> bool:
        return self.config.minutes is not None and self.seconds() >= 60 * self.config.minutes

    def log(self, step: int, parts: dict[str, Tensor]) -> dict[str, float]:
        values = {name: float(value.detach()) for name, value in parts.items()}
        self._write({"step": step, "kind": "train", "lr": self.optimizer.param_groups[0]["lr"]} | values)
        return values

    def judge(self, step: int, evaluate: Callable[[], dict[str, float]], keep: Callable[[], None] | None) -> None:
        self.model.eval()
        with torch.no_grad():
            values = evaluate()
        self.model.train()
        metric, direction = self.config.best
        score = values[metric]
        self._write({"step": step, "kind": "held_out", "skipped": self.skipped} | values)
        if self.best is None or (score < self.best if direction == "min" else score > self.best):
            self.best = score
            if keep is not None:
                keep()

    def _write(self, line: dict[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(line | {"seconds": round(self.seconds(), 1)}) + "\n")


@contextmanager
def _fast(device: str, bf16: bool) -> Iterator[None]:
    """Autocast; and on CPUs attention from plain products, whose backward pass is half as long as the fused one's."""
    with (
        torch.autocast(device, torch.bfloat16, enabled=bf16 and fast_dtype(device) == torch.bfloat16),
        sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext(),
    ):
        yield


def spare_processes() -> int:
    """How many processes prepare batches for the GPU: all cores but one. On a CPU none, since training needs them."""
    return max(1, len(os.sched_getaffinity(0)) - 1) if torch.cuda.is_available() else 0


class _Made(Dataset[Batch]):
    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Batch:
        return self._make(number)


def in_processes(make: Callable[[int], Batch], numbers: Sequence[int], processes: int) -> Iterator[Batch]:
    """`make` of every number, in order; made a little ahead in forked processes, where there are any (0: here)."""
    apart: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 4} if processes else {}
    yield from DataLoader(_Made(make), batch_size=None, sampler=numbers, num_workers=processes, **apart)


def _ahead(batch_at: Callable[[int], Batch], start: int, config: TrainingConfig) -> Iterator[tuple[int, Batch]]:
    """(step, batch) in order, with a few batches per worker in preparation."""
    steps = range(start, config.steps)
    if config.processes:
        yield from zip(steps, in_processes(batch_at, steps, config.processes), strict=True)
        return
    if config.workers == 0:
        yield from ((step, batch_at(step)) for step in steps)
        return
    with ThreadPoolExecutor(config.workers) as pool:
        waiting: deque[Future[Batch]] = deque()
        submitted = start
        try:
            for step in steps:
                while submitted < config.steps and len(waiting) < 2 * config.workers:
                    waiting.append(pool.submit(batch_at, submitted))
                    submitted += 1
                yield step, waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
