"""The released models' prompts: Eagle2's tokenizer and picture marks, and thoughts that are put back (reference 4.1).

As in the nano's prompts, what people type is inert: control tokens are placed by id.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from model.config import InstructVLAConfig, ReleasedConfig
from model.prompts import ACT, THINK, Prompter, PromptIds, load_tokenizer

FIRST_QUERY = "<new_token_0>"


def load_eagle_tokenizer(folder: Path) -> Tokenizer:
    """Eagle2's tokenizer from its assets, with or without a `tokenizer.json`; text never becomes special tokens."""
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.encode_special_tokens = True
    return tokenizer


def first_query(tokenizer: Tokenizer) -> int:
    """Id of the first latent query: where the tokenizer has it, else the next free one, as training added it."""
    known: int | None = tokenizer.token_to_id(FIRST_QUERY)
    return tokenizer.get_vocab_size() if known is None else known


class ReleasedPrompter(Prompter):
    """Builds sequences for a released model. Its decoder reads a thought anew, as text, before the queries."""

    @property
    def end_id(self) -> int:
        """Id of the mark that ends a turn."""
        return self._end

    def act_now(self, instruction: str) -> PromptIds:
        """Direct action, with the queries."""
        return self._continued(self._user(ACT.format(instruction)), self.query_ids.tolist())

    def act_after(self, instruction: str, response: str, literal: bool = False, ended: bool = False) -> PromptIds:
        """A thought put back, then the queries.

        It is tidied up to the form of training, one space before the queries; `literal` keeps it to the letter with
        another space behind it, and with the end mark where it `ended` the turn, as upstream does.
        """
        text = response if literal else response.rstrip()
        said = [*self._text(text), self._end, *self._text(" ")] if literal and ended else self._text(f"{text} ")
        return self._continued(self._user(THINK.format(instruction)), [*said, *self.query_ids.tolist()])

    def _image_marks(self, config: InstructVLAConfig | ReleasedConfig) -> tuple[int, int, int]:
        return self._control("<img>"), self._control("</img>"), self._control("<IMG_CONTEXT>")
