"""`stage2.yaml`, read: every ratio, weight and rate of stage 2. Another recipe says what it does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

RECIPE = Path(__file__).with_name("stage2.yaml")
FIGURES = ("meant", "replies", "photos", "photo what")
"""Of the validation's figures those that may decide which weights are kept; the last two need photographs."""


@dataclass(frozen=True)
class Recipe:
    """What each step holds, and how much each part counts."""

    gates: Literal["learned", "told"]
    sequences: Mapping[str, float]
    action_pictures: int
    sequences_per_picture: int
    requests: Mapping[str, float]
    request_pictures: int
    requests_per_picture: int
    multimodal_pictures: int
    turns: int
    multimodal: Mapping[str, float]
    weights: Mapping[str, float]
    learning_rate: Mapping[str, float]
    best: str

    @classmethod
    def load(cls, path: Path = RECIPE) -> Recipe:
        """Read a recipe; what it leaves out is as in `stage2.yaml`.

        Raises `ValueError` where shares do not add up, or a name or the figure under `best` is unknown.
        """
        import yaml

        try:
            recipe = cls(**(yaml.safe_load(RECIPE.read_text()) | yaml.safe_load(path.read_text())))
        except TypeError as error:
            raise ValueError(f"{path.name}: {error}") from None
        for name in ("sequences", "requests"):
            total = sum(getattr(recipe, name).values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"{path.name}: the shares under `{name}` add up to {total}.")
        if recipe.best not in FIGURES:
            raise ValueError(f"{path.name}: `best` is one of {', '.join(FIGURES)}, not {recipe.best}.")
        return recipe

    def without_talks(self) -> Recipe:
        """The same without what is half a talk: whose gates are clear from the first word on."""
        rest = {kind: share for kind, share in self.sequences.items() if kind != "describe"}
        total = sum(rest.values())
        return replace(self, sequences={kind: share / total for kind, share in rest.items()})

    def silent(self) -> Recipe:
        """The same without questions and captions: their share goes to direct commands."""
        shares = dict(self.sequences)
        shares["direct"] += shares.pop("describe")
        return replace(self, sequences=shares, weights={**self.weights, "multimodal": 0.0})
