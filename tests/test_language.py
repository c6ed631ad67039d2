"""The decoder against Hugging Face's, its caches against full recomputation, and what training may touch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from model.config import DecoderConfig, LoraConfig
from model.language import Decoder, load_llama

TINY = DecoderConfig(vocab=97, dim=48, layers=3, heads=6, kv_heads=2, mlp=80, rope_theta=10_000.0)
EXTRA = 5


def build(experts: int, seed: int = 0, config: DecoderConfig = TINY) -> Decoder:
    """A random float32 decoder in eval mode whose LoRA experts and gates all matter."""
    torch.manual_seed(seed)
    decoder = Decoder(config, LoraConfig(experts=experts, rank=4, alpha=8.0, gate_dim=8), EXTRA).eval()
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter.data, std=0.15)
    if decoder.scale_head is not None:  # gates that differ from token to token
        torch.nn.init.normal_(next(decoder.scale_head.parameters()).data, std=2.0)
    return decoder


def hugging_face(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(1)
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[kind]
    config = config_class(
        vocab_size=TINY.vocab,
        hidden_size=TINY.dim,
        num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads,
        num_key_value_heads=TINY.kv_heads,
        intermediate_size=TINY.mlp,
        rope_parameters={"rope_type": "default", "rope_theta": TINY.rope_theta},
        rms_norm_eps=TINY.norm_eps,
        tie_word_embeddings=True,
    )
    model = model_class(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_equals_hugging_face(kind: str) -> None:
    theirs = hugging_face(kind)
    ours = build(1, config=replace(TINY, qkv_bias=kind == "qwen2"))
    for name, parameter in ours.named_parameters():
        if "lora_b" in name:
            torch.nn.init.zeros_(parameter.data)
    load_llama(ours, theirs.state_dict())
    ids = torch.randint(TINY.vocab, (2, 19))
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        hidden, _ = ours(ours.embed(ids))
        logits = ours.logits(hidden)
    torch.testing.assert_close(hidden, expected.hidden_states[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[..., : TINY.vocab], expected.logits, atol=1e-4, rtol=1e-4)


def test_load_llama_names_what_is_wrong() -> None:
    weights = hugging_face("llama").state_dict()
    with pytest.raises(ValueError, match="lm_head"):
        load_llama(build(1), weights | {"lm_head.weight": torch.zeros(TINY.vocab, TINY.dim)})
    with pytest.raises(ValueError, match="sizes"):
        load_llama(build(1, config=replace(TINY, mlp=64)), weights)
    del weights["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        load_llama(build(1), weights)


def test_gates_mix_experts_by_the_base_model_s_view() -> None:
    decoder = build(2)
    embeds = decoder.embed(torch.randint(TINY.vocab, (1, 7)))
    with torch.no_grad():
        _, gates = decoder(embeds)
        for name, parameter in decoder.named_parameters():
            if "lora_" in name:
                parameter.mul_(3)  # gates come from the frozen base alone
        _, same = decoder(embeds)
    assert gates.shape == (1, 7, 2) and gates.std(1).max() > 0.05
    torch.testing.assert_close(gates, same, rtol=0, atol=0)
    assert torch.equal(build(1)(embeds)[1], torch.ones(1, 7, 1))


def test_equal_experts_make_gates_irrelevant() -> None:
    """Two copies of one expert under a softmax are that expert: K = 2 equals K = 1."""
    one, two = build(1), build(2)
    shared = {k: v for k, v in one.state_dict().items() if "lora_" not in k}
    shared |= {k: v.repeat_interleave(2, 1) for k, v in one.state_dict().items() if "lora_" in k}
    two.load_state_dict(shared, strict=False)
    ids = torch.randint(TINY.vocab + EXTRA, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(two(two.embed(ids))[0], one(one.embed(ids))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("splits", [(12, 1, 1, 1, 8), (1, 22), (5, 6, 7, 5)])
@torch.no_grad()
def test_cached_equals_full_recomputation(experts: int, splits: tuple[int, ...]) -> None:
    decoder = build(experts)
    ids = torch.randint(TINY.vocab + EXTRA, (2, sum(splits)))
    expected, expected_gates = decoder(decoder.embed(ids))
    cache = decoder.new_cache(64, batch=2)
    parts = [decoder(decoder.embed(part), cache=cache) for part in ids.split(splits, dim=1)]
    torch.testing.assert_close(torch.cat([hidden for hidden, _ in parts], 1), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat([gates for _, gates in parts], 1), expected_gates, atol=1e-5, rtol=0)
    assert cache.length == sum(splits)


@pytest.mark.parametrize("experts", [1, 2])
@torch.no_grad()
def test_generation_equals_full_recomputation(experts: int) -> None:
    decoder = build(experts, seed=3)
    ids = torch.randint(TINY.vocab, (1, 6))
    cache = decoder.new_cache(64)
    generated = list(decoder.generate(decoder.embed(ids), cache, 20, stop_ids=()))
    for token in generated:
        hidden, _ = decoder(decoder.embed(ids))
        assert int(decoder.logits(hidden[0, -1]).argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert len(generated) == 20 and len(set(generated)) > 3  # a repeated token would prove little
    assert cache.length == 26  # every yielded token is in the cache: what follows continues the text
    queries = decoder.embed(torch.arange(TINY.vocab, TINY.vocab + EXTRA)[None])
    hidden, _ = decoder(queries, cache)
    expected, _ = decoder(torch.cat([decoder.embed(ids), queries], 1))
    torch.testing.assert_close(hidden, expected[:, 26:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("right", [0, 1, 7, 20])
@pytest.mark.parametrize("experts", [1, 2])
@torch.no_grad()
def test_a_draft_spares_steps_and_changes_no_token(experts: int, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = build(experts, seed=3)
    embeds = decoder.embed(torch.randint(TINY.vocab, (1, 6)))
    plain, gates = decoder.new_cache(64), []
    expected = list(decoder.generate(embeds, plain, 20, stop_ids=(), gates=gates))
    guess = expected[:right] + [(token + 1) % TINY.vocab for token in expected[right:]]
    passes = count_passes(decoder, monkeypatch)
    cache, drafted_gates, lengths = decoder.new_cache(64), [], []
    tokens = decoder.generate(embeds, cache, 20, (), gates=drafted_gates, draft=lambda said: [] if said else guess)
    said = [token for token in tokens if not lengths.append(cache.length)]  # type: ignore[func-returns-value]
    assert said == expected and lengths == list(range(6, 26)) and cache.length == 26
    assert passes == [26] + [1] * (20 - right)
    torch.testing.assert_close(torch.tensor(drafted_gates), torch.tensor(gates), atol=1e-5, rtol=0)
    monkeypatch.undo()
    queries = decoder.embed(torch.arange(TINY.vocab, TINY.vocab + EXTRA)[None])
    torch.testing.assert_close(decoder(queries, cache)[0], decoder(queries, plain)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("experts", [1, 2])
@torch.no_grad()
def test_guesses_may_come_at_any_word(experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third token is guessed wrongly; a guess that would overflow the cache is cut, not refused."""
    decoder = build(experts, seed=3)
    embeds = decoder.embed(torch.randint(TINY.vocab, (1, 6)))
    expected = list(decoder.generate(embeds, decoder.new_cache(64), 20, stop_ids=()))
    guess = [token if place % 3 else (token + 1) % TINY.vocab for place, token in enumerate(expected)]
    passes, cache = count_passes(decoder, monkeypatch), decoder.new_cache(26)
    said = list(decoder.generate(embeds, cache, 20, (), draft=lambda said: guess[len(said) :] + [0] * 9))
    assert said == expected and cache.length == 26 and len(passes) == 8


@torch.no_grad()
def test_a_guess_that_was_right_to_the_end_has_read_what_lies_behind_it() -> None:
    decoder = build(2, seed=3)
    embeds = decoder.embed(torch.randint(TINY.vocab, (1, 6)))
    expected = list(decoder.generate(embeds, decoder.new_cache(64), 20, stop_ids=()))
    end = next(place for place in range(3, 20) if expected[place] not in expected[:place])
    behind = [expected[end], TINY.vocab, TINY.vocab + 1]
    for guess in (expected[:end] + behind, [*expected[:2], 0], []):
        cache, beyond = decoder.new_cache(64), []
        tokens = decoder.generate(
            embeds, cache, 20, (expected[end],), draft=lambda said, guess=guess: guess[len(said) :], beyond=beyond
        )
        said = list(tokens)
        assert said == expected[:end] and cache.length == 6 + end
        states, _ = decoder(decoder.embed(torch.tensor([behind])), cache)
        if len(guess) > end:
            torch.testing.assert_close(beyond[0], states, atol=1e-4, rtol=0)
        assert len(beyond) == (len(guess) > end)


def count_passes(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each of the decoder's passes from now on."""
    passes: list[int] = []
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda x, *rest: passes.append(x.shape[1]) or forward(x, *rest))
    return passes


@torch.no_grad()
def test_generation_ends_before_a_stop_id() -> None:
    decoder = build(1, seed=3)
    embeds = decoder.embed(torch.randint(TINY.vocab, (1, 6)))
    free = list(decoder.generate(embeds, decoder.new_cache(32), 10, stop_ids=()))
    stop = free[4]
    cache = decoder.new_cache(32)
    assert list(decoder.generate(embeds, cache, 10, stop_ids={stop})) == free[: free.index(stop)]
    assert cache.length == 6 + free.index(stop)


@pytest.mark.parametrize("experts", [1, 2])
@torch.no_grad()
def test_crop_forgets(experts: int) -> None:
    decoder = build(experts)
    prompt, wrong, right = (decoder.embed(torch.randint(TINY.vocab, (1, n))) for n in (9, 5, 4))
    cache = decoder.new_cache(32)
    decoder(prompt, cache=cache)
    decoder(wrong, cache=cache)
    cache.crop(9)
    hidden, _ = decoder(right, cache=cache)
    expected, _ = decoder(torch.cat([prompt, right], 1))
    torch.testing.assert_close(hidden, expected[:, 9:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_cache_refuses_what_does_not_fit() -> None:
    decoder = build(1)
    cache = decoder.new_cache(8)
    decoder(decoder.embed(torch.zeros(1, 6, dtype=torch.long)), cache=cache)
    with pytest.raises(ValueError, match="do not fit"):
        decoder(decoder.embed(torch.zeros(1, 3, dtype=torch.long)), cache=cache)
    with pytest.raises(ValueError, match="sequences"):
        decoder(decoder.embed(torch.zeros(2, 1, dtype=torch.long)), cache=cache)
    with pytest.raises(ValueError, match="crop"):
        cache.crop(7)
    assert cache.length == 6


@pytest.mark.parametrize("experts", [1, 2])
@torch.no_grad()
def test_right_padding_does_not_reach_real_tokens(experts: int) -> None:
    decoder = build(experts)
    short, long = torch.randint(TINY.vocab, (1, 5)), torch.randint(TINY.vocab, (1, 9))
    expected, _ = decoder(decoder.embed(short))
    filler = torch.zeros(1, 4, dtype=torch.long)
    hidden, _ = decoder(decoder.embed(torch.cat([torch.cat([short, filler], 1), long])))
    torch.testing.assert_close(hidden[:1, :5], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("experts", [1, 2])
def test_only_adapters_new_rows_and_scale_head_train(experts: int) -> None:
    decoder = build(experts).train()
    ids = torch.randint(TINY.vocab + EXTRA, (2, 12))
    ids[0, :EXTRA] = torch.arange(TINY.vocab, TINY.vocab + EXTRA)
    hidden, _ = decoder(decoder.embed(ids))
    torch.nn.functional.cross_entropy(decoder.logits(hidden).flatten(0, 1), ids.flatten()).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.requires_grad == (not decoder.is_base(name)), name
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad, name
    assert decoder.new_rows.grad is not None and (decoder.new_rows.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("experts", [1, 2])
def test_bfloat16_base_with_float32_adapters(experts: int) -> None:
    exact, mixed = build(experts), build(experts)
    mixed.cast_base(torch.bfloat16)
    assert {p.dtype for n, p in mixed.named_parameters() if not mixed.is_base(n)} == {torch.float32}
    assert {p.dtype for n, p in mixed.named_parameters() if mixed.is_base(n)} == {torch.bfloat16}
    ids = torch.randint(TINY.vocab + EXTRA, (2, 12))
    expected, _ = exact(exact.embed(ids))
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            hidden, _ = mixed(mixed.embed(ids))
            loss = mixed.logits(hidden).float().logsumexp(-1).mean()
        assert (hidden - expected).norm() / expected.norm() < 0.05
        mixed.zero_grad()
        loss.backward()
        trained = [p for n, p in mixed.named_parameters() if not mixed.is_base(n)]
        assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)


@torch.no_grad()
def test_merging_the_only_expert_changes_nothing() -> None:
    decoder = build(1)
    embeds = decoder.embed(torch.randint(TINY.vocab + EXTRA, (2, 12)))
    expected, _ = decoder(embeds)
    decoder.merge()
    torch.testing.assert_close(decoder(embeds)[0], expected, atol=1e-5, rtol=1e-5)
    assert not any("lora_" in name for name in decoder.state_dict())
    with pytest.raises(ValueError, match="cannot be merged"):
        build(2).merge()


@torch.no_grad()
def test_pure_bfloat16_runs_with_a_cache() -> None:
    decoder = build(2).to(torch.bfloat16)
    ids = torch.randint(TINY.vocab, (1, 12))
    full, _ = decoder(decoder.embed(ids))
    cache = decoder.new_cache(16)
    decoder(decoder.embed(ids[:, :8]), cache=cache)
    hidden, _ = decoder(decoder.embed(ids[:, 8:]), cache=cache)
    assert hidden.dtype == torch.bfloat16
    assert (hidden - full[:, 8:]).float().norm() / full[:, 8:].float().norm() < 0.05


def test_new_rows_extend_the_vocabulary() -> None:
    decoder = build(1)
    ids = torch.tensor([[3, TINY.vocab, TINY.vocab + EXTRA - 1]])
    embeds = decoder.embed(ids)
    torch.testing.assert_close(embeds[0, 0], decoder.embedding.weight[3])
    torch.testing.assert_close(embeds[0, 1:], decoder.new_rows[[0, EXTRA - 1]])
    logits = decoder.logits(torch.randn(4, TINY.dim))
    assert logits.shape == (4, TINY.vocab + EXTRA)
