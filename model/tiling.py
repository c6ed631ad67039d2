"""Pictures for a released model: tiles for its decoder, crops for its action expert (reference 2.1, 2.5, 4.4).

Both branches resize with Pillow's bicubic filter on bytes, because that is what the weights have seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.vision import IMAGENET_MEAN, IMAGENET_STD

Picture = NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""

MAX_TILES = 12
ENOUGH_AREA = 0.6
"""A grid gets no more credit for its area than this share of the picture's."""
CENTRE_AREA, CENTRE_SIZE = 0.9, 224


def tile(picture: Picture, size: int, max_tiles: int = 1) -> Tensor:
    """Tiles (n, 3, size, size) in [-1, 1], row by row, and a thumbnail last where there are several.

    One tile, as for control, is the whole picture squashed. More are cut from the grid of at most `max_tiles` that
    keeps most of the picture's area and shape.
    """
    image = Image.fromarray(picture)
    columns, rows = best_grid(image.width, image.height, size, max_tiles)
    whole = image.resize((size * columns, size * rows), Image.Resampling.BICUBIC)
    corners = [(size * column, size * row) for row in range(rows) for column in range(columns)]
    tiles = [whole.crop((x, y, x + size, y + size)) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(image.resize((size, size), Image.Resampling.BICUBIC))
    return torch.stack([_normalised(part, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) for part in tiles])


def best_grid(width: int, height: int, size: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the best grid of tiles; of equals, the one with the fewest tiles."""
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles // i + 1)]

    def score(grid: tuple[int, int]) -> float:
        columns, rows = grid
        area = min(columns * rows * size**2 / (width * height), ENOUGH_AREA)
        shape = (columns / rows) / (width / height)
        return area * min(shape, 1 / shape)

    return max(sorted(grids, key=math.prod), key=score)


def crop_for_expert(picture: Picture, size: int, share: float) -> Tensor:
    """The expert's view (3, size, size), ImageNet-normalised: shorter side to size / share, then the centre."""
    image = Image.fromarray(picture)
    shorter = math.floor(size / share)
    longer = int(shorter * max(image.size) / min(image.size))
    width, height = (longer, shorter) if image.width > image.height else (shorter, longer)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return _normalised(resized.crop((left, top, left + size, top + size)), IMAGENET_MEAN, IMAGENET_STD)


def centre_crop(picture: Picture, area: float = CENTRE_AREA, size: int = CENTRE_SIZE) -> Picture:
    """The middle `area` of a picture, squashed to size x size: bilinear at corner-aligned points, not antialiased.

    Models without robot state were scored behind it (`Compat.crop_without_state`).
    """
    side = math.sqrt(area)
    rows, columns = (
        (length - 1) * ((1 - side) / 2 + side * np.arange(size, dtype=np.float32) / (size - 1))
        for length in picture.shape[:2]
    )
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None, None], (columns - left)[:, None]
    below, beside = np.minimum(top + 1, picture.shape[0] - 1), np.minimum(left + 1, picture.shape[1] - 1)
    pixels = picture.astype(np.float32) / 255
    upper = pixels[top][:, left] * (1 - right) + pixels[top][:, beside] * right
    lower = pixels[below][:, left] * (1 - right) + pixels[below][:, beside] * right
    return ((upper * (1 - down) + lower * down) * 255.5).astype(np.uint8)


def _normalised(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
