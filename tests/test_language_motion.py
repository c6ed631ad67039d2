"""Language motion names what three consecutive states show."""

import numpy as np
import pytest

from model.data.language_motion import language_motion, rotation_matrix


def states(change: dict[int, float]) -> np.ndarray:
    """Three states; `change` maps a proprio index to its total change over the window."""
    rows = np.zeros((3, 8), np.float32)
    rows[:, 7] = 0.5
    for index, value in change.items():
        rows[1, index] += value / 2
        rows[2, index] += value
    return rows


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({}, "stop"),
        ({0: 0.03}, "move forward"),
        ({0: -0.03}, "move backward"),
        ({1: 0.03}, "move left"),
        ({1: -0.03}, "move right"),
        ({2: 0.03}, "move up"),
        ({2: -0.03}, "move down"),
        ({0: 0.019}, "stop"),
        ({4: -0.1}, "tilt up"),
        ({4: 0.1}, "tilt down"),
        ({4: -0.05}, "stop"),
        ({5: 0.12}, "rotate counterclockwise"),
        ({5: -0.12}, "rotate clockwise"),
        ({5: 0.09}, "stop"),
        ({3: 1.0}, "stop"),
        ({7: 0.5}, "open gripper"),
        ({7: -0.5}, "close gripper"),
        ({0: 0.025, 1: -0.03, 5: 0.3, 7: -0.3}, "move forward right, rotate counterclockwise, close gripper"),
    ],
)
def test_phrase(change: dict[int, float], phrase: str) -> None:
    assert language_motion(states(change)) == [phrase, "stop", "stop"]


def test_a_long_move_names_only_its_main_direction() -> None:
    assert language_motion(states({0: 0.2, 1: 0.03}))[0] == "move forward"


def test_turning_is_seen_across_the_wrap() -> None:
    rows = states({})
    rows[:, 5] = [3.1, 3.14, 3.3 - 2 * np.pi]
    assert language_motion(rows)[0] == "rotate counterclockwise"


def test_short_recordings_stop() -> None:
    assert language_motion(np.zeros((2, 8), np.float32)) == ["stop", "stop"]


def test_rotation_matrix_turns_about_fixed_axes() -> None:
    quarter = np.pi / 2
    np.testing.assert_allclose(rotation_matrix(np.array([0, 0, quarter])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(np.array([quarter, 0, quarter])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
