"""The trainer: resuming changes nothing, the best weights are kept, the limits hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.training.trainer import Group, ShuffledOrder, TrainingConfig, train
from tests import two_processes

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other

INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 1))


def run(folder: Path, steps: int, model: nn.Module | None = None, **options: object) -> nn.Module:
    model = model or toy()
    order = ShuffledOrder(len(INPUTS), 8, seed=1)

    def losses(rows: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(model(INPUTS[rows]), TARGETS[rows])}

    settings = {"bf16": False, "log_every": 1, "save_every": 5, **options}
    extras = {name: settings.pop(name) for name in ("evaluate", "keep") if name in settings}
    config = TrainingConfig(folder, steps, **settings)  # type: ignore[arg-type]
    train(model, [Group(model.parameters(), 0.01)], lambda s: torch.from_numpy(order(s)), losses, config, **extras)
    return model


def logged(folder: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Crash(Exception):
    pass


@pytest.mark.parametrize("ahead", [{}, {"workers": 2}, {"processes": 2}])
def test_resuming_makes_the_same_steps(tmp_path: Path, ahead: dict[str, int]) -> None:
    whole = run(tmp_path / "whole", 23, **ahead)

    crashing, calls = toy(), 0

    def crash(module: nn.Module, inputs: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 13:  # three steps past the save at 10
            raise Crash

    crashing.register_forward_pre_hook(crash)
    with pytest.raises(Crash):
        run(tmp_path / "cut", 23, crashing)
    resumed = run(tmp_path / "cut", 23)

    assert torch.equal(weights(whole), weights(resumed))
    assert [x["loss"] for x in logged(tmp_path / "cut")] == [x["loss"] for x in logged(tmp_path / "whole")]
    assert [x["step"] for x in logged(tmp_path / "cut")] == list(range(23))


def test_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, 150, schedule="cosine", warmup=5, bf16=True)
    losses = [line["loss"] for line in logged(tmp_path)]
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])
    rates = [line["lr"] for line in logged(tmp_path)]
    assert (
        rates[0] == pytest.approx(0.002, rel=1e-3) and max(rates) == pytest.approx(0.01, rel=0.02) and rates[-1] < 1e-5
    )


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    model = toy()
    scores = iter([0.3, 0.7, 0.5, 0.9])
    kept: list[Tensor] = []

    def evaluate() -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        return {"accuracy": next(scores)}

    run(
        tmp_path, 20, model, evaluate=evaluate, keep=lambda: kept.append(weights(model)), evaluate_every=5,
        best=("accuracy", "max"),
    )  # fmt: skip
    assert len(kept) == 3 and torch.equal(kept[-1], weights(model))
    assert [line["accuracy"] for line in logged(tmp_path, "held_out")] == [0.3, 0.7, 0.5, 0.9]


def test_a_finished_run_and_a_spent_time_limit_stop(tmp_path: Path) -> None:
    done = weights(run(tmp_path / "done", 5))
    assert torch.equal(weights(run(tmp_path / "done", 5)), done)
    run(tmp_path / "short", 50, minutes=0.0)
    assert [line["step"] for line in logged(tmp_path / "short")] == [0]


def test_a_bad_batch_is_skipped(tmp_path: Path) -> None:
    model = toy()
    before = weights(model)
    bad = {"loss": model[0].weight.sum() * float("nan")}
    config = TrainingConfig(tmp_path, 1, bf16=False, best=("skipped_loss", "min"))
    train(model, [Group(model.parameters(), 0.01)], lambda s: s, lambda b: bad, config, lambda: {"skipped_loss": 1.0})
    assert torch.equal(weights(model), before) and logged(tmp_path, "held_out")[0]["skipped"] == 1


def test_misuse_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        ShuffledOrder(0, 4, 0)
    model = toy()
    config = TrainingConfig(tmp_path / "a", 1, bf16=False)
    with pytest.raises(ValueError, match=r"no group: 3\.weight"):
        train(model, [Group(model[0].parameters(), 0.1)], lambda s: s, lambda b: {}, config)
    with pytest.raises(ValueError, match="float32"):
        run(tmp_path / "c", 1, toy().bfloat16())
    run(tmp_path / "b", 5)
    with pytest.raises(ValueError, match="another model"):
        run(tmp_path / "b", 5, nn.Linear(4, 1))


def test_an_epoch_visits_everything_once() -> None:
    order = ShuffledOrder(10, 4, seed=3)
    seen = np.concatenate([order(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(seen[10:])


def test_two_processes_train_as_one_with_the_same_total_batch(tmp_path: Path) -> None:
    """Started by Accelerate's launcher, over gloo; several GPUs or nodes differ in the launch line alone."""
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    launch += ["--main_process_port", "0"]
    root = Path(__file__).parents[1]
    command = [sys.executable, *launch, "--module", "tests.two_processes", str(tmp_path / "two")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    two_processes.run(tmp_path / "one")
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
