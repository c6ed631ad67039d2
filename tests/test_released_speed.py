"""Every shortcut of the released models changes nothing but the time it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app.bench_released import TEXT, cached_step, see, uncached_step
from model.attention import fused, written_out
from model.config import Compat
from model.experts import GatedLora
from model.graphs import Recorded
from model.instructvla import View
from model.language import Decoder, RMSNorm
from model.released_checkpoints import Released, find_run, load, plan, read
from model.released_random import write_random_run
from model.static import SMALLEST, StaticStep
from tests.tiny import TINY_RELEASED, observation
from tests.upstream_sets import SETS

torch.set_num_threads(1)
WITH_STATE = replace(TINY_RELEASED, action=replace(TINY_RELEASED.action, proprio_dim=8))
STAGE1 = replace(TINY_RELEASED, lora=replace(TINY_RELEASED.lora, experts=1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, config in {"stage2": TINY_RELEASED, "state": WITH_STATE, "stage1": STAGE1}.items():
        write_random_run(folder / name, config, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module", params=["stage2", "state", "stage1"])
def loaded(runs: Path, request: pytest.FixtureRequest) -> Released:
    return lively(read(find_run(runs / request.param)))


def lively(released: Released) -> Released:
    """Weights spread wide enough that tokens, gates and pictures matter."""
    torch.manual_seed(1)
    for name, weight in released.model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.3 if "lora" in name or "embedding" in name else 0.15)
    return released


def picture() -> np.ndarray:
    image = observation().image
    assert image is not None
    return image


def noise(released: Released) -> Tensor:
    action = released.model.config.action
    return torch.randn(1, action.chunk, action.action_dim)


def test_caches_change_neither_thought_nor_action(loaded: Released) -> None:
    start = noise(loaded)
    with torch.inference_mode():
        said, action = cached_step(loaded, picture(), start, 20)
        slowly_said, slow_action = uncached_step(loaded, picture(), start, 20)
    assert said == slowly_said
    assert len(set(said)) > 3
    torch.testing.assert_close(action, slow_action, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fixtures", SETS, ids=lambda one: one.folder.name)
def test_caches_change_nothing_on_the_fixtures(fixtures: object) -> None:
    released = fixtures.model("stage2")  # type: ignore[attr-defined]
    start, image = noise(released), fixtures.inputs["image/primary_uint8"].numpy()  # type: ignore[attr-defined]
    with torch.inference_mode():
        said, action = cached_step(released, image, start, 50)
        slowly_said, slow_action = uncached_step(released, image, start, 50)
    assert said == slowly_said
    torch.testing.assert_close(action, slow_action, atol=2e-4, rtol=1e-3)


def test_everything_runs_in_bfloat16(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and on a CPU where the model is big: no autocast, every weight in bfloat16."""
    monkeypatch.setenv("INSTRUCTVLA_CACHE", str(tmp_path))
    for name in ("stage2", "state", "stage1"):
        exact, rough = lively(read(find_run(runs / name))), lively(load(runs / name))
        rough.model.load_state_dict(exact.model.state_dict())
        start = noise(exact)
        with torch.inference_mode():
            _, action = cached_step(rough, picture(), start, 6)
            prompt, view = exact.prompter.act_after(TEXT, "I lift it."), see(exact.model, picture())
            state = torch.zeros(1, 8) if name == "state" else None
            expected = exact.model.act(view, exact.model.plan(prompt, view), state, start)
            view = see(rough.model, picture())
            ours = rough.model.act(view, rough.model.plan(prompt, view), state, start)
        assert action.dtype == ours.dtype == torch.float32 and action.isfinite().all()
        torch.testing.assert_close(ours, expected, atol=0.1, rtol=0.1)


def counted(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every call of the decoder from now on."""
    calls: list[int] = []
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda x, cache=None: calls.append(x.shape[1]) or forward(x, cache))
    return calls


def test_after_a_thought_only_the_queries_are_new(loaded: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompter = loaded.model, loaded.prompter
    opened, text = prompter.think(TEXT), "I lift it."
    complete = prompter.act_after(TEXT, text)
    written = complete.ids[len(opened.ids) : -model.queries].tolist()
    with torch.inference_mode():
        view = see(model, picture())
        embeds, cache = model.open_prompt(opened, view, 50)
        model.decoder(torch.cat([embeds, model.decoder.embed(torch.tensor([written]))], 1), cache)
        calls = counted(model.decoder, monkeypatch)
        reused = model.plan(complete, view, cache, [*opened.ids.tolist(), *written])
        assert calls == [model.queries]
        torch.testing.assert_close(reused, model.plan(complete, view), atol=1e-5, rtol=1e-4)


def test_what_differs_from_the_cache_is_decoded_again(loaded: Released) -> None:
    model, prompter = loaded.model, loaded.prompter
    with torch.inference_mode():
        view = see(model, picture())
        opened = prompter.think(TEXT)
        embeds, cache = model.open_prompt(opened, view, 50)
        said = list(model.decoder.generate(embeds, cache, 12, stop_ids=()))
        other = prompter.act_after(TEXT, "Something else entirely.")
        reused = model.plan(other, view, cache, [*opened.ids.tolist(), *said])
        torch.testing.assert_close(reused, model.plan(other, view), atol=1e-5, rtol=1e-4)


def test_the_gate_pass_does_no_lora_work(runs: Path) -> None:
    model = lively(read(find_run(runs / "stage2"))).model
    embeds = torch.randn(1, 9, model.config.decoder.dim)
    gates: list[Tensor] = []
    assert model.decoder.scale_head is not None
    model.decoder.scale_head.register_forward_hook(lambda m, i, o: gates.append(o))
    with torch.inference_mode():
        model.decoder(embeds)
        for module in model.modules():
            if isinstance(module, GatedLora):
                module.lora_a.fill_(torch.nan)
        model.decoder(embeds)
    assert torch.equal(*gates) and gates[0].isfinite().all()


def test_preparing_experts_changes_nothing(runs: Path) -> None:
    for name in ("stage1", "stage2"):
        decoder = lively(read(find_run(runs / name))).model.decoder
        embeds = torch.randn(2, 7, decoder.config.dim)
        with torch.inference_mode():
            before = decoder(embeds)
            decoder.prepare()
            after = decoder(embeds)
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_static_shapes_decode_the_same(loaded: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same tokens, same logits, same latent action after them; and no shape changes, which is what a graph needs."""
    model, prompt = loaded.model, loaded.prompter.think(TEXT)
    static, shapes = StaticStep(model.decoder), set()

    def seen(*inputs: Tensor) -> tuple[Tensor, ...]:
        shapes.add(tuple(tensor.shape for tensor in inputs))
        return static._read_all(*inputs)

    monkeypatch.setattr(static, "_step", seen)
    with torch.inference_mode():
        view, outcomes = see(model, picture()), []
        for step in (None, static):
            monkeypatch.setattr(model.decoder, "static", step)
            embeds, cache = model.open_prompt(prompt, view, 24)
            said = list(model.decoder.generate(embeds, cache, 24, stop_ids=()))
            cache.crop(cache.length - 4)  # what was written and dropped must stay unseen
            word = model.decoder.embed(torch.tensor([[said[-5]]]))
            hidden, gates = (step or model.decoder)(word, cache)
            latents = model.plan(loaded.prompter.act_now(TEXT), view, cache, prompt.ids.tolist())
            outcomes.append((said, model.decoder.logits(hidden), gates, latents, cache.length))
    (growing, *numbers), (whole, *others) = outcomes
    assert whole == growing and len(set(whole)) > 3
    for one, other in zip(numbers, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
    assert len(shapes) == 1 and cache.capacity == SMALLEST
    with pytest.raises(ValueError, match="do not fit a cache"):
        cache.length = cache.capacity
        static(word, cache)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_replayed_token_is_the_same(loaded: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded.model.to("cuda")
    try:
        with torch.inference_mode():
            view, outcomes = see(model, picture()), []
            for step in (None, StaticStep(model.decoder)):
                monkeypatch.setattr(model.decoder, "static", step)
                embeds, cache = model.open_prompt(loaded.prompter.think(TEXT), view, 24)
                outcomes.append(list(model.decoder.generate(embeds, cache, 24, stop_ids=())))
        assert outcomes[0] == outcomes[1]
    finally:
        model.to("cpu")


def test_rotary_table_grows_without_a_seam(runs: Path) -> None:
    decoder = lively(read(find_run(runs / "stage1"))).model.decoder
    whole = torch.randn(1, 700, decoder.config.dim)
    with torch.inference_mode():
        expected, _ = decoder(whole)
        decoder._waves = None
        cache = decoder.new_cache(700)
        parts = [decoder(part, cache)[0] for part in whole.split(300, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


def test_one_step_norm() -> None:
    norm = RMSNorm(24, 1e-6)
    norm.weight.data.normal_()
    x = torch.randn(3, 5, 24)
    slow = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * norm.weight
    torch.testing.assert_close(norm(x), slow)


@pytest.mark.parametrize("tokens", [1, 9])
def test_fused_attention_takes_the_bias(tokens: int) -> None:
    query, key, value = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    bias = torch.randint(0, 2, (tokens, 9)).float()
    torch.testing.assert_close(fused(query, key, value, bias), written_out(query, key, value, bias))
    torch.testing.assert_close(fused(query, key, value), written_out(query, key, value))


def test_blocks_past_the_used_one_are_left_out(runs: Path) -> None:
    """A model that keeps more blocks sees the same in the used one."""
    run = find_run(runs / "stage2")
    config, _ = plan(run)
    short = read(run, replace(config, compat=Compat(feature_block=1))).model.action_expert.dino
    long = read(run, config).model.action_expert.dino
    pixels, latents = torch.randn(2, 3, 28, 28), torch.randn(2, 5, config.decoder.dim)
    assert (len(short.blocks), len(long.blocks)) == (2, 3)
    walked = list(long.walk(pixels, latents))
    assert torch.equal(list(short.walk(pixels, latents))[1], walked[1])
    assert torch.equal(long(pixels[:, None], latents), walked[2][:, 1 + config.dino.registers :])


def test_two_at_once_are_each_their_own(loaded: Released) -> None:
    model, prompter = loaded.model, loaded.prompter
    prompts = [prompter.act_now("lift the cup"), prompter.act_after("open the drawer", "I open it.")]
    images = [picture(), picture()[::-1].copy()]
    with torch.inference_mode():
        views = [see(model, image) for image in images]
        both = View(torch.cat([v.trunk for v in views]), torch.cat([v.tokens for v in views]))
        latents = model.plan_together(prompts, both)
        alone = [model.plan(prompt, view) for prompt, view in zip(prompts, views, strict=True)]
        torch.testing.assert_close(latents, torch.cat(alone), atol=1e-5, rtol=1e-4)
        state = torch.rand(2, 8) if model.config.action.proprio_dim else None
        start = torch.cat([noise(loaded), noise(loaded)])
        chunks = model.act(both, latents, state, start)
        for row, view in enumerate(views):
            own = None if state is None else state[row : row + 1]
            one = model.act(view, latents[row : row + 1], own, start[row : row + 1])
            torch.testing.assert_close(chunks[row : row + 1], one, atol=1e-5, rtol=1e-4)


def test_recording_needs_a_gpu_and_is_silent_without() -> None:
    double = Recorded(lambda x: 2 * x)
    assert torch.equal(double(torch.ones(3)), 2 * torch.ones(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_replayed_euler_steps_are_the_same(loaded: Released) -> None:
    model = loaded.model.to("cuda")
    expert, start = model.action_expert, noise(loaded).to("cuda")
    with torch.inference_mode():
        view = see(model, picture())
        latents = model.plan(loaded.prompter.act_now(TEXT), view)
        state = torch.rand(1, 8, device="cuda") if model.config.action.proprio_dim else None
        expected = expert.sample(expert.context(view.trunk, latents, state), start)
        for _ in range(2):
            torch.testing.assert_close(model.act(view, latents, state, start), expected)
        other = torch.randn_like(start)
        context = expert.context(view.trunk, latents, state)
        torch.testing.assert_close(model.act(view, latents, state, other), expert.sample(context, other))
    model.to("cpu")
