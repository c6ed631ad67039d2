"""What a public page allows itself and its visitors: defaults here, a YAML file of the same names with `--settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Every limit of one page. Unknown names in a file are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    visitors: Count = 200
    """Open tabs at the same time; the next one is told to come back."""
    queue: Count = 32
    """Rollouts and questions that may wait; the page shows each its place and the expected wait."""
    wait_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long one whose turn has come waits for a simulator."""
    rollout_seconds: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """Longest use of a simulator, pauses included."""
    text_characters: Annotated[int, Field(ge=10, le=2000)] = 500
    """Longest instruction, question or thought."""
    picture_bytes: Annotated[int, Field(ge=1000, le=100_000_000)] = 10_000_000
    """Largest file that may be uploaded or sent."""
    requests_per_minute: Count = 240
    """Per visitor's address, after which it has to pause; a page that is watched makes fewer."""
    behind_proxy: bool = False
    """Whether a proxy in front says who the visitor is (`X-Forwarded-For`); anybody could, where there is none."""
    log_texts: bool = False
    """Whether logs hold what visitors type and what the model says."""
    log_addresses: bool = False
    """Whether logs hold visitors' addresses instead of a number that means nothing after a restart."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML file. Raises `ValueError` naming what is wrong with it, `OSError` where there is none."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text file.") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no YAML file: {str(error).splitlines()[0]}.") from None
        try:
            return cls.model_validate(content or {})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "the file"
            known = f" (known: {', '.join(cls.model_fields)})" if first["type"] == "extra_forbidden" else ""
            raise ValueError(f"{path}: {name}: {first['msg']}{known}.") from None
