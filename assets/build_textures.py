"""Draw table tops (assets/textures/tables/) and backdrops (assets/textures/backdrops/).

Run: python assets/build_textures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from modelling.backdrops import BACKDROPS
from modelling.tables import TABLES

FOLDER = Path(__file__).parent / "textures"


def build(folder: Path = FOLDER) -> None:
    """Write every texture as JPEG."""
    for kind, pictures in (("tables", TABLES), ("backdrops", BACKDROPS)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, draw in pictures.items():
            draw().convert("RGB").save(folder / kind / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    build()
