"""Replies name the action and its objects, the same for the same scene."""

import pytest

from model.data.annotate import TEMPLATES, TemplateAnnotator


def scene(kind: str, seed: int = 0, source: str | None = "red_can", target: str | None = "blue_plate") -> dict:
    return {"seed": seed, "goal": {"kind": kind, "source": source, "target": target}}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_replies_name_what_they_act_on(kind: str) -> None:
    drawer = kind in ("open", "close")
    goal = scene(kind, source=None, target="top") if drawer else scene(kind)
    reply = TemplateAnnotator().reply(goal, "do it")
    named = ["top drawer"] if drawer else ["red can"] if kind == "pick" else ["red can", "blue plate"]
    assert reply.startswith("I will ") and reply.endswith(".")
    assert all(name in reply for name in named)


def test_replies_vary_with_the_seed_and_only_with_it() -> None:
    replies = [TemplateAnnotator().reply(scene("put_on", seed), "") for seed in range(30)]
    assert set(replies) == {t.format(source="red can", target="blue plate") for t in TEMPLATES["put_on"]}
    assert replies == [TemplateAnnotator().reply(scene("put_on", seed), "other words") for seed in range(30)]


def test_names_replace_ids() -> None:
    assert "green pepper" in TemplateAnnotator().reply(scene("pick", source="pepper"), "")
    assert "tin of cola" in TemplateAnnotator({"red_can": "tin of cola"}).reply(scene("pick"), "")


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="juggle"):
        TemplateAnnotator().reply(scene("juggle"), "")
