"""What a released model takes: thinking, planning, acting, and what its caches save. Needs no simulator."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.bench import Row, summarise
from model.checkpoints import cache_folder
from model.config import RELEASED_2B
from model.instructvla import View
from model.prompts import PromptIds
from model.released import ReleasedVLA
from model.released_checkpoints import Released
from model.released_policy import Schedule
from model.released_random import write_random_run
from model.static import StaticStep
from model.tiling import crop_for_expert, tile
from sim.interface import Image

TEXT = "put the carrot on the plate"
THOUGHT_TOKENS = Schedule.thought_tokens
UNCACHED_LIMIT = 250_000_000
"""Parameters up to which a CPU also measures the model without caches; on the 2B that would take an hour."""

AMORTISED = f"think every {Schedule.think_every} steps, {THOUGHT_TOKENS} tokens"
BARS = {
    "act": "at least 12 on an H200; published, A100: 3.50",
    "act, latent action every 2 steps": "published, A100: 4.96",
    AMORTISED: "at least 6 on an H200; published, A100: 2.51",
    "time to first token, thought": "at most 250 on an H200",
    "decoding, thought": "at least 60 on an H200",
}
"""What a released generalist's size is held against, in bfloat16."""


def random_2b_run() -> Path:
    """The run folder of a released generalist's size with random weights, written to the cache when first asked for."""
    folder = cache_folder() / "random-2b"
    if not folder.is_dir():
        print(f"Writing random weights (6 GB) to {folder}, once", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".random-") as temporary:
            write_random_run(Path(temporary) / "run", RELEASED_2B).rename(folder)
    return folder


def expert_view(model: ReleasedVLA, picture: Image) -> Tensor:
    """A picture ready for the expert's eyes (1, 1, 3, D, D)."""
    config = model.config
    return crop_for_expert(picture, config.dino.size, config.compat.dino_crop)[None, None].to(model.device)


def see(model: ReleasedVLA, picture: Image) -> View:
    """A picture through the decoder's eyes and ready for the expert's."""
    return model.encode(tile(picture, model.config.vision.size).to(model.device), expert_view(model, picture))


def cached_step(
    loaded: Released, picture: Image, noise: Tensor, tokens: int, moments: list[float] | None = None
) -> tuple[list[int], Tensor]:
    """A thought of `tokens` tokens and the chunk (1, T, 7) that follows it, the way a policy computes them.

    Appends to `moments` when each token was there.
    """
    model, prompt = loaded.model, loaded.prompter.think(TEXT)
    view = see(model, picture)
    embeds, cache = model.open_prompt(prompt, view, tokens)
    said: list[int] = []
    for token in model.decoder.generate(embeds, cache, tokens, stop_ids=()):
        said.append(token)
        if moments is not None:
            moments.append(time.perf_counter())
    latents = model.plan(after(loaded, said), view, cache, [*prompt.ids.tolist(), *said])
    return said, model.act(view, latents, proprio(model), noise)


def uncached_step(loaded: Released, picture: Image, noise: Tensor, tokens: int) -> tuple[list[int], Tensor]:
    """As `cached_step`, remembering nothing: every token looks at the picture and runs both passes in full again."""
    model, prompt = loaded.model, loaded.prompter.think(TEXT)
    said: list[int] = []
    for _ in range(tokens):
        embeds, _ = model.open_prompt(prompt, see(model, picture), 0)
        so_far = torch.tensor([said], dtype=torch.int64, device=model.device)
        hidden, _ = model.decoder(torch.cat([embeds, model.decoder.embed(so_far)], dim=1))
        said.append(int(model.decoder.logits(hidden[0, -1]).argmax()))
    view = see(model, picture)
    latents, expert, steps = model.plan(after(loaded, said), view), model.action_expert, model.config.action.euler_steps
    sample = noise
    for index in range(steps):
        moment = torch.full((1,), index / steps, device=noise.device)
        context = expert.context(view.trunk, latents, proprio(model))
        sample = sample + expert.velocity(context, sample, moment) / steps
    return said, sample


def after(loaded: Released, said: list[int]) -> PromptIds:
    """The complete prompt with the thought `said` put back, token by token: random words have no other spelling."""
    opened, queries = loaded.prompter.think(TEXT), loaded.prompter.query_ids
    ids = torch.cat([opened.ids, torch.tensor(said), queries])
    return PromptIds(ids, ids, ids == opened.ids[opened.image_positions][0], ids >= queries[0])


def proprio(model: ReleasedVLA) -> Tensor | None:
    """A robot state for the models that take one."""
    width = model.config.action.proprio_dim
    return torch.zeros(1, width, device=model.device) if width else None


def bench_released(loaded: Released, times: int) -> list[Row]:
    """Every figure of a released model: one decision, thinking and not, and what each shortcut saves. No simulator."""
    model, prompter = loaded.model, loaded.prompter
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    action = model.config.action
    noise = torch.zeros(1, action.chunk, action.action_dim, device=model.device)
    direct, other = prompter.act_now(TEXT), prompter.act_now("open the drawer")
    size = sum(weight.numel() for weight in model.parameters())
    bars = BARS if size >= UNCACHED_LIMIT else {}

    def row(name: str, unit: str, values: list[float]) -> Row:
        """From seconds, or from rates; the slow end of a rate is the low one."""
        scale, slow_end = (1e3, 95) if unit == "ms" else (1, 5)
        return summarise(name, unit, [scale * value for value in values], slow_end, bars.get(name, ""))

    def timed(name: str, call: Callable[[], object]) -> Row:
        return row(name, "ms", seconds(model, call, times))

    def think() -> tuple[float, float, float]:
        """Seconds to the first token, tokens a second after it, seconds until the action is there."""
        started, moments = time.perf_counter(), list[float]()
        _, chunk = cached_step(loaded, picture, noise, THOUGHT_TOKENS, moments)
        chunk.cpu()  # waits for a GPU
        rate = (THOUGHT_TOKENS - 1) / (moments[-1] - moments[0])
        return moments[0] - started, rate, time.perf_counter() - started

    def decode(static: StaticStep | None) -> list[float]:
        """Tokens a second, with and without static shapes."""
        before, model.decoder.static = model.decoder.static, static
        rates = [think()[1] for _ in range(times + (times > 1))]
        model.decoder.static = before
        return rates[-times:]

    def step() -> Tensor:
        view = see(model, picture)
        return model.act(view, model.plan(direct, view), proprio(model), noise)

    def step_on_kept_latents() -> Tensor:
        return model.act(View(expert_view(model, picture), view.tokens), latents, proprio(model), noise)

    with torch.inference_mode():
        view = see(model, picture)
        latents, pair = model.plan(direct, view), View(view.trunk, view.tokens.repeat(2, 1, 1))
        acting, keeping = seconds(model, step, times), seconds(model, step_on_kept_latents, times)
        usual, every = statistics.median(acting), Schedule.think_every
        first, rates, thinking = zip(*[think() for _ in range(times + (times > 1))][-times:], strict=True)
        rows = [
            row("time to first token, thought", "ms", list(first)),
            row("decoding, thought", "tokens/s", list(rates)),
            timed("picture encoding", lambda: see(model, picture)),
            timed("VLM pass, picture encoded", lambda: model.plan(direct, view)),
            timed("VLM pass, two prompts, picture encoded", lambda: model.plan_together([direct, other], pair)),
            timed("action sampling", lambda: model.act(view, latents, proprio(model), noise)),
            row("act", "Hz", [1 / value for value in acting]),
            row("act, latent action every 2 steps", "Hz", [2 / (value + usual) for value in keeping]),
            row(AMORTISED, "Hz", [every / (value + (every - 1) * usual) for value in thinking]),
        ]
        if model.device.type == "cuda" or size < UNCACHED_LIMIT:
            slow = seconds(model, lambda: uncached_step(loaded, picture, noise, THOUGHT_TOKENS), times)
            saved = [statistics.median(slow) / value for value in thinking]
            rows += [
                row("decoding, growing shapes", "tokens/s", decode(None)),
                row("decoding, static shapes", "tokens/s", decode(model.decoder.static or StaticStep(model.decoder))),
                row(f"{THOUGHT_TOKENS} tokens and one action", "ms", list(thinking)),
                row("the same without caches", "ms", slow),
                summarise("caches save", "times", saved, slow_end=5, bar="at least 5 at the tiny size, on a CPU"),
            ]
    return [*rows, summarise("peak host memory", "GB", [peak_memory()])]


def seconds(model: ReleasedVLA, call: Callable[[], object], times: int) -> list[float]:
    """Seconds of each call; a GPU is waited for. One more warms up, unless a single call is to be enough."""
    values = []
    for _ in range(times + (times > 1)):
        started = time.perf_counter()
        call()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        values.append(time.perf_counter() - started)
    return values[-times:]


def peak_memory() -> float:
    """Gigabytes of host memory at most so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
