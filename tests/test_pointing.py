"""A closer look at points of a picture: what it depends on, and how the hand turns by it."""

import math

import pytest
import torch

from model.pointing import Closeup, Turning, turned

ROWS, COLUMNS, DIM = 4, 6, 32


def told(yaw: float) -> list[float]:
    return [math.cos(2 * yaw), math.sin(2 * yaw), math.cos(4 * yaw), math.sin(4 * yaw)]


def test_a_turned_gripper_sees_what_is_left_to_turn() -> None:
    seen = turned(torch.tensor([told(0.7), told(-0.4)]), torch.tensor([0.5, 0.3]))
    torch.testing.assert_close(seen, torch.tensor([told(0.2), told(-0.7)]))


def test_things_are_read_around_their_points_and_where_they_stand_off_the_whole_picture() -> None:
    torch.manual_seed(0)
    module, trunk = Closeup(DIM, 16, (ROWS, COLUMNS)).eval(), torch.randn(1, 1 + ROWS * COLUMNS, DIM)
    other = trunk.clone()
    other[:, -1] += torch.randn(DIM)  # the last row's last patch
    first, last = [0.5 / COLUMNS, 0.5 / ROWS], [1 - 0.5 / COLUMNS, 1 - 0.5 / ROWS]
    points = torch.tensor([[first, last]])
    with torch.no_grad():
        looks, places, lies = module(trunk, points)
        looks2, places2, lies2 = module(other, points)
        alone = module(trunk, points[:, 1:])
    assert len(looks) == 2 and places.shape == (1, 2, 3) and lies.shape == (1, 2, 4)
    torch.testing.assert_close(looks[-1][:, 0], looks2[-1][:, 0])
    torch.testing.assert_close(lies[:, 0], lies2[:, 0])
    assert not torch.allclose(looks[-1][:, 1], looks2[-1][:, 1]) and not torch.allclose(lies[:, 1], lies2[:, 1])
    assert not torch.allclose(places[:, 0], places2[:, 0]), "a corner of the picture tells about the camera"
    for one, two in zip((looks[-1], places, lies), (alone[0][-1], *alone[1:]), strict=True):
        torch.testing.assert_close(one[:, 1:], two), "each thing is looked at by itself"


def test_the_hand_turns_step_by_step_to_the_nearest_fit() -> None:
    module = Turning(8, 16, chunk=4)
    torch.nn.init.zeros_(module.gates[-1].weight)
    torch.nn.init.constant_(module.gates[-1].bias, 30.0)  # at every step

    def turns(lies: list[float], yaw: float, far: bool = False) -> list[float]:
        given = torch.tensor([lies]), torch.tensor([yaw]), torch.zeros(1, 8), torch.zeros(1, 3)
        return module(*given, far)[0].detach().tolist()

    def square(yaw: float) -> list[float]:
        return [0.1, 0.1, *told(yaw)[2:]]

    assert turns(told(0.6), 0.0) == pytest.approx([1, 1, 0.4, 0], abs=1e-5)
    assert turns(told(0.6), 0.5) == pytest.approx([0.4, 0, 0, 0], abs=1e-5)
    assert turns(told(1.0), 0.0) == pytest.approx([1] * 4, abs=1e-5), "not across it, which would be nearer"
    assert turns(told(1.7), 0.0) == pytest.approx([-1] * 4, abs=1e-5), "a quarter turn and a bit: the other way"
    assert turns(told(0.6), 0.0, far=True) == pytest.approx([-1] * 4, abs=1e-5)
    assert turns(square(1.0), 0.0) == pytest.approx([-1, -1, -((math.pi / 2 - 1) / 0.25 - 2), 0], abs=1e-4)
    assert turns(square(0.6), 0.0, far=True) == pytest.approx([-1, -1, -1, -((math.pi / 2 - 0.6) / 0.25 - 3)], abs=1e-4)
