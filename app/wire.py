"""What crosses the network between a rollout and a model server: small msgpack messages, checked before they are used.

Nothing here can carry code: a message is plain values of known names, sizes and ranges, and a picture is raw pixels or
the JPEG that the simulator made anyway. Both sides read what the other sends through these classes.
"""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal, TypeVar

import msgpack
import numpy as np
import PIL.Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from sim.interface import ACTION_DIM, PROPRIO_DIM, Image, Observation
from sim.process import JpegObservation

MAX_MESSAGE = 16_000_000
"""Bytes of one message: four raw pictures of 1024 x 1024 and some words."""
MAX_CONTAINERS = 200
"""Lists and maps in one message; a hostile one could otherwise unpack to a hundred times its size."""
MAX_ITEMS = 100
MIN_SIDE, MAX_SIDE = 8, 2048
MAX_TEXT = 2000
"""Characters of an instruction, a question or a thought."""
MAX_TURNS = 20
MAX_PICTURES = 4
"""Of one question; how many a model takes, it says itself."""
MAX_STEP = 1_000_000

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
M = TypeVar("M")


class Refused(ValueError):
    """A message that cannot be taken: one sentence, and the HTTP status that says the same."""

    def __init__(self, sentence: str, status: int = 422) -> None:
        super().__init__(sentence)
        self.status = status


class Message(BaseModel):
    """Unknown names, wrong types and numbers out of range are refused; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Picture(Message):
    """Raw RGB bytes of a given size, or a JPEG, which says its own."""

    height: Side | None = None
    width: Side | None = None
    rgb: bytes | None = None
    jpeg: bytes | None = None

    @model_validator(mode="after")
    def _whole(self) -> Picture:
        raw = self.rgb is not None and self.height is not None and self.width is not None
        if raw == (self.jpeg is not None):
            raise ValueError("a picture is either height, width and rgb, or jpeg")
        if raw and len(self.rgb or b"") != 3 * (self.height or 0) * (self.width or 0):
            raise ValueError(f"{self.height} x {self.width} pixels do not have {len(self.rgb or b'')} bytes")
        return self

    @classmethod
    def of(cls, image: Image) -> Picture:
        """From an (H, W, 3) uint8 array."""
        return cls(height=image.shape[0], width=image.shape[1], rgb=np.ascontiguousarray(image, np.uint8).tobytes())

    def pixels(self) -> Image:
        """(H, W, 3) uint8 RGB. A JPEG is measured by its header before it is unpacked; `Refused` where it is none."""
        if self.jpeg is None:
            assert self.rgb is not None and self.height is not None and self.width is not None
            return np.frombuffer(self.rgb, np.uint8).reshape(self.height, self.width, 3)
        try:
            picture = PIL.Image.open(io.BytesIO(self.jpeg), formats=["JPEG"])
            if not all(MIN_SIDE <= side <= MAX_SIDE for side in picture.size):
                raise Refused(f"A picture's sides have {MIN_SIDE} to {MAX_SIDE} pixels, not {picture.size}.", 413)
            return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError):
            raise Refused("This JPEG is damaged or none at all.") from None


State = Annotated[list[FiniteFloat], Field(min_length=PROPRIO_DIM, max_length=PROPRIO_DIM)]


class Seen(Message):
    """An `Observation`."""

    proprio: State
    step: Annotated[int, Field(ge=0, le=MAX_STEP)]
    measured: State | None = None
    picture: Picture | None = None

    @classmethod
    def of(cls, observation: Observation, image: bool = True) -> Seen:
        """From an observation, with its picture (as JPEG where it is one) if `image`."""
        picture = None
        if image and isinstance(observation, JpegObservation):
            picture = None if observation.jpeg is None else Picture(jpeg=observation.jpeg)
        elif image and observation.image is not None:
            picture = Picture.of(observation.image)
        measured = observation.measured
        return cls(
            proprio=np.asarray(observation.proprio, float).tolist(),
            step=int(observation.step),
            measured=None if measured is None else np.asarray(measured, float).tolist(),
            picture=picture,
        )

    def observation(self) -> Observation:
        """Back again, bit for bit."""
        image = None if self.picture is None else self.picture.pixels()
        measured = None if self.measured is None else np.array(self.measured, np.float32)
        return Observation(image, np.array(self.proprio, np.float32), self.step, measured)


class Question(Message):
    """Body of `POST /ask`: a question about a picture, or about it and more, after earlier (question, answer) turns."""

    picture: Picture
    more: Annotated[list[Picture], Field(max_length=MAX_PICTURES - 1)] = []
    question: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    history: Annotated[
        list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(max_length=MAX_TURNS)
    ] = []


class Reset(Message):
    """Start an episode."""

    op: Literal["reset"] = "reset"
    instruction: Text
    seed: Annotated[int, Field(ge=0, lt=2**63)]


class Think(Message):
    """Write a thought; answered by pieces and a `View`."""

    op: Literal["think"] = "think"
    seen: Seen


class Stop(Message):
    """End the thought that is being written. Not answered by itself."""

    op: Literal["stop"] = "stop"


class Act(Message):
    """Ask for one action."""

    op: Literal["act"] = "act"
    seen: Seen


class Instruct(Message):
    """Follow another instruction from the next action on."""

    op: Literal["instruct"] = "instruct"
    instruction: Text


class Rethink(Message):
    """Act on a given thought."""

    op: Literal["rethink"] = "rethink"
    seen: Seen
    thought: Text


Order = Annotated[Reset | Think | Stop | Act | Instruct | Rethink, Field(discriminator="op")]
"""What a rollout may send."""


class View(Message):
    """What a policy shows of itself after every order; with `action` (7 numbers) after `Act`."""

    thinking_due: bool
    needs_image: bool
    thought: str = ""
    timings: dict[str, FiniteFloat] = {}
    focus: dict[str, Point] | None = None
    heat: dict[str, Text] | None = None
    gate: FiniteFloat | None = None
    action: Annotated[list[FiniteFloat], Field(min_length=ACTION_DIM, max_length=ACTION_DIM)] | None = None


class Piece(Message):
    """The next piece of a text."""

    piece: str
    gate: FiniteFloat | None = None


class Problem(Message):
    """Why it did not work: an HTTP status and a sentence."""

    status: Annotated[int, Field(ge=400, le=599)]
    error: str


Reply = View | Piece | Problem
"""What a model server may answer."""

ORDER: TypeAdapter[Order] = TypeAdapter(Order)
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


def pack(message: Message) -> bytes:
    """The message as msgpack, without what it leaves open."""
    packed: bytes = msgpack.packb(message.model_dump(exclude_none=True))
    return packed


def unpack(kind: TypeAdapter[M], data: bytes) -> M:
    """The checked message in `data`; `Refused` with one sentence where there is none."""
    return check(kind, _plain(data))


def check(kind: TypeAdapter[M], value: object) -> M:
    """The message that plain values stand for; `Refused` as above."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refused(f"This message is not understood: {place + ': ' if place else ''}{first['msg']}.") from None


def _plain(data: bytes) -> Any:
    if len(data) > MAX_MESSAGE:
        raise Refused(f"A message has at most {MAX_MESSAGE:,} bytes.", 413)
    seen = 0

    def counted(value: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > MAX_CONTAINERS:
            raise ValueError("too many parts")
        return value

    try:
        return msgpack.unpackb(
            data,
            object_hook=counted,
            list_hook=counted,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_str_len=MAX_MESSAGE,
            max_bin_len=MAX_MESSAGE,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise Refused("This is no msgpack message of ours.", 400) from None
