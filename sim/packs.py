"""`EitherPack`: one simulator for the page, which plays scenes of our own table and official ones."""

from __future__ import annotations

from typing import Any

from sim.interface import Observation
from sim.scenes import Tabletop
from sim.simpler import Simpler
from sim.stage import FULL_SIZE
from sim.twins import Scene, TwinScene


class EitherPack:
    """A `sim.process.Simulator`; the scene decides which world answers. The official one is built when first asked for.

    Args:
        image_size: (width, height) of the frames.
    """

    def __init__(self, image_size: tuple[int, int] = FULL_SIZE) -> None:
        self._tabletop = Tabletop(image_size)
        self._simpler = Simpler(image_size)
        self._world: Tabletop | Simpler = self._tabletop

    @property
    def rebuilds(self) -> int:
        """Scenes built in this process (see `SimWorker`)."""
        return 1 + self._simpler.rebuilds

    def reset(self, spec: Scene, render: bool = True) -> Observation:
        """Set up a scene of either pack."""
        if isinstance(spec, TwinScene):
            self._world = self._simpler
            return self._simpler.reset(spec, render)
        self._world = self._tabletop
        return self._tabletop.reset(spec, render)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the present world's."""
        return getattr(self._world, name)

    def close(self) -> None:
        """Free both."""
        self._tabletop.close()
        self._simpler.close()
