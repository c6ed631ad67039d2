"""How the outputs of fixture sets that come from the networks are computed with ours."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from model.action_expert import time_embedding
from model.config import Compat
from model.flow import interpolate
from model.instructvla import View
from model.prompts import Batch
from model.released import ReleasedVLA
from model.tiling import crop_for_expert, tile
from model.vision import pixel_shuffle
from tests.upstream_sets import FixtureSet, Value, produces

# --- vision ---------------------------------------------------------------------------------------------------------


@produces(r"vision/(\w+)/last_hidden")
def last_hidden(fixtures: FixtureSet, kind: str) -> Value:
    return fixtures.model(kind).model.vision(fixtures.inputs["vlm/pixel_values"])


@produces(r"vision/(\w+)/pixel_shuffled")
def shuffled(fixtures: FixtureSet, kind: str) -> Value:
    size = fixtures.config(kind).vision
    return pixel_shuffle(last_hidden(fixtures, kind), size.grid, size.shuffle)


@produces(r"vision/(\w+)/connector")
def image_tokens(fixtures: FixtureSet, kind: str) -> Value:
    return fixtures.model(kind).model.encode(fixtures.inputs["vlm/pixel_values"]).tokens


# --- decoder --------------------------------------------------------------------------------------------------------


def batch_of(fixtures: FixtureSet, kind: str, ids: Tensor, labels: Tensor | None = None) -> Batch:
    config, slot = fixtures.config(kind), fixtures.manifest["config"]["token_ids"]["<IMG_CONTEXT>"]
    queries = (ids >= config.decoder.vocab) & (ids < config.decoder.vocab + config.queries)
    return Batch(ids, ids if labels is None else labels, ids == slot, queries, torch.ones_like(ids, dtype=torch.bool))


@cache
def decoded(fixtures: FixtureSet, kind: str, mode: str) -> dict[str, Tensor]:
    """Everything about one uncached pass over a complete prompt; `layers` are the mixed pass's."""
    model = fixtures.model(kind).model
    ids = fixtures.inputs[f"vlm/input_ids_{mode}"]
    labels = fixtures.inputs["vlm/labels_direct"] if mode == "direct" else None
    batch = batch_of(fixtures, kind, ids, labels)
    view = model.encode(fixtures.inputs["vlm/pixel_values"])
    embeds = model.embed(batch.ids, batch.image_positions, view.tokens)
    layers: list[Tensor] = []
    bases: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda m, i, o: layers.append(o)) for layer in model.decoder.layers]
    if model.decoder.scale_head is not None:
        hooks.append(model.decoder.scale_head.register_forward_hook(lambda m, i, o: bases.append(i[0])))
    with torch.no_grad():
        hidden, gates = model.decoder(embeds)
        loss, latents = model.language(batch, view)
    for hook in hooks:
        hook.remove()
    count, passes = len(model.decoder.layers), 1 if model.decoder.scale_head is None else 2
    mixed = layers[(passes - 1) * count : passes * count]
    result = {"last_hidden": hidden, "gate": gates, "latent_C": latents, "lm_loss": loss[None]}
    result["logits"] = model.decoder.logits(hidden)
    result["hidden_all"] = torch.stack([embeds, *mixed[:-1], hidden])
    result["gate_base_hidden"] = bases[0] if bases else hidden
    return result


@produces(r"vlm/(\w+)/(direct|think)/(\w+)(?<!_onehot\d)")
def decoder_output(fixtures: FixtureSet, kind: str, mode: str, what: str) -> Value:
    return decoded(fixtures, kind, mode)[what]


class OneHot(nn.Module):
    """A scale head that gives everything to one expert."""

    def __init__(self, experts: int, chosen: int) -> None:
        super().__init__()
        self.gate = torch.eye(experts)[chosen]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gate.expand(*hidden.shape[:2], -1)


@produces(r"vlm/(stage2)/(direct)/latent_C_onehot(\d)")
def one_hot(fixtures: FixtureSet, kind: str, mode: str, chosen: str) -> Value:
    model = fixtures.model(kind).model
    own = model.decoder.scale_head
    model.decoder.scale_head = OneHot(model.decoder.experts, int(chosen))
    try:
        return decoded.__wrapped__(fixtures, kind, mode)["latent_C"]
    finally:
        model.decoder.scale_head = own


@produces(r"moe_linear/layers\.(\d+)\.(self_attn\.q_proj|mlp\.down_proj)/(y|y_gatepass)")
def moe_linear(fixtures: FixtureSet, layer: str, name: str, what: str) -> Value:
    model = fixtures.model("stage2").model
    module = model.decoder.layers[int(layer)]
    linear, width = (module.attention.qkv, model.config.decoder.dim) if "q_proj" in name else (module.mlp.down, None)
    key = f"moe_linear/layers.{layer}.{name}"
    if what == "y":
        return linear(fixtures.inputs[f"{key}/x"], fixtures.inputs[f"{key}/gate"])[..., :width]
    seen: list[Tensor] = []
    hook = linear.register_forward_hook(lambda m, i, o: seen.append(o))
    decoded.__wrapped__(fixtures, "stage2", "direct")
    hook.remove()
    return seen[0][..., :width]  # the gate pass comes first


# --- greedy text ----------------------------------------------------------------------------------------------------


@cache
def greedy(fixtures: FixtureSet, kind: str, shared: bool, steps: int = 20) -> tuple[Tensor, Tensor]:
    model = fixtures.model(kind).model
    ids = fixtures.inputs["gen/input_ids_think_prompt"]
    batch = batch_of(fixtures, kind, ids)
    embeds = model.embed(ids, batch.image_positions, model.encode(fixtures.inputs["vlm/pixel_values"]).tokens)
    logits = []
    with torch.no_grad():
        cache = model.decoder.new_cache(ids.shape[1] + steps, shared=shared)
        hidden, _ = model.decoder(embeds, cache)
        for _ in range(steps):
            logits.append(model.decoder.logits(hidden[0, -1]))
            hidden, _ = model.decoder(model.decoder.embed(logits[-1].argmax().view(1, 1)), cache)
        said = list(
            model.decoder.generate(
                embeds, model.decoder.new_cache(ids.shape[1] + steps, shared=shared), steps, stop_ids=()
            )
        )
    chosen = torch.stack(logits).argmax(-1)
    assert said == chosen.tolist()
    return chosen, torch.stack(logits)


@produces(r"gen/(stage\d)/(?:(upstream_cache|clean)/)?(ids|logits)20")
def generated(fixtures: FixtureSet, kind: str, cache_kind: str | None, what: str) -> Value:
    ids, logits = greedy(fixtures, kind, cache_kind == "upstream_cache")
    return ids if what == "ids" else logits


# --- action expert --------------------------------------------------------------------------------------------------


@produces(r"dino/(\w+)/features")
def dino_features(fixtures: FixtureSet, kind: str) -> Value:
    return fixtures.model(kind).model.action_expert.dino(
        fixtures.inputs["dino/pixel_values"][:, None], fixtures.inputs["dino/latent_C"]
    )


@produces(r"dino/(\w+)/all_blocks")
def dino_blocks(fixtures: FixtureSet, kind: str) -> Value:
    last = len(fixtures.outputs[f"dino/{kind}/all_blocks"]) - 1
    dino = fixtures.model(kind, Compat(feature_block=last)).model.action_expert.dino
    return torch.stack(list(dino.walk(fixtures.inputs["dino/pixel_values"], fixtures.inputs["dino/latent_C"])))


@cache
def expert(fixtures: FixtureSet, kind: str, compat: Compat | None = None) -> dict[str, Tensor]:
    """The expert on two moments with one picture each."""
    model = fixtures.model(kind, compat).model
    part, own = model.action_expert, {k.split("/")[-1]: v for k, v in fixtures.inputs.items() if f"expert/{kind}/" in k}
    pictures, latents = fixtures.inputs["dino/pixel_values"][:, None], fixtures.inputs["dino/latent_C"]
    view = View(pictures, torch.zeros(0))
    noisy = interpolate(own["x0"], own["x1"], own["t"], model.config.action.sigma_min)
    final: list[Tensor] = []
    hook = part.out_norm.register_forward_hook(lambda m, i, o: final.append(o))
    with torch.no_grad():
        context = part.context(pictures, latents, own.get("state"))
        velocity = part.velocity(context, noisy, own["t"])
        loss = model.flow_loss(view, latents, own.get("state"), own["x1"], own["x0"], own["t"])
        actions = part.embed(noisy, own["t"])
    hook.remove()
    visual = context.shape[1] - part.conditioning
    return {
        "x_t": noisy,
        "time_embedding": time_embedding(own["t"], model.config.action.dim),
        "visual_tokens": context[:, :visual],
        "cog_tokens": context[:, visual : visual + model.queries],
        "action_tokens": actions,
        "input_sequence": torch.cat([context, actions], 1),
        "llama_last_hidden": final[0],
        "velocity": velocity,
        "flow_loss": loss[None],
    }


EXPERT_PARTS = r"x_t|time_embedding|\w+_tokens|input_sequence|llama_last_hidden|velocity|flow_loss"


@produces(rf"expert/(\w+)/({EXPERT_PARTS})")
def expert_output(fixtures: FixtureSet, kind: str, what: str) -> Value:
    return expert(fixtures, kind)[what]


@produces(r"negative/(stage2)/velocity_(true_mask|no_bias)")
def wrong_reading(fixtures: FixtureSet, kind: str, which: str) -> Value:
    return expert(fixtures, kind, Compat(attention_bias=None if which == "true_mask" else 0.0))["velocity"]


@produces(r"expert/(\w+)/(sample10|sample10_velocities|sample10_two_images)")
def sampled(fixtures: FixtureSet, kind: str, what: str) -> Value:
    model = fixtures.model(kind).model
    pixels = fixtures.inputs["dino/pixel_values"]
    pictures = pixels[None] if what.endswith("two_images") else pixels[None, :1]
    state = fixtures.inputs.get(f"expert/{kind}/state")
    velocities: list[Tensor] = []
    hook = model.action_expert.action_head.register_forward_hook(lambda m, i, o: velocities.append(o))
    latents = fixtures.inputs["dino/latent_C"][:1]
    noise = fixtures.inputs[f"expert/{kind}/sample_noise"]
    sample = model.act(View(pictures, torch.zeros(0)), latents, None if state is None else state[:1], noise)
    hook.remove()
    return torch.cat(velocities).unflatten(-1, noise.shape[1:]) if what.endswith("velocities") else sample


@produces(r"train/(\w+)/(loss_total|loss_lm)")
def losses(fixtures: FixtureSet, kind: str, what: str) -> Value:
    model = fixtures.model(kind).model
    own = {key.split("/")[-1]: value for key, value in fixtures.inputs.items() if key.startswith(f"train/{kind}/")}
    view = model.encode(own["pixel_values"], own["system1_pixel_values"][:, None])
    language, latents = model.language(batch_of(fixtures, kind, own["input_ids"], own["labels"]), view)
    state = own["proprios"][:, -1] if "proprios" in own else None
    flow = model.flow_loss(view, latents, state, own["actions"], own["x0"], own["t"])
    return (language if what == "loss_lm" else language + flow)[None]


# --- end to end -----------------------------------------------------------------------------------------------------


@produces(r"e2e/(\w+)/(latent_C|normalized|actions)")
def end_to_end(fixtures: FixtureSet, case_name: str, what: str) -> Value:
    (case,) = [case for case in fixtures.text("e2e") if case["name"] == case_name]
    kind = next(kind for kind, path in fixtures.manifest["runs"].items() if path.endswith("/" + case["run"]))
    released = fixtures.model(kind)
    model, config, statistics = released.model, released.model.config, released.statistics[case["unnorm_key"]]
    picture = fixtures.inputs[case["image"]].numpy()
    pictures = crop_for_expert(picture, config.dino.size, config.compat.dino_crop)[None, None]
    view = model.encode(tile(picture, config.vision.size), pictures)
    response = case["response"]
    if case_name.endswith("upstream_cache"):
        response = written(fixtures, model, released.prompter.think(case["instruction"]), view, shared=True)
        assert response == case["response"]
    prompt = (
        released.prompter.act_now(case["instruction"])
        if response is None
        else released.prompter.act_after(case["instruction"], response)
    )
    latents = model.plan(prompt, view)
    if what == "latent_C":
        return latents
    state = None
    if case["state"] is not None:
        state = statistics.normalise_proprio(fixtures.inputs[case["state"]].numpy())
        state = torch.from_numpy(state).float()[None]
    sample = model.act(view, latents, state, fixtures.inputs[f"e2e/{case_name}/noise"])[0].double().numpy()
    actions = statistics.unnormalise(sample)
    return actions if what == "actions" else statistics.normalise(actions)


def written(fixtures: FixtureSet, model: ReleasedVLA, prompt: Any, view: View, shared: bool) -> str:
    embeds, cache = model.open_prompt(prompt, view, 50, shared)
    prompter = fixtures.model("stage2").prompter
    return prompter.decode(list(model.decoder.generate(embeds, cache, 50, prompter.stop_ids)))
