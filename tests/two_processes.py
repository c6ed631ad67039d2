"""A training run to be started several times over: `python -m tests.two_processes FOLDER`. The total batch is 16."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from model.training.trainer import Group, ShuffledOrder, TrainingConfig, train

INPUTS = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def run(folder: Path) -> None:
    """Train a small network for 12 steps; each of N processes takes 16 / N of every step's examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    share = 16 // int(os.environ.get("WORLD_SIZE", "1"))
    order = ShuffledOrder(len(INPUTS), share, seed=1)

    def losses(rows: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(model(INPUTS[rows]), TARGETS[rows])}

    config = TrainingConfig(folder, 12, bf16=False, log_every=1)
    train(model, [Group(model.parameters(), 0.01)], lambda step: torch.from_numpy(order(step)), losses, config)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(model.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
