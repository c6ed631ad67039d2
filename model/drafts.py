"""Guesses how a thought goes on, so that the decoder checks several words in one pass instead of writing each.

Thoughts are short sentences of few kinds about things that the request most often names: a chain of words over the
sentences of the training grammar, which prefers what was asked about, guesses most of them. A wrong guess costs a few
rows of a pass and changes no token (`Decoder.generate`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

MEMORY = 4
"""Tokens back that decide what may follow."""
BRANCHES = 3
"""Where more could follow and none of it was asked about, there is no guess."""
MOST = 23
"""Tokens guessed at a time: a sentence and the latent queries behind it."""


class Drafts:
    """What followed what in some sentences of token ids, among which those in `names` name things."""

    def __init__(self, sentences: Iterable[Sequence[int]], names: Collection[int] = ()) -> None:
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sentence in sentences:
            for end, token in enumerate(sentence):
                for start in range(max(end - MEMORY, 0), max(end, 1)):
                    counts[tuple(sentence[start:end])][token] += 1
        self._names = frozenset(names)
        self._next = {end: [token for token, _ in follow.most_common()] for end, follow in counts.items()}

    def after(self, said: Sequence[int], asked: Sequence[int]) -> list[int]:
        """At most `MOST` ids that may follow those `said`, where the request holds the ids `asked`; often none."""
        text, wanted = list(said), [token for token in asked if token in self._names]
        for token in text:
            if token in wanted:
                wanted.remove(token)
        while len(text) < len(said) + MOST:
            following = self._follower(text, wanted)
            if following is None:
                break
            text.append(following)
            if following in wanted:
                wanted.remove(following)
        return text[len(said) :]

    def _follower(self, text: Sequence[int], wanted: Sequence[int]) -> int | None:
        """The likeliest next token: of a name that was asked for and not yet said, or else what mostly follows."""
        ends = (text[start:] for start in range(max(len(text) - MEMORY, 0), max(len(text), 1)))
        known = [followers for end in ends if (followers := self._next.get(tuple(end)))]
        for followers in known:
            for token in wanted:
                if token in followers:
                    return token
        return known[0][0] if known and len(known[0]) <= BRANCHES else None
