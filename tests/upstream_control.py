"""How the outputs of fixture sets around the networks are computed with ours: pictures, statistics, commands."""

from __future__ import annotations

from functools import cache

import numpy as np

from model.config import Compat
from model.ensemble import GOOGLE, WIDOWX, AdaptiveEnsemble, Command, Control, StickyGripper
from model.ensemble import google_proprio as google
from model.ensemble import widowx_proprio as widowx
from model.tiling import centre_crop, crop_for_expert, tile
from tests.upstream_sets import FixtureSet, Value, produces


@produces(r"norm/unnormalize/(\w+)/(clipped|actions)")
def unnormalised(fixtures: FixtureSet, data: str, what: str) -> Value:
    statistics = fixtures.model("stage1").statistics[data]
    actions = statistics.unnormalise(fixtures.inputs[f"norm/unnormalize/{data}/raw"].double().numpy())
    return actions if what == "actions" else statistics.normalise(actions)


@produces(r"norm/proprio_inference/(\w+)/normalized")
def proprio_in_use(fixtures: FixtureSet, data: str) -> Value:
    raw = fixtures.inputs[f"norm/proprio_inference/{data}/raw"].numpy()
    return fixtures.model("stage1").statistics[data].normalise_proprio(raw)


@produces(r"norm/train/(\w+)/(action|proprio)")
def normalised(fixtures: FixtureSet, data: str, what: str) -> Value:
    statistics, raw = fixtures.model("stage1").statistics[data], fixtures.inputs[f"norm/train/{data}/{what}_raw"]
    return statistics.normalise(raw.numpy()) if what == "action" else statistics.normalise_proprio(raw.numpy())


@produces(r"image/(vlm|dino)_(tiny|full)/(\w+)")
def preprocessed(fixtures: FixtureSet, branch: str, size: str, which: str) -> Value:
    picture = fixtures.inputs[f"image/{which}_uint8"].numpy()
    side = fixtures.outputs[f"image/{branch}_{size}/{which}"].shape[-1]
    return tile(picture, side)[0] if branch == "vlm" else crop_for_expert(picture, side, Compat.dino_crop)


@produces(r"image/nonstate_crop/(primary_uint8|dino_full)")
def cropped(fixtures: FixtureSet, what: str) -> Value:
    picture = centre_crop(fixtures.inputs["image/primary_uint8"].numpy())
    if what == "primary_uint8":
        return picture
    exact = fixtures.outputs["image/nonstate_crop/primary_uint8"].numpy()  # ours may differ by one grey level
    return crop_for_expert(exact, fixtures.outputs["image/nonstate_crop/dino_full"].shape[-1], Compat.dino_crop)


@produces(r"ensemble/H(\d+)_alpha([\d.]+)/actions")
def ensembled(fixtures: FixtureSet, horizon: str, alpha: str) -> Value:
    ensemble = AdaptiveEnsemble(int(horizon), float(alpha))
    chunks = fixtures.inputs[f"ensemble/H{horizon}_alpha{alpha}/chunks"].numpy()
    return np.stack([ensemble.step(chunk) for chunk in chunks])


@cache
def commands(fixtures: FixtureSet, robot: str) -> list[Command]:
    control = Control(WIDOWX if robot == "widowx" else GOOGLE)
    return [control.step(chunk) for chunk in fixtures.inputs[f"policy/{robot}/chunks"].numpy()]


@produces(r"policy/(widowx|google)/(world_vector|rot_axangle|gripper)")
def commanded(fixtures: FixtureSet, robot: str, what: str) -> Value:
    values = np.array([getattr(command, what) for command in commands(fixtures, robot)])
    return values[:, None] if what == "gripper" else values


@produces(r"policy/(widowx|google)/ensembled")
def policy_ensemble(fixtures: FixtureSet, robot: str) -> Value:
    setup = WIDOWX if robot == "widowx" else GOOGLE
    ensemble = AdaptiveEnsemble(setup.horizon, setup.alpha)
    return np.stack([ensemble.step(chunk) for chunk in fixtures.inputs[f"policy/{robot}/chunks"].numpy()])


@produces(r"policy/google_sticky/gripper")
def sticky(fixtures: FixtureSet) -> Value:
    gripper = StickyGripper()
    openings = fixtures.inputs["policy/google_sticky/open_gripper"].tolist()
    return np.array([[gripper.step(opening)] for opening in openings])


@produces(r"proprio/(widowx|google)/proprio")
def proprio(fixtures: FixtureSet, robot: str) -> Value:
    convert = widowx if robot == "widowx" else google
    return np.stack([convert(row) for row in fixtures.inputs[f"proprio/{robot}/eef_pos"].numpy()])
