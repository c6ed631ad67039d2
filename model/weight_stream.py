"""Safetensors written tensor by tensor, for weights that should not be in memory all at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    """Write `tensors`, given in the order of `shapes`, in `dtype`; returns the file's SHA-256.

    Only one tensor at a time is held. Raises `ValueError` where a tensor has another shape than announced.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            digest.update(piece)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"{name} is {tuple(tensor.shape)} instead of {tuple(shape)}")
            data = tensor.detach().to("cpu", dtype).contiguous().flatten().view(torch.uint8).numpy().data
            file.write(data)
            digest.update(data)
    return digest.hexdigest()
