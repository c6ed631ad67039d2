"""Training's further wordings are many, leave the other splits alone and give nothing of them away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from model.data.references import Referrer
from model.data.splits import Split, divide
from model.data.things import Scene, Thing, catalog_of, load_catalog, split_uses
from model.data.wording import further_needs, further_words, lists, needs, needs_of, paraphrases, phrases, sentences

HELD_OUT: tuple[Split, ...] = ("validation", "test")
LANGUAGES = ("fr", "es", "de", "zh")
CATALOG = load_catalog(unseen=True)
COMMON = {
    "again", "all", "around", "comes", "coming", "four", "glass", "if", "itself", "longer", "makes", "new", "past",
    "said", "since", "t", "us", "work",
}  # fmt: skip
"""Words that only held-out sentences happen to have among the divided ones, and that distinguish none of them."""


def _flat(node: object, name: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _flat(child, f"{name} {key}".strip())
    else:
        assert isinstance(node, list)
        yield name, node


def _language(place: str) -> str:
    return place.split()[0] if place.split()[0] in LANGUAGES else "en"


def divided() -> Iterator[tuple[str, str, Split]]:
    """Language, text and split of every divided sentence, use and synonym."""
    for name, items in lists():
        trained = () if name.startswith("need ") else phrases()["trained"]["sentences"]
        where = divide(name, items, trained)
        yield from ((_language(name), sentence, where[sentence]) for sentence in items)
    uses = split_uses(CATALOG)
    for thing in CATALOG.values():
        yield from (("en", use, uses[use]) for use in thing.use)
        where = divide(f"synonym {thing.id}", thing.synonyms)
        yield from (("en", word, "test" if thing.unseen else where[word]) for word in thing.synonyms)


def further() -> Iterator[tuple[str, str]]:
    """Language and text of everything that training has on top."""
    for name, items in _flat(paraphrases()):
        yield from ((_language(name), sentence) for sentence in items)
    yield from (("en", sentence) for need in further_needs() for sentence in need.says)
    yield from (("en", word) for entry in further_words().values() for words in entry.values() for word in words)


def tokens(text: str, language: str) -> list[str]:
    pattern = r"\{\w*\}|[^\W\d_]" if language == "zh" else r"\{\w*\}|[^\W_]+(?:'[^\W_]+)?"
    return re.findall(pattern, text.lower())


def words(text: str, language: str) -> set[str]:
    return {token for token in tokens(text, language) if not token.startswith("{")}


def test_validation_and_test_are_what_dividing_the_lists_alone_gives() -> None:
    for name, items in lists():
        if not name.startswith("need "):
            where = divide(name, items, phrases()["trained"]["sentences"])
            for split in HELD_OUT:
                assert sentences(split, *name.split()) == tuple(s for s in items if where[s] == split)
            old = tuple(s for s in items if where[s] == "train")
            assert sentences("train", *name.split())[: len(old)] == old
    for split in HELD_OUT:
        held_out = needs_of(split)
        assert [(need.serves, need.might) for need in held_out] == [(need.serves, need.might) for need in needs()]
        for need, kept in zip(needs(), held_out, strict=True):
            where = divide(f"need {need.says[0]}", need.says)
            assert kept.says == tuple(s for s in need.says if where[s] == split)
        own = catalog_of(CATALOG, split)
        assert all(set(own[t.id].use) <= set(t.use) for t in CATALOG.values())
        assert all(set(own[t.id].synonyms) <= set(t.synonyms) for t in CATALOG.values())


def test_nothing_held_out_stands_in_a_further_sentence() -> None:
    held_out: dict[str, set[str]] = defaultdict(set)
    for language, text, split in divided():
        parts = tokens(text, language)
        if split != "train" and len(parts) > 1 and words(text, language):
            held_out[language].add(f" {' '.join(parts)} ")
    found = [
        (text, kept.strip())
        for language, text in further()
        for kept in held_out[language]
        if kept in f" {' '.join(tokens(text, language))} "
    ]
    assert not found, found


def test_no_word_that_only_held_out_sentences_use_is_trained() -> None:
    used: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for language, text, split in divided():
        used[language, split == "train"] |= words(text, language)
    looks = [(t.name, t.category, t.material, t.shape, *t.colours) for t in CATALOG.values() if not t.unseen]
    used["en", True] |= words(" ".join(part for parts in looks for part in parts), "en")
    found = []
    for language, text in further():
        keys = used[language, False] - used[language, True] - COMMON
        found += [(text, key) for key in words(text, language) & keys]
    assert not found, found


def test_each_place_is_known_and_has_many_more_sentences() -> None:
    known = {name: items for name, items in lists() if not name.startswith("need ")}
    added = dict(_flat(paraphrases()))
    assert set(added) <= set(known)
    for name, items in added.items():
        assert len(items) >= 8, name
        slots = {tuple(sorted(re.findall(r"\{\w*\}", s))) for s in known[name]}
        assert not [s for s in items if tuple(sorted(re.findall(r"\{\w*\}", s))) not in slots], name
    missing = set(known) - set(added)
    assert not missing, missing
    everything = [s for _, items in [*known.items(), *added.items()] for s in items]
    everything += [s for need in needs() + further_needs() for s in need.says]
    twice = {s for s, n in Counter(s.lower() for s in everything).items() if n > 1}
    assert twice == {"which object is {}?"}
    assert sum(len(need.says) for need in further_needs()) > 400


def test_further_needs_name_objects_and_keep_the_answer_back() -> None:
    for need in further_needs():
        assert set(need.serves) | set(need.might) <= set(CATALOG) and not set(need.serves) & set(need.might)
        names = {CATALOG[name].name for name in need.serves}
        assert not [text for text in need.says for name in names if re.search(rf"\b{name}\b", text, re.I)], need.says


def test_further_names_point_to_one_object() -> None:
    assert set(further_words()) <= {thing.id for thing in CATALOG.values() if not thing.unseen}
    names = [name for thing in CATALOG.values() for name in (thing.name, *thing.synonyms, *thing.further_synonyms)]
    assert [name for name, n in Counter(names).items() if n > 1] == []
    for thing in CATALOG.values():
        assert not set(thing.use) & set(thing.further_use)


@pytest.mark.parametrize("split", HELD_OUT)
def test_only_training_uses_the_further_words(split: Split) -> None:
    def told(thing: Thing, split: Split) -> set[str]:
        found = referrer.references(thing, Scene({thing.id: (0.5, 0.5)}, CATALOG), split)
        return {reference.attribute for reference in found}

    referrer = Referrer(CATALOG)
    for thing in CATALOG.values():
        further = {f"use {use}" for use in thing.further_use} | {f"synonym {word}" for word in thing.further_synonyms}
        assert further <= told(thing, "train") and not further & told(thing, split)
