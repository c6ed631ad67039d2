# ruff: noqa: F811 (fixtures of other tests)
"""Visual words on pictures of two coloured discs: each cell learns to say what lies in it."""

from pathlib import Path

import pytest
import torch

from model.data.photos import PhotoSet
from model.data.scenes import SceneDataset
from model.instructvla import InstructVLA
from model.training import words
from tests.test_align import CATALOG, CONFIG, folder, model  # noqa: F401
from tests.test_multimodal import folder as photos  # noqa: F401
from tests.tiny import byte_tokenizer

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


def test_an_object_is_told_to_the_cell_it_lies_in(folder: Path) -> None:
    scenes = SceneDataset(folder)
    told = words.labelled_scenes(scenes, CATALOG, CONFIG.vision)
    assert len(told) == len(scenes) and told[0].picture().shape == (28, 56, 3)
    rows, columns = (size // CONFIG.vision.shuffle for size in CONFIG.vision.grid)
    for one, still in zip(told, (scenes[index] for index in range(len(scenes))), strict=True):
        assert one.cells is not None and len(one.cells) == 2
        for name, (u, v) in still.visible.items():
            phrases = one.cells[int(v * rows) * columns + int(u * columns)]
            assert phrases == (CATALOG[name].name, "toy", CATALOG[name].colours[0])


def test_a_photograph_is_told_to_all_of_its_cells_unless_many_things_are_in_view(photos: Path) -> None:
    shown = PhotoSet(photos, "train")
    told = words.labelled_photos(shown)
    assert len(told) == sum(not photo.scene for photo in shown.photos) > 0
    assert all(one.cells is None and one.phrases for one in told)


def test_the_connector_learns_words_and_a_finished_run_is_only_read_back(
    folder: Path,
    model: InstructVLA,
    tmp_path: Path,
) -> None:
    told, tests = (
        words.labelled_scenes(SceneDataset(folder, split), CATALOG, CONFIG.vision) for split in ("train", "held_out")
    )
    others = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("connector")}
    words.teach(model, byte_tokenizer(), told, tests, tmp_path / "words", 60, seed=0)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())
    phrases = ["toy", *(thing.name for thing in CATALOG.values())]
    vocabulary = words.Vocabulary(byte_tokenizer(), phrases, model.decoder.embedding.weight.detach())
    batch = words.WordData(model, vocabulary, tests, 0).batch(range(len(tests)))
    learned, fresh = (words.losses(one, vocabulary, batch) for one in (model, InstructVLA(CONFIG)))
    assert learned["words"] < fresh["words"] and learned["right"] > 0.9

    again = InstructVLA(CONFIG)
    again.decoder.load_state_dict(model.decoder.state_dict())

    def unseen() -> torch.Tensor:
        raise AssertionError("a finished run looks at no picture")

    blind = [words.Labelled(unseen, one.phrases, one.cells) for one in told]  # type: ignore[arg-type]
    words.teach(again, byte_tokenizer(), blind, tests, tmp_path / "words", 60, seed=0)
    for name, tensor in model.connector.state_dict().items():
        torch.testing.assert_close(again.connector.state_dict()[name], tensor)


@pytest.mark.parametrize("cell", [0, 1])
def test_background_counts_little(model: InstructVLA, cell: int) -> None:
    vocabulary = words.Vocabulary(byte_tokenizer(), ["red"], model.decoder.embedding.weight.detach())
    blank = torch.zeros(28, 56, 3, dtype=torch.uint8).numpy()
    data = words.WordData(model, vocabulary, [words.Labelled(lambda: blank, cells={cell: ("red",)})], 0)
    _, target, weight = data.batch([0])
    assert weight[0, cell] == 1 and (weight[0].sum() - 1) / (weight.shape[1] - 1) == pytest.approx(0.05)
    torch.testing.assert_close(target.sum(-1), torch.ones_like(weight))
