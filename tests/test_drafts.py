"""Guesses at a thought: what was asked about comes first, and nothing is guessed where too much could follow."""

from model.drafts import BRANCHES, MOST, Drafts

WILL, TAKE, THE, ON, END = range(5)
APPLE, PEAR, PLUM, LIME, RED, CUBE, GREEN = NAMES = range(10, 17)


def drafts() -> Drafts:
    taken = [[WILL, TAKE, THE, thing, END] for thing in (APPLE, PEAR, PLUM, LIME)]
    pairs = ((RED, GREEN), (GREEN, RED))
    return Drafts([*taken, *([WILL, TAKE, THE, a, CUBE, ON, THE, b, CUBE, END] for a, b in pairs)], NAMES)


def test_a_sentence_is_guessed_to_its_end_with_what_was_asked_for() -> None:
    assert drafts().after([], [PEAR]) == [WILL, TAKE, THE, PEAR, END]
    assert drafts().after([WILL, TAKE], [LIME]) == [THE, LIME, END]
    assert drafts().after([], [GREEN, CUBE, RED, CUBE]) == [WILL, TAKE, THE, GREEN, CUBE, ON, THE, RED, CUBE, END]


def test_where_many_things_could_follow_and_none_was_asked_for_nothing_is_guessed() -> None:
    assert len((APPLE, PEAR, PLUM, LIME)) > BRANCHES
    assert drafts().after([], []) == [WILL, TAKE, THE]
    assert drafts().after([WILL, TAKE, THE], [ON, END]) == []  # words that name nothing
    assert drafts().after([WILL, TAKE, THE, APPLE], []) == [END]


def test_unknown_beginnings_and_no_sentences_at_all_give_no_guess() -> None:
    assert drafts().after([99], [PEAR]) == [] == Drafts(()).after([], [PEAR])


def test_a_guess_is_never_too_long() -> None:
    round_and_round = Drafts([[1, 2, 1, 2, 1, 2]])
    assert round_and_round.after([], []) == [1, 2] * (MOST // 2) + [1] * (MOST % 2)
    assert len(round_and_round.after([1, 2, 1], [])) == MOST
