"""Write assets/suites/vqa.tsv: questions about pictures of our own table, for `app.py evaluate --suite vqa`.

Run: python assets/build_vqa.py

Scenes are of the evaluation seeds, sentences and uses of things of the test split: no model was trained on either. The
kinds of questions are balanced; captions are left out, because no sentence is the only right one. A picture stands in
the first row that asks about it; later rows name that row. Also writes the example pictures of the Ask tab.
"""

from __future__ import annotations

import base64
import csv
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.collecting import collect_scenes
from model.data.questions import MAKERS, Turn
from model.data.scenes import SceneDataset
from model.data.things import Scene, catalog_of, load_catalog
from sim.tasks import KINDS

ASSETS = Path(__file__).parent
OUT, EXAMPLES = ASSETS / "suites" / "vqa.tsv", ASSETS / "pictures"
FOLDER = ASSETS.parent / ".cache" / "vqa"
FIRST_SEED, PICTURES, PER_PICTURE = 1_300_000, 80, 4
SHOWN = 6
KINDS_ASKED = [kind for kind in MAKERS if kind != "caption"]
CATALOG = catalog_of(load_catalog(), "test")


def questions(scene: Scene, seed: int, asked: Counter[str]) -> list[Turn]:
    """Questions of different kinds about one picture, of the kinds that were asked least so far."""
    draw = random.Random(seed)
    turns: list[Turn] = []
    for kind in sorted(draw.sample(KINDS_ASKED, len(KINDS_ASKED)), key=lambda kind: asked[kind]):
        turn = MAKERS[kind](scene, draw, "test")
        if turn is not None and len(turns) < PER_PICTURE:
            turns.append(turn)
            asked[kind] += 1
    return turns


def main() -> None:
    """Render the pictures (those in `.cache/vqa` are kept), ask, write."""
    collect_scenes(FOLDER, KINDS, PICTURES, FIRST_SEED, workers=1)
    stills, asked = SceneDataset(FOLDER), Counter[str]()
    rows: list[list[str]] = []
    for number in range(len(stills)):
        still = stills[number]
        jpeg = (FOLDER / "frames" / f"{still.name}.jpg").read_bytes()
        image, first = base64.b64encode(jpeg).decode(), str(len(rows) + 1)
        for turn in questions(Scene(still.visible, CATALOG), still.seed, asked):
            index = str(len(rows) + 1)
            rows.append([index, image if index == first else first, turn.question, turn.answer, turn.kind])
    with OUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "image", "question", "answer", "category"])
        writer.writerows(rows)
    crowded = sorted(range(len(stills)), key=lambda number: (-len(stills[number].visible), stills[number].name))[:SHOWN]
    EXAMPLES.mkdir(exist_ok=True)
    for place, number in enumerate(sorted(crowded)):
        name = stills[number].name
        (EXAMPLES / f"{place}.jpg").write_bytes((FOLDER / "frames" / f"{name}.jpg").read_bytes())
    print(f"{len(rows)} questions about {len(stills)} pictures, {OUT.stat().st_size / 1e6:.1f} MB; {dict(asked)}")


if __name__ == "__main__":
    main()
