"""Requests made up about pictures: what a scene allows, in a split's words, and latents that follow an example."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.data.multimodal import RequestTalks
from model.data.requests import WAYS, Requests, goals, plain_command
from model.data.scenes import SceneDataset, SceneWriter, Still
from model.data.splits import pair_split
from model.data.things import Scene, load_catalog
from model.instructvla import InstructVLA
from model.prompts import THINK, Prompter
from model.training import answering
from model.training.answering import request_scores
from model.training.latents import ASTRAY, RequestBatch, RequestData, Teacher, losses
from sim.tasks import Goal, instruction
from tests.test_episodes import jpeg
from tests.tiny import TINY, byte_tokenizer

CATALOG = load_catalog()
TABLE = {"carrot": [0.2, 0.4], "red_cube": [0.4, 0.6], "blue_cube": [0.6, 0.4], "white_plate": [0.8, 0.5]}
STILL = Still("0000001", 1, TABLE, {"kind": "pick", "source": "carrot"})
PROMPTER = Prompter(byte_tokenizer(), TINY)
SHARES = {"direct": 0.25, "think": 0.25, "rewrite": 0.25, "context": 0.25}


@pytest.fixture
def scenes(tmp_path: Path) -> SceneDataset:
    writer = SceneWriter(tmp_path)
    for seed in range(40):
        goal = {"kind": "open", "target": "top"} if seed % 7 == 5 else {"kind": "pick", "source": "carrot"}
        writer.add(f"{seed:04d}", seed, jpeg(seed), {} if seed % 7 == 5 else TABLE, goal)
    return SceneDataset(tmp_path)


def test_every_goal_is_one_that_the_simulator_accepts() -> None:
    made = [goal for split in ("train", "validation", "test") for goal in goals(STILL, Scene(TABLE, CATALOG), split)]
    assert {goal["kind"] for goal in made} == {"pick", "put_on", "stack", "near"}
    for goal in made:
        Goal(**goal)
    assert {"kind": "put_on", "source": "carrot", "target": "white_plate"} in made
    assert not any(goal["source"] == "white_plate" for goal in made)


def test_pairs_stay_in_their_split() -> None:
    seen = Scene(TABLE, CATALOG)
    for split in ("train", "validation", "test"):
        pairs = [goal for goal in goals(STILL, seen, split) if "target" in goal]
        assert all(pair_split(goal) == split for goal in pairs)


def test_a_cabinet_is_opened_at_any_drawer_and_closed_where_it_is_open() -> None:
    def drawers(kind: str) -> list[str]:
        still = Still("0", 0, {}, {"kind": kind, "target": "middle"})
        return [goal["target"] for goal in goals(still, Scene({}, CATALOG), "train")]

    assert drawers("open") == ["top", "middle", "bottom"] and drawers("close") == ["middle"]


def test_the_plain_command_is_the_one_of_the_tasks() -> None:
    for kind in (
        {"kind": "pick", "source": "carrot"},
        {"kind": "put_on", "source": "carrot", "target": "white_plate"},
        {"kind": "stack", "source": "red_cube", "target": "blue_cube"},
        {"kind": "near", "source": "carrot", "target": "blue_cube"},
        {"kind": "open", "target": "top"},
        {"kind": "close", "target": "bottom"},
    ):
        assert plain_command(kind, CATALOG) == instruction(Goal(**kind))


def test_a_request_names_or_means_what_the_reply_says() -> None:
    draw, requests = random.Random(0), Requests()
    names = [CATALOG[name].name for name in TABLE]
    for way in WAYS:
        made = [requests.draw(STILL, draw, way) for _ in range(20)]
        found = [one for one in made if one is not None]
        assert len({one.words for one in found}) > 5
        for one in found:
            assert one.way == way and any(name in one.reply for name in names) and one.reply.startswith("I will")
            if way == "plain":
                assert one.words == one.command
    assert requests.draw(Still("0", 0, {}), draw, "plain") is None


def test_requests_are_asked_as_the_robot_is(scenes: SceneDataset) -> None:
    talk = RequestTalks(scenes, turns=4).talk(random.Random(1))
    before, after = THINK.split("{}")
    for turn in talk.turns:
        assert turn.question.startswith(before) and turn.question.endswith(after) and turn.answer.startswith("I will")


def test_a_batch_packs_requests_and_as_many_commands(scenes: SceneDataset) -> None:
    data = RequestData(scenes, PROMPTER, TINY, pictures=2, each=5, ways=SHARES, seed=0)
    batch, again = data(3), data(3)
    assert torch.equal(batch.requests.ids, again.requests.ids) and batch.pixels.shape == (2, 3, 28, 56)
    told = [int(part.query_positions.sum()) // TINY.queries for part in (batch.requests, batch.commands)]
    assert told[0] == told[1] > 4


def test_what_is_meant_is_pointed_at(scenes: SceneDataset) -> None:
    model = InstructVLA(TINY).requires_grad_(False).eval()
    batch = RequestData(scenes, PROMPTER, TINY, 2, 6, {"think": 1.0}, seed=0)(0)
    assert len(batch.points) == int(batch.requests.query_positions.sum()) // TINY.queries
    known = [tuple(place[:2]) for index in range(len(scenes)) for place in scenes[index].visible.values()]
    for source, target in batch.points.tolist():
        assert source == [-1, -1] or min(abs(source[0] - u) + abs(source[1] - v) for u, v in known) < 1e-6
        assert target == [-1, -1] or min(abs(target[0] - u) + abs(target[1] - v) for u, v in known) < 1e-6
    parts = losses(model, Teacher(model, [batch]), batch)
    nowhere = losses(model, Teacher(model, [batch]), anywhere(batch))
    assert float(parts["point"]) > 0 == float(nowhere["point"])


def anywhere(batch: RequestBatch) -> RequestBatch:
    """The same, where nobody knows what the requests are about: whatever points anywhere is an example then."""
    return replace(batch, points=torch.full_like(batch.points, -1))


def test_an_example_that_points_at_something_else_is_not_followed(scenes: SceneDataset) -> None:
    torch.manual_seed(0)
    acting, model = (InstructVLA(TINY).eval().requires_grad_(False) for _ in range(2))
    batch = RequestData(scenes, PROMPTER, TINY, pictures=2, each=4, ways={"direct": 1.0}, seed=0)(0)
    teacher = Teacher(acting, [batch])
    view = acting.encode(batch.pixels)
    latents = acting.latents(acting.read(batch.commands, view)[0], batch.commands)
    times = batch.commands.query_positions.sum(1) // acting.queries
    _, found = acting.action_expert.point(view.trunk.repeat_interleave(times, 0), latents)
    astray = found + torch.tensor([ASTRAY + 0.01, 0.0])

    def latent(points: torch.Tensor) -> float:
        return float(losses(model, teacher, replace(batch, points=points))["latent"])

    assert latent(found) == pytest.approx(latent(anywhere(batch).points)) and latent(found) > 0.1
    assert latent(astray) == 0
    one = torch.cat([found[:1], astray[1:]])
    other = torch.cat([astray[:1], found[1:]])
    count = len(found)
    assert latent(one) / count + latent(other) * (count - 1) / count == pytest.approx(latent(found), rel=1e-4)


def test_the_same_words_give_the_same_latents_and_nothing_to_learn(scenes: SceneDataset) -> None:
    torch.manual_seed(0)
    model = InstructVLA(TINY).eval().requires_grad_(False)
    data = RequestData(scenes, PROMPTER, TINY, pictures=2, each=4, ways={"direct": 1.0}, seed=0)
    teacher = Teacher(model, map(data, range(4)))
    assert float(losses(model, teacher, anywhere(data(0)))["latent"]) < 1e-8
    other = InstructVLA(TINY).eval().requires_grad_(False)
    assert float(losses(other, teacher, anywhere(data(0)))["latent"]) > 0.1


def test_other_words_learn_to_mean_the_same(scenes: SceneDataset) -> None:
    torch.manual_seed(0)
    acting = InstructVLA(TINY).eval().requires_grad_(False)
    model = InstructVLA(TINY)
    model.load_state_dict(acting.state_dict())
    model.requires_grad_(False)
    trained = [p for name, p in model.decoder.named_parameters() if "lora_" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    data = RequestData(scenes, PROMPTER, TINY, pictures=2, each=4, ways={"rewrite": 1.0}, seed=0)
    teacher = Teacher(acting, map(data, range(4)))
    optimiser = torch.optim.AdamW(trained, 3e-3)
    seen = []
    for step in range(30):
        parts = losses(model, teacher, anywhere(data(step)))
        optimiser.zero_grad()
        (parts["reply"] + parts["latent"]).backward()
        optimiser.step()
        seen.append([float(parts[name].detach()) for name in ("reply", "latent")])
    early, late = torch.tensor(seen[:5]).mean(0), torch.tensor(seen[-5:]).mean(0)
    assert late[1] < 0.5 * early[1]


def test_replies_are_scored_by_way(scenes: SceneDataset) -> None:
    scores = request_scores(InstructVLA(TINY).eval(), PROMPTER, scenes, limit=6)
    assert scores["replies"] == scores["meant"] == 0 and {"reply plain", "reply rewrite"} <= set(scores)


def test_a_request_is_meant_where_its_reply_and_its_points_are_right(
    scenes: SceneDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = InstructVLA(TINY).eval()
    monkeypatch.setattr(answering, "_right", lambda model, hidden, text: [True] * int(text.branch.max()))

    def meant() -> float:
        return request_scores(model, PROMPTER, scenes, limit=4)["meant"]

    beside = meant()
    monkeypatch.setattr(answering, "NEAR", 2.0)
    assert beside < 0.5 and meant() == 1
    monkeypatch.setattr(answering, "_right", lambda model, hidden, text: [False] * int(text.branch.max()))
    assert meant() == 0


