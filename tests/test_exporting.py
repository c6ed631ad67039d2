"""A finished rollout as a LeRobotDataset: the pictures, states and actions of its steps, none of its pauses."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import imageio.v3
import numpy as np
import pyarrow.parquet as pq
import pytest

from app.events import Event, Frame, SceneReady, Steered
from app.exporting import as_lerobot, stretches
from app.recording import Recording
from model.data.lerobot import CAMERA
from tests.test_recording import SPEC, jpeg, recorder, rollout


def state(step: int) -> tuple[float, ...]:
    return (0.3 + 0.01 * step, *[0.0] * 6, 1.0)


def recorded(root: Path, *extra: Event, states: bool = True) -> Recording:
    """Ten steps; `extra` happens after the fourth."""
    events: list[Event] = []
    for event in rollout():
        if isinstance(event, SceneReady):
            event = SceneReady(event.jpeg, event.spec, event.instruction, state(0) if states else ())
        elif isinstance(event, Frame):
            action = (0.001 * event.step, *[0.0] * 5, 1.0)
            event = Frame(event.jpeg, event.step, event.sim_time, action, state(event.step) if states else ())
        events.append(event)
        if isinstance(event, Frame) and event.step == 4:
            events += extra
    return recorder(events).save(root)


def test_the_dataset_holds_what_was_seen_and_done_before_each_step(tmp_path: Path) -> None:
    saved = recorded(tmp_path, Steered("disturb", 4, "nudge the mug", jpeg=jpeg(250)))
    archive = as_lerobot(saved, tmp_path)
    assert as_lerobot(saved, tmp_path) == archive == saved.folder / "lerobot.zip"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "out")
    root = tmp_path / "out" / saved.id
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 1, 10)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    np.testing.assert_allclose(np.array(table["action"])[:, 0], 0.001 * np.arange(1, 11), atol=1e-6)
    np.testing.assert_allclose(np.array(table["observation.state"])[:, 0], 0.3 + 0.01 * np.arange(10), atol=1e-6)
    frames = imageio.v3.imread(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", plugin="FFMPEG")
    shades = [int(frame[20, 20, 0]) for frame in frames]
    expected = [20 * step for step in range(10)]
    expected[4] = 250  # the fifth action was taken in the changed scene
    assert np.abs(np.array(shades) - expected).max() < 12


def test_a_new_instruction_begins_a_new_episode(tmp_path: Path) -> None:
    refused = Steered("instruct", 4, "x", "Too long.")
    saved = recorded(tmp_path, refused, Steered("instruct", 4, "pick up the mug"))
    assert [(one.instruction, len(one)) for one in stretches(saved)] == [(SPEC.text, 4), ("pick up the mug", 6)]


def test_a_recording_without_the_robots_state_is_refused_in_words(tmp_path: Path) -> None:
    saved = recorded(tmp_path, states=False)
    assert stretches(saved) == []
    with pytest.raises(ValueError, match="does not say where the robot was"):
        as_lerobot(saved, tmp_path)
    assert not (saved.folder / "lerobot.zip").exists()
