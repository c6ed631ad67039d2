"""ChatML prompts: what the decoder reads, where the picture and the latent queries sit, and what it is trained to say.

Forms of reference 4.1. What people type is inert: control tokens are placed by id, text is encoded with special
tokens disabled, and the new tokens (queries, picture marks) have no spelling at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.config import InstructVLAConfig, ReleasedConfig
from model.language import IGNORE

PADDING = -1
"""Branch of what fills up a shorter sequence."""
EXTRA_TOKENS = 3
"""New vocabulary rows beside the queries: start of picture, end of picture, picture slot; in this order after them."""

ACT = "What action should the robot take to {}?"
THINK = ACT + " First answer my question."
MOTION = ACT + " Give both move primitive and action."


@dataclass(frozen=True)
class PromptIds:
    """One sequence of T tokens. `labels` are unshifted: the id where the assistant speaks, `IGNORE` elsewhere."""

    ids: Tensor
    """(T,) int64."""
    labels: Tensor
    """(T,) int64."""
    image_positions: Tensor
    """(T,) bool, true at the picture's slots."""
    query_positions: Tensor
    """(T,) bool, true at the latent queries."""
    branch: Tensor | None = None
    """(T,) int64 where sequences share a picture (`share_picture`): 0 at what is shared, then each one's number."""


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences, each field (B, T); `mask` is true at real tokens, `branch` None where all stand alone."""

    ids: Tensor
    labels: Tensor
    image_positions: Tensor
    query_positions: Tensor
    mask: Tensor
    branch: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {name: x if x is None else x.to(device) for name, x in vars(self).items()}
        return Batch(**moved)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`; the result never turns text into special tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def collate(prompts: Sequence[PromptIds]) -> Batch:
    """Pad sequences on the right to a common length."""

    def pad(name: str, value: int) -> Tensor:
        return pad_sequence([getattr(prompt, name) for prompt in prompts], batch_first=True, padding_value=value)

    lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    branch = None
    if any(prompt.branch is not None for prompt in prompts):
        rows = [p.branch if p.branch is not None else share_picture([p]).branch for p in prompts]
        branch = pad_sequence([row for row in rows if row is not None], batch_first=True, padding_value=PADDING)
    columns = pad("ids", 0), pad("labels", IGNORE), pad("image_positions", 0), pad("query_positions", 0)
    return Batch(*columns, mask, branch)


def share_picture(prompts: Sequence[PromptIds]) -> PromptIds:
    """Training sequences about one picture as a single one, in which the picture is paid for once.

    What they begin with, up to the picture's end, comes first; then each one's own rest, a branch that sees the shared
    part and itself alone (`Decoder.forward`). Raises `ValueError` where they do not begin alike.
    """
    shared = int(prompts[0].image_positions.nonzero()[-1]) + 1
    if any(not torch.equal(prompt.ids[:shared], prompts[0].ids[:shared]) for prompt in prompts):
        raise ValueError("Only sequences that begin with the same words and one picture can share it.")
    return _branching(prompts, shared)


def share_question(examples: Sequence[PromptIds]) -> PromptIds:
    """The same for answers to one question, which is paid for once too, all but its last token: each goes on there."""
    asked = min(int((example.labels != IGNORE).nonzero()[0]) for example in examples)
    return _branching(examples, asked - 1)


def _branching(prompts: Sequence[PromptIds], shared: int) -> PromptIds:
    def joined(name: str) -> Tensor:
        own = [getattr(prompt, name) for prompt in prompts]
        return torch.cat([own[0][:shared], *(part[shared:] for part in own)])

    lengths = torch.tensor([shared, *(len(prompt.ids) - shared for prompt in prompts)])
    branch = torch.arange(len(lengths)).repeat_interleave(lengths)
    return PromptIds(joined("ids"), joined("labels"), joined("image_positions"), joined("query_positions"), branch)


class Prompter:
    """Builds sequences for one model: open prompts to be continued, and complete training examples."""

    def __init__(self, tokenizer: Tokenizer, config: InstructVLAConfig | ReleasedConfig) -> None:
        self._tokenizer = tokenizer
        self._vocab, self._slots, self._system = config.decoder.vocab, config.vision.tokens, config.system_prompt
        self._start, self._end = self._control("<|im_start|>"), self._control("<|im_end|>")
        self._image_start, self._image_end, self._image_slot = self._image_marks(config)
        self.query_ids = torch.arange(config.decoder.vocab, config.decoder.vocab + config.queries)
        """(Q,) ids of the latent queries. After a finished thought they are all that is missing: the model has written
        the space that separates them itself."""
        self.stop_ids = frozenset({self._end, config.decoder.vocab})
        """Where generated text ends: at the end of the turn, or where the queries begin."""

    def act(self, instruction: str) -> PromptIds:
        """Open prompt for direct action: `query_ids` follow."""
        return self._continued(self._user(ACT.format(instruction)))

    def think(self, instruction: str) -> PromptIds:
        """Open prompt for a thought, then `query_ids`."""
        return self._continued(self._user(THINK.format(instruction)))

    def question(self, text: str, tiles: Sequence[int] = (1,), history: Sequence[tuple[str, str]] = ()) -> PromptIds:
        """Open prompt for an answer about pictures of so many `tiles` each; none is plain chat.

        `history` holds (question, answer) turns before it about the same pictures. The nano knows one picture of one
        tile.
        """
        pieces: list[_Piece] = []
        for asked, answered in history:
            pieces += [*self._user(asked, () if pieces else tiles), *self._assistant(answered, False)]
        return self._continued([*pieces, *self._user(text, () if pieces else tiles)])

    def act_example(self, instruction: str) -> PromptIds:
        """Training sequence: direct action."""
        return self._sequence([*self._user(ACT.format(instruction)), *self._assistant(None, True)])

    def think_example(self, instruction: str, thought: str) -> PromptIds:
        """Training sequence: thought, then action."""
        return self._sequence([*self._user(THINK.format(instruction)), *self._assistant(thought, True)])

    def motion_example(self, instruction: str, motion: str) -> PromptIds:
        """Training sequence: language motion, then action."""
        return self._sequence([*self._user(MOTION.format(instruction)), *self._assistant(motion, True)])

    def conversation(self, turns: Sequence[tuple[str, str]], instruction: str | None = None) -> PromptIds:
        """Training sequence: (question, answer) turns about one picture, which stands before the first question.

        With `instruction`, a last turn asks for the action and is answered by the queries alone.
        """
        pieces: list[_Piece] = []
        for question, answer in turns:
            pieces += [*self._user(question, () if pieces else (1,)), *self._assistant(answer, False)]
        if instruction is not None:
            pieces += [*self._user(ACT.format(instruction), () if pieces else (1,)), *self._assistant(None, True)]
        return self._sequence(pieces)

    def thought_ids(self, thought: str) -> Tensor:
        """(T,) ids of a thought as the model would have written it behind `think`, ready for `query_ids`."""
        return torch.tensor(self._text(f"{thought} "))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, control and new tokens left out."""
        return self._tokenizer.decode([i for i in ids if i < self._vocab], skip_special_tokens=True)

    def _continued(self, turns: Sequence[_Piece], said: Sequence[int] = ()) -> PromptIds:
        """A sequence that the assistant goes on with, after what it has `said` already."""
        return self._sequence([*turns, self._header("assistant\n"), _Piece(list(said))])

    def _image_marks(self, config: InstructVLAConfig | ReleasedConfig) -> tuple[int, int, int]:
        """Ids of the start of a picture, its end, and one of its slots."""
        first = config.decoder.vocab + config.queries
        return first, first + 1, first + 2

    def _control(self, name: str) -> int:
        token = self._tokenizer.token_to_id(name)
        if token is None:
            raise ValueError(f"the tokenizer has no {name}: the prompts need one that speaks ChatML")
        return token

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _header(self, text: str) -> _Piece:
        return _Piece([self._start, *self._text(text)])

    def _user(self, text: str, tiles: Sequence[int] = (1,)) -> list[_Piece]:
        """A user's turn: pictures of so many tiles each, numbered if there are several, and then the text."""
        before, pieces = "user\n", []
        for number, count in enumerate(tiles, 1):
            before += f"<image {number}>" if len(tiles) > 1 else ""
            picture = [self._image_start, *[self._image_slot] * (count * self._slots), self._image_end]
            pieces += [self._header(before) if number == 1 else _Piece(self._text(before)), _Piece(picture)]
            before = "\n"
        said = self._text(before + text) if tiles else self._header(before + text).ids
        return [*pieces, _Piece(said), _Piece([self._end, *self._text("\n")])]

    def _assistant(self, text: str | None, queries: bool) -> list[_Piece]:
        said = self._text(f"{text} " if queries else text) if text is not None else []
        if queries:
            said += self.query_ids.tolist()
        said.append(self._end)
        return [self._header("assistant\n"), _Piece(said, supervised=True), _Piece(self._text("\n"))]

    def _sequence(self, pieces: Sequence[_Piece]) -> PromptIds:
        if self._system:
            pieces = [self._header(f"system\n{self._system}"), _Piece([self._end, *self._text("\n")]), *pieces]
        ids = torch.tensor([i for piece in pieces for i in piece.ids])
        said = torch.tensor([piece.supervised for piece in pieces for _ in piece.ids])
        queries = (ids >= self._vocab) & (ids < self._vocab + len(self.query_ids))
        return PromptIds(ids, ids.where(said, IGNORE), ids == self._image_slot, queries)


@dataclass(frozen=True)
class _Piece:
    ids: list[int]
    supervised: bool = False
