"""The language decoder: a Llama (or Qwen2) stack with LoRA experts, and the key-value caches of its two passes.

With K > 1 experts every forward runs twice (reference 2.3): a gate pass of the frozen base, whose last hidden state
sets each token's mixing weights, and a mixed pass with the LoRA experts weighted by them. A token's gate depends on no
later token, so each pass keeps a cache of its own and decoding stays incremental. K = 1 needs no gate pass.

Attention is causal, so right padding cannot reach a real token: batches need no mask, their padded outputs are noise
that no label points at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from model.attention import attend
from model.branches import Branches
from model.cache import DecoderCache
from model.config import DecoderConfig, LoraConfig
from model.experts import GatedLora, ScaleHead
from model.products import linear

if TYPE_CHECKING:
    from model.static import Rows, StaticStep

IGNORE = -100
"""Label of a position that is not supervised."""
FIRST_TABLE = 512
"""Positions whose rotary waves are computed at first."""


@dataclass(frozen=True)
class Pass:
    """What all layers share during one traversal."""

    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    gates: Tensor | None
    adapt: bool
    cache: DecoderCache | Rows | None
    slot: int
    branches: Branches | None = None


class RMSNorm(nn.Module):
    """Frozen root-mean-square norm, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; the result has the weight's dtype."""
        if x.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # the same in one step
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(self.weight.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (half-rotation layout)."""

    def __init__(self, config: DecoderConfig, lora: LoraConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.dim // config.heads
        kv_width = self.kv_heads * self.head_dim
        self.qkv = GatedLora(config.dim, (config.dim, kv_width, kv_width), lora, bias=config.qkv_bias)
        self.out = GatedLora(config.dim, (config.dim,), lora)

    def forward(self, x: Tensor, run: Pass, layer: int) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        heads = self.qkv(x, run.gates, run.adapt).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        rotated, value = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        rotated = rotated * run.cos + rotated.roll(self.head_dim // 2, -1) * run.sin
        query, key = rotated.split((self.heads, self.kv_heads), dim=1)
        if run.cache is not None:
            key, value = run.cache.append(run.slot, layer, key, value)
        apart = run.branches
        mixed = attend(query, key, value, run.bias) if apart is None else apart.attend(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2), run.gates, run.adapt)


class GatedMlp(nn.Module):
    """SwiGLU. As released, `gate` carries no LoRA."""

    def __init__(self, config: DecoderConfig, lora: LoraConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.mlp, bias=False).requires_grad_(False)
        self.up = GatedLora(config.dim, (config.mlp,), lora)
        self.down = GatedLora(config.mlp, (config.dim,), lora)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        return self.down(F.silu(linear(x, self.gate.weight)) * self.up(x, run.gates, run.adapt), run.gates, run.adapt)


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: DecoderConfig, lora: LoraConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, lora)
        self.norm2 = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMlp(config, lora)

    def forward(self, x: Tensor, run: Pass, layer: int) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        x = x + self.attention(self.norm1(x), run, layer)
        return x + self.mlp(self.norm2(x), run)


class Decoder(nn.Module):
    """Frozen base with LoRA experts, a scale head when K > 1, and `extra_tokens` trainable vocabulary rows.

    Ids from `config.vocab` on are the new rows. A tied head is the embeddings, base and new alike; an untied one is a
    matrix of its own with a row for each of them. The base may be stored in bfloat16 (`cast_base`) while what trains
    stays float32: each layer computes in its base's dtype.
    """

    def __init__(self, config: DecoderConfig, lora: LoraConfig, extra_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.experts = lora.experts
        self.merged = False
        self.static: StaticStep | None = None
        """How `generate` takes its steps, where not by `forward`."""
        self._waves: tuple[Tensor, Tensor] | None = None
        self.embedding = nn.Embedding(config.vocab, config.dim).requires_grad_(False)
        self.new_rows = nn.Parameter(torch.randn(extra_tokens, config.dim) * 0.02)
        self.layers = nn.ModuleList(Layer(config, lora) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.scale_head = ScaleHead(config.dim, lora) if lora.experts > 1 else None
        self.head: nn.Linear | None = None
        if not config.tied:
            self.head = nn.Linear(config.dim, config.vocab + extra_tokens, bias=False).requires_grad_(False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    @staticmethod
    def is_base(name: str) -> bool:
        """Whether the parameter of this name (relative to the decoder) belongs to the frozen language model."""
        return "lora_" not in name and not name.startswith(("new_rows", "scale_head"))

    def cast_base(self, dtype: torch.dtype) -> None:
        """Store the frozen weights in `dtype`."""
        for name, parameter in self.named_parameters():
            if self.is_base(name):
                parameter.data = parameter.data.to(dtype)

    def merge(self) -> None:
        """Fold the only expert into the base, a third faster to decode. For inference alone; cannot be saved after.

        Raises `ValueError` if there are experts to choose among.
        """
        if self.scale_head is not None:
            raise ValueError(f"{self.experts} experts are mixed token by token: they cannot be merged into the base")
        for module in self.modules():
            if isinstance(module, GatedLora):
                module.merge()
        self.merged = True

    def prepare(self) -> None:
        """Lay out the experts' matrices once, a quarter off a short step of the mixed pass; see `GatedLora.prepare`."""
        for module in self.modules():
            if isinstance(module, GatedLora):
                module.prepare()

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) to embeddings (B, T, dim)."""
        base = self.embedding(ids.clamp(max=self.config.vocab - 1))
        new = F.embedding((ids - self.config.vocab).clamp(min=0), self.new_rows)
        return torch.where((ids >= self.config.vocab)[..., None], new, base)

    def new_cache(self, capacity: int, batch: int = 1, shared: bool = False) -> DecoderCache:
        """An empty cache for `capacity` tokens of `batch` sequences of equal length.

        `shared` makes both passes use the same one, as upstream's text generation does; with one expert it changes
        nothing.
        """
        passes = 1 if self.scale_head is None else 2
        if self.static is not None:
            capacity = self.static.capacity(capacity)
        config, weight = self.config, self.embedding.weight
        shared = shared and passes == 2
        rows, length = (1, 2 * capacity) if shared else (passes, capacity)
        shape = (rows, config.layers, batch, config.kv_heads, length, config.dim // config.heads)
        return DecoderCache(shape, weight.dtype, weight.device, shared)

    def forward(
        self,
        embeds: Tensor,
        cache: DecoderCache | None = None,
        branch: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, dim) to hidden states after the final norm (B, T, dim) and gates (B, T, K).

        With a cache the T tokens follow those it holds, and are added to it. Raises `ValueError` if they do not fit.
        With `branch` (B, T), for training, sequences that begin alike are laid out as one: see `Branches.of`.
        Given `gates` (B, T, K), for training too, spare the pass that would set them.
        """
        batch, tokens, _ = embeds.shape
        if cache is not None:
            cache.check(batch, tokens)
        if self.scale_head is None:
            gates = embeds.new_ones(batch, tokens, 1, dtype=torch.float32)
            hidden = self._traverse(embeds, None, not self.merged, cache, 0, branch)
        else:
            if gates is None:
                with torch.no_grad():
                    base = self._traverse(embeds, None, False, cache, 0, branch)
                gates = self.scale_head(base)
            hidden = self._traverse(embeds, gates, True, cache, 1, branch)
        if cache is not None:
            cache.length += tokens
        return hidden, gates

    @torch.no_grad()
    def base_states(self, embeds: Tensor, branch: Tensor | None = None) -> Tensor:
        """The gate pass alone: hidden states of the frozen base (B, T, dim), as the scale head reads them."""
        return self._traverse(embeds, None, False, None, 0, branch)

    def _traverse(
        self,
        x: Tensor,
        gates: Tensor | None,
        adapt: bool,
        cache: DecoderCache | None,
        slot: int,
        branch: Tensor | None = None,
    ) -> Tensor:
        tokens, dtype = x.shape[1], self.norm.weight.dtype
        position, past = (0, 0) if cache is None else (cache.length, cache.start(slot, tokens))
        bias = branches = None
        if tokens > 1 and branch is None:  # no token sees a later one
            bias = x.new_full((tokens, past + tokens), -torch.inf, dtype=dtype).triu(past + 1)
        cos, sin = self.rotary(position, tokens, x.device, dtype)
        if branch is not None:
            branches = Branches.of(branch)
            cos, sin = cos[branches.positions][:, None], sin[branches.positions][:, None]
        return self.through(x, Pass(cos, sin, bias, gates, adapt, cache, slot, branches))

    def through(self, x: Tensor, run: Pass) -> Tensor:
        """Embeddings (B, T, dim) to the final norm's output (B, T, dim)."""
        for index, layer in enumerate(self.layers):
            x = layer(x, run, index)
        return self.norm(x)

    def rotary(self, start: int, tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, head_dim) of positions start .. start + tokens - 1, from a table that grows.

        The first half of the sines is negative: they multiply the head's halves as swapped by a roll.
        """
        table = self._waves
        if table is None or table[0].shape[0] < start + tokens or (table[0].device, table[0].dtype) != (device, dtype):
            length = max(2 * (start + tokens), FIRST_TABLE)
            half = self.config.dim // self.config.heads // 2
            frequency = self.config.rope_theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
            angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
            cos, sin = angle.cos(), angle.sin()
            table = torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)
            self._waves = table
        return table[0][start : start + tokens], table[1][start : start + tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., dim) to logits (..., vocab + extra_tokens). Select positions before, the head is big."""
        weight = self.embedding.weight
        hidden = hidden.to(weight.dtype)
        if self.head is not None:
            return self.head(hidden)
        return torch.cat([linear(hidden, weight), F.linear(hidden, self.new_rows.to(weight.dtype))], -1)

    @torch.no_grad()
    def generate(
        self,
        embeds: Tensor,
        cache: DecoderCache,
        max_new_tokens: int,
        stop_ids: Collection[int],
        text_only: bool = False,
        gates: list[float] | None = None,
        draft: Callable[[Sequence[int]], Sequence[int]] | None = None,
        beyond: list[Tensor] | None = None,
    ) -> Iterator[int]:
        """Yield greedy token ids that follow embeds (1, T, dim) until one of `stop_ids` (not yielded).

        `text_only` chooses among the backbone's own tokens: an answer, say, never turns into an action. `gates`
        receives, just before each token, the first expert's weight in the state that the token was read from.
        `draft` guesses, from the tokens said so far, those that come next. They are read in the same pass as the prompt
        or the last token, and each that would have been said spares a step. The cache must not be shared then. A guess
        may go on behind the end: if it was right so far, `beyond` receives the states (1, N, dim) of its rest, from the
        stop id on.

        Exhausted, the iterator leaves the prompt and every yielded token in the cache, ready for what comes next.
        """
        said: list[int] = []
        x = embeds
        while True:
            guessed = [] if draft is None else list(draft(said))[: cache.capacity - cache.length - x.shape[1]]
            hidden, mixed = self._read(x, guessed, cache)
            logits = self.logits(hidden[0])
            for row, token in enumerate((logits[:, : self.config.vocab] if text_only else logits).argmax(-1).tolist()):
                expected = row < len(guessed) and guessed[row] == token
                if token in stop_ids and expected and beyond is not None:
                    beyond.append(hidden[:, row + 1 :])
                if token in stop_ids or len(said) == max_new_tokens:
                    return
                if gates is not None:
                    gates.append(float(mixed[0, row, 0]))
                yield token
                said.append(token)
                if not expected:
                    x = self.embed(torch.tensor([[token]], device=x.device))
                    break
                cache.length += 1  # it holds the token already, behind its end

    def _read(self, x: Tensor, guessed: list[int], cache: DecoderCache) -> tuple[Tensor, Tensor]:
        """States (1, 1 + G, dim) and gates of the last of x (1, T, dim) and of G guesses, which the cache holds beyond
        its end."""
        if not guessed and x.shape[1] == 1 and self.static is not None and not cache.shared:
            return self.static(x, cache)
        last = x.shape[1] - 1
        if guessed:
            x = torch.cat([x, self.embed(torch.tensor([guessed], device=x.device))], 1)
        hidden, mixed = self(x, cache)
        if guessed:
            cache.crop(cache.length - len(guessed))
        return hidden[:, last:], mixed[:, last:]


def load_llama(decoder: Decoder, source: Path | Mapping[str, Tensor]) -> None:
    """Fill the frozen base from a Hugging Face Llama or Qwen2: a folder with `model.safetensors`, or its state dict.

    Raises `ValueError` where a tensor is missing, does not fit, or the head is not tied to the embeddings.
    """
    weights = load_file(source / "model.safetensors") if isinstance(source, Path) else dict(source)
    try:
        _copy_base(decoder, weights)
    except KeyError as error:
        raise ValueError(f"these are not the decoder's base weights: tensor {error} is missing") from error
    except RuntimeError as error:
        raise ValueError(f"these base weights have other sizes than the decoder: {error}") from error


@torch.no_grad()
def _copy_base(decoder: Decoder, weights: dict[str, Tensor]) -> None:
    embedding = weights["model.embed_tokens.weight"]
    if not torch.equal(weights.get("lm_head.weight", embedding), embedding):
        raise ValueError("the decoder ties its head to the embeddings, these base weights have a separate lm_head")
    decoder.embedding.weight.copy_(embedding)
    decoder.norm.weight.copy_(weights["model.norm.weight"])
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{index}."
        layer.norm1.weight.copy_(weights[prefix + "input_layernorm.weight"])
        layer.norm2.weight.copy_(weights[prefix + "post_attention_layernorm.weight"])
        projections = [f"{prefix}self_attn.{name}_proj" for name in "qkv"]
        layer.attention.qkv.load_base(
            [weights[f"{name}.weight"] for name in projections],
            [weights[f"{name}.bias"] for name in projections] if decoder.config.qkv_bias else None,
        )
        layer.attention.out.load_base([weights[prefix + "self_attn.o_proj.weight"]])
        layer.mlp.gate.weight.copy_(weights[prefix + "mlp.gate_proj.weight"])
        layer.mlp.up.load_base([weights[prefix + "mlp.up_proj.weight"]])
        layer.mlp.down.load_base([weights[prefix + "mlp.down_proj.weight"]])
