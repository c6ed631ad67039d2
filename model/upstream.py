"""Upstream's checkpoint layout: which of its tensors make each of ours (keys of reference 3.3).

Stage 1, stage 2 and the "unloaded" export name the same tensors differently; `canonical` makes them one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ReleasedConfig

Shapes = Mapping[str, tuple[int, ...]]

LLM, SIGLIP = "language_model.model", "vision_model.vision_model"
EXPERT, DINO = "action_model", "action_model.film_vision_model.vision_model"
GATE = "language_model.internal_xlora_classifier.layers"
PREFIXES = (
    ("language_model.base_model.lora_model.model.", "language_model."),
    ("language_model.base_model.model.", "language_model."),
    ("language_model.base_model.internal_", "language_model.internal_"),
)
UNUSED = re.compile(
    rf"{re.escape(SIGLIP)}\.head\.|{re.escape(DINO)}\.(norm|mask_token)|rotary_emb\.inv_freq$|position_ids$"
)
"""SigLIP's pooling head, DINOv2's final norm and some buffers: stored by upstream, used by nobody."""
DINO_BLOCK = re.compile(rf"{re.escape(DINO)}\.blocks\.(\d+)\.")
LISTED = 20
"""Problems spelled out in one error; more are counted."""


def canonical(key: str) -> str:
    """A tensor's name without the wrappers of PEFT: base weights plain, LoRA experts numbered from 0."""
    for wrapper, plain in PREFIXES:
        key = key.replace(wrapper, plain, 1) if key.startswith(wrapper) else key
    return key.replace(".base_layer.", ".").replace(".default.weight", ".0.weight")


def canonical_adapter(key: str) -> str:
    """As `canonical`, for a tensor of an exported LoRA adapter."""
    return canonical(re.sub(r"(lora_[AB])\.weight$", r"\1.0.weight", f"language_model.{key}"))


@dataclass(frozen=True)
class Recipe:
    """How one of our tensors is made: upstream's tensors, with the shapes they must have, and what joins them."""

    parts: Mapping[str, tuple[int, ...]]
    join: Callable[[Sequence[Tensor]], Tensor]


def check(shapes: Shapes, config: ReleasedConfig, book: Mapping[str, Recipe]) -> None:
    """Raise one `ValueError` that lists every missing, unexpected and misshapen tensor of a file, by canonical name."""
    wanted = {key: shape for recipe in book.values() for key, shape in recipe.parts.items()}
    problems = [f"missing {key}" for key in wanted.keys() - shapes.keys()]
    problems += [f"unexpected {key}" for key in shapes.keys() - wanted.keys() if not _unused(key, config)]
    problems += [
        f"{key} is {shapes[key]} instead of {wanted[key]}"
        for key in wanted.keys() & shapes.keys()
        if shapes[key] != wanted[key]
    ]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise ValueError(f"{len(problems)} tensors do not fit: " + "; ".join(sorted(problems)[:LISTED]) + more)


def _unused(key: str, config: ReleasedConfig) -> bool:
    block = DINO_BLOCK.match(key)
    return bool(UNUSED.search(key)) or (block is not None and int(block.group(1)) > config.compat.feature_block)


def recipes(config: ReleasedConfig) -> dict[str, Recipe]:
    """How to make every tensor of a `ReleasedVLA` of this config, by its name there."""
    book = _Book()
    _vision(book, config)
    _decoder(book, config)
    _dino(book, config)
    _expert(book, config)
    return book


class _Book(dict[str, Recipe]):
    def take(self, ours: str, theirs: str, *shape: int) -> None:
        self[ours] = Recipe({theirs: shape}, lambda parts: parts[0])

    def cat(self, ours: str, theirs: Mapping[str, tuple[int, ...]]) -> None:
        self[ours] = Recipe(theirs, lambda parts: torch.cat(list(parts)))

    def linear(self, ours: str, theirs: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.take(f"{ours}.weight", f"{theirs}.weight", outputs, inputs)
        if bias:
            self.take(f"{ours}.bias", f"{theirs}.bias", outputs)

    def joint(self, ours: str, theirs: Mapping[str, int], inputs: int, bias: bool = True) -> None:
        """One linear layer made of several, each with so many outputs."""
        self.cat(f"{ours}.weight", {f"{name}.weight": (width, inputs) for name, width in theirs.items()})
        if bias:
            self.cat(f"{ours}.bias", {f"{name}.bias": (width,) for name, width in theirs.items()})

    def norm(self, ours: str, theirs: str, dim: int) -> None:
        for kind in ("weight", "bias"):
            self.take(f"{ours}.{kind}", f"{theirs}.{kind}", dim)

    def lora(self, ours: str, theirs: Mapping[str, int], inputs: int, config: ReleasedConfig) -> None:
        """A `GatedLora`: base without its bias, and the LoRA experts of each projection."""
        rank, experts = config.lora.rank, range(config.lora.experts)
        self.joint(f"{ours}.base", theirs, inputs, bias=False)
        downs = {f"{name}.lora_A.{k}.weight": (rank, inputs) for name in theirs for k in experts}
        shape = (len(theirs), len(experts), rank, inputs)
        self[f"{ours}.lora_a"] = Recipe(downs, lambda parts: torch.stack(list(parts)).view(shape))
        for index, (name, width) in enumerate(theirs.items()):
            ups = {f"{name}.lora_B.{k}.weight": (width, rank) for k in experts}
            self[f"{ours}.lora_b.{index}"] = Recipe(ups, lambda parts: torch.stack(list(parts), dim=1))


def _vision(book: _Book, config: ReleasedConfig) -> None:
    vision, dim = config.vision, config.vision.dim
    book.take("vision.patch.weight", f"{SIGLIP}.embeddings.patch_embedding.weight", dim, 3, vision.patch, vision.patch)
    book.take("vision.patch.bias", f"{SIGLIP}.embeddings.patch_embedding.bias", dim)
    rows, columns = vision.grid
    book.take("vision.position", f"{SIGLIP}.embeddings.position_embedding.weight", rows * columns, dim)
    book.norm("vision.norm", f"{SIGLIP}.post_layernorm", dim)
    for index in range(vision.layers):
        ours, theirs = f"vision.blocks.{index}", f"{SIGLIP}.encoder.layers.{index}"
        book.joint(f"{ours}.qkv", {f"{theirs}.self_attn.{name}_proj": dim for name in "qkv"}, dim)
        book.linear(f"{ours}.proj", f"{theirs}.self_attn.out_proj", dim, dim)
        book.linear(f"{ours}.fc1", f"{theirs}.mlp.fc1", dim, vision.mlp)
        book.linear(f"{ours}.fc2", f"{theirs}.mlp.fc2", vision.mlp, dim)
        for half in ("1", "2"):
            book.norm(f"{ours}.norm{half}", f"{theirs}.layer_norm{half}", dim)
    folded, width = dim * vision.shuffle**2, config.decoder.dim
    book.norm("connector.norm", "mlp1.0", folded)
    book.linear("connector.fc1", "mlp1.1", folded, width)
    book.linear("connector.fc2", "mlp1.3", width, width)


def _decoder(book: _Book, config: ReleasedConfig) -> None:
    size, lora = config.decoder, config.lora
    dim, rows, kv = size.dim, size.vocab + config.queries, size.dim // size.heads * size.kv_heads
    embedding = {f"{LLM}.embed_tokens.weight": (rows, dim)}
    book["decoder.embedding.weight"] = Recipe(embedding, lambda parts: parts[0][: size.vocab])
    book["decoder.new_rows"] = Recipe(embedding, lambda parts: parts[0][size.vocab :])
    book.linear("decoder.head", "language_model.lm_head", dim, rows, bias=False)
    book.take("decoder.norm.weight", f"{LLM}.norm.weight", dim)
    for index in range(size.layers):
        ours, theirs = f"decoder.layers.{index}", f"{LLM}.layers.{index}"
        qkv = {f"{theirs}.self_attn.{name}_proj": width for name, width in zip("qkv", (dim, kv, kv), strict=True)}
        book.lora(f"{ours}.attention.qkv", qkv, dim, config)
        book.cat(f"{ours}.attention.qkv.base.bias", {f"{name}.bias": (width,) for name, width in qkv.items()})
        book.lora(f"{ours}.attention.out", {f"{theirs}.self_attn.o_proj": dim}, dim, config)
        book.linear(f"{ours}.mlp.gate", f"{theirs}.mlp.gate_proj", dim, size.mlp, bias=False)
        book.lora(f"{ours}.mlp.up", {f"{theirs}.mlp.up_proj": size.mlp}, dim, config)
        book.lora(f"{ours}.mlp.down", {f"{theirs}.mlp.down_proj": dim}, size.mlp, config)
        book.take(f"{ours}.norm1.weight", f"{theirs}.input_layernorm.weight", dim)
        book.take(f"{ours}.norm2.weight", f"{theirs}.post_attention_layernorm.weight", dim)
    if lora.experts > 1:
        widths = [dim, *[lora.gate_dim] * (lora.gate_depth - 1), lora.experts]
        for index in range(lora.gate_depth):
            name = f"layers.{3 * index}"  # between the linears stand a ReLU and a dropout
            book.linear(f"decoder.scale_head.{name}", f"{GATE}.{3 * index}", widths[index], widths[index + 1])


def _dino(book: _Book, config: ReleasedConfig) -> None:
    dino, dim = config.dino, config.dino.dim
    book.take("action_expert.dino.patch.weight", f"{DINO}.patch_embed.proj.weight", dim, 3, dino.patch, dino.patch)
    book.take("action_expert.dino.patch.bias", f"{DINO}.patch_embed.proj.bias", dim)
    book.take("action_expert.dino.cls", f"{DINO}.cls_token", 1, 1, dim)
    book.take("action_expert.dino.registers", f"{DINO}.reg_token", 1, dino.registers, dim)
    book.take("action_expert.dino.position", f"{DINO}.pos_embed", 1, (dino.size // dino.patch) ** 2, dim)
    for index in range(config.compat.feature_block + 1):
        ours, theirs = f"action_expert.dino.blocks.{index}", f"{DINO}.blocks.{index}.block"
        book.linear(f"{ours}.qkv", f"{theirs}.attn.qkv", dim, 3 * dim)
        book.linear(f"{ours}.proj", f"{theirs}.attn.proj", dim, dim)
        book.linear(f"{ours}.fc1", f"{theirs}.mlp.fc1", dim, 4 * dim)
        book.linear(f"{ours}.fc2", f"{theirs}.mlp.fc2", 4 * dim, dim)
        for half in ("1", "2"):
            book.norm(f"{ours}.norm{half}", f"{theirs}.norm{half}", dim)
            book.take(f"{ours}.scale{half}", f"{theirs}.ls{half}.gamma", dim)
        film = {f"{DINO}.blocks.{index}.{name}": dim for name in ("scale", "shift")}
        book.joint(f"action_expert.dino.film.{index}", film, config.decoder.dim)


def _expert(book: _Book, config: ReleasedConfig) -> None:
    action, dim = config.action, config.action.dim
    projectors = {"visual": ("visual_projector", config.dino.dim), "latent": ("cog_projector", config.decoder.dim)}
    for name, (theirs, inputs) in projectors.items():
        book.linear(f"action_expert.{name}_projector.0", f"{EXPERT}.{theirs}.0", inputs, dim)
        book.linear(f"action_expert.{name}_projector.2", f"{EXPERT}.{theirs}.2", dim, dim)
    if action.proprio_dim:
        book.linear("action_expert.state_embed.0", f"{EXPERT}.state_embed.0", action.proprio_dim, dim)
        book.linear("action_expert.state_embed.2", f"{EXPERT}.state_embed.2", dim, dim)
    book.linear("action_expert.action_in", f"{EXPERT}.action_embed.linear_1", action.action_dim, dim)
    book.linear("action_expert.action_time.0", f"{EXPERT}.action_embed.linear_2", 2 * dim, dim)
    book.linear("action_expert.action_time.2", f"{EXPERT}.action_embed.linear_3", dim, dim)
    widths = [action.chunk * dim, 4 * dim, 2 * dim, dim // 2, action.chunk * action.action_dim]
    for index in range(4):
        name = f"action_head.{2 * index}"
        book.linear(f"action_expert.{name}", f"{EXPERT}.{name}", widths[index], widths[index + 1])
    book.take("action_expert.out_norm.weight", f"{EXPERT}.VideoGPT.model.norm.weight", dim)
    for index in range(action.layers):
        ours, theirs = f"action_expert.layers.{index}", f"{EXPERT}.VideoGPT.model.layers.{index}"
        book.joint(f"{ours}.qkv", {f"{theirs}.self_attn.{name}_proj": dim for name in "qkv"}, dim, bias=False)
        book.linear(f"{ours}.out", f"{theirs}.self_attn.o_proj", dim, dim, bias=False)
        gate_up = {f"{theirs}.mlp.{name}_proj": action.mlp for name in ("gate", "up")}
        book.joint(f"{ours}.gate_up", gate_up, dim, bias=False)
        book.linear(f"{ours}.down", f"{theirs}.mlp.down_proj", action.mlp, dim, bias=False)
        book.take(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight", dim)
        book.take(f"{ours}.mlp_norm.weight", f"{theirs}.post_attention_layernorm.weight", dim)
