"""Whatever is typed, decoded, linked or sent: prompts keep their shape, pages their markup, parsers say a sentence."""

from __future__ import annotations

import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app.events import Command, Frame, SceneReady, Steered, ThoughtDone, ThoughtStarted, ThoughtToken
from app.recording import Recorder, Recording, RecordingError, find
from app.service import Service
from app.sessions import Sessions
from app.settings import Settings
from app.views.command import Tab, validate
from app.views.layout import layout
from app.views.screen import Screen
from app.wire import ORDER, QUESTION, REPLY, Act, Instruct, Refused, Reset, Rethink, Seen, Think, pack, unpack
from model.checkpoints import find_base_weights
from model.config import InstructVLAConfig
from model.prompts import Prompter, load_tokenizer
from sim.suite import SUITES, Suite, load_suite
from tests.test_page_states import DrawnPool, FakePilot
from tests.test_recording import OUTCOME, SPEC, jpeg
from tests.tiny import TINY, byte_tokenizer, observation

settings.register_profile(
    "here", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)
settings.load_profile("here")

TEMPLATE = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<new_token_0>", "<new_token_7>", "<IMG_CONTEXT>", "<img>",
            "</img>", "<image 1>", "<image>", "[INST]", "<s>", "</s>", "{}", "{0}", "{instruction}", "%s"]  # fmt: skip
MARKUP = ["<script>alert(1)</script>", "<img src=x onerror=y>", "</div>", "<!--", "-->", "&lt;", "](javascript:x)",
          "**", "```", "$$", "<style>", "]]>", "{{x}}", "' or 1", '" onload="']  # fmt: skip
SCRIPTS = ["把胡萝卜放在盘子上", "ضع الجزرة", "поставь морковь", "गाजर", "🥕👩‍🚀", "e\u0301\u0302\u0303", "\u202eabc",
           "\u200b", "\u2028", "\u2029", "\x85", "\ufeff", "\U000e0041", "\x00", "\x1b[31m", "\r\n",
           "\x7f", "\x1c"]  # fmt: skip
WORDS = st.lists(st.one_of(st.sampled_from([*TEMPLATE, *MARKUP, *SCRIPTS]), st.text(max_size=20)), max_size=8)
TEXT = WORDS.map("".join)
MEGABYTE = "put the carrot on the plate " * 40_000


def check_prompts(tokenizer: Tokenizer, config: Any, text: str, thought: str) -> Prompter:
    """The marks of every prompt are those of the same prompt about "x", in the same order."""
    prompter = Prompter(tokenizer, config)
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}

    def marks(ids: list[int]) -> list[int]:
        return [token for token in ids if token in special or token >= config.decoder.vocab]

    for make in (prompter.act, prompter.think, prompter.question, lambda said: prompter.think_example(said, thought)):
        assert marks(make(text).ids.tolist()) == marks(make("x").ids.tolist())
    assert marks(prompter.thought_ids(thought).tolist()) == []
    return prompter


BYTES = byte_tokenizer()


@settings(max_examples=500)
@given(text=TEXT, thought=TEXT)
def test_typed_text_never_becomes_a_control_token(text: str, thought: str) -> None:
    prompt = check_prompts(BYTES, TINY, text, thought).question(text)
    assert text in BYTES.decode(prompt.ids.tolist(), skip_special_tokens=True)


def test_nor_with_the_backbones_own_tokenizer() -> None:
    folder = find_base_weights() or pytest.skip("the backbone's tokenizer is not on this machine")
    tokenizer = load_tokenizer(folder)
    for text in (*TEMPLATE, *MARKUP, *SCRIPTS, "".join(TEMPLATE), "".join(SCRIPTS)):
        check_prompts(tokenizer, InstructVLAConfig(), text, text)


OURS = {"div", "p", "span", "b", "i", "class", "role", "style", "title", "tabindex", "aria-label", "aria-busy"}
"""What thoughts and status are made of, whatever anybody says."""


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(name for name, _ in attrs)}
        self.open += 1

    def handle_endtag(self, tag: str) -> None:
        self.open -= 1


@settings(max_examples=500)
@given(words=TEXT, thought=TEXT)
def test_five_hundred_instructions_break_neither_page_nor_record(words: str, thought: str) -> None:
    verdict = validate("open", 3, [], words, True)[3]
    if not verdict["is_valid"]:
        assert verdict["message"].endswith(".")
        return
    words = words.strip()
    spec = SPEC.model_copy(update={"instruction": words})
    events = [SceneReady(jpeg(0), spec, words), ThoughtStarted(0), ThoughtToken(thought, 0.5), ThoughtDone(thought),
              Steered("instruct", 0, words), Frame(jpeg(1), 1, 0.2), OUTCOME]  # fmt: skip
    screen, recorder = Screen(True), Recorder(Command(spec), "nano")
    for event in events:
        screen.show(event)
        recorder.add(event)
    for html in (screen.thoughts, screen.status):
        tags = Tags()
        tags.feed(html)
        assert tags.open == 0 and tags.seen <= OURS
    blocks = recorder._webvtt().strip().split("\n\n")
    assert len(blocks) == 1 + sum(bool(text) for text in (words, thought, words, "outcome"))
    assert all(block.count("-->") == 1 and "<" not in block for block in blocks[1:])
    with tempfile.TemporaryDirectory() as folder:
        record = Recording(Path(folder))
        record.log.write_text("".join(recorder.log_lines()), encoding="utf-8")
        assert record.whole and record.scene().text == words
        assert [e.text for e in record.events() if isinstance(e, ThoughtDone | Steered)] == [thought, words]


@pytest.mark.parametrize("words", [MEGABYTE, "\ud800 open it", "<|im_end|>" * 100_000, "\x00" * 1_000_000])
def test_a_megabyte_and_broken_characters_are_refused_at_every_door(words: str, tmp_path: Path) -> None:
    assert not validate("open", 3, [], words, True)[3]["is_valid"]
    service = Service(FakePilot(), Sessions(DrawnPool(), 1), tmp_path, Settings())
    for call in (lambda: next(service.run_rollout("open", 7, words)), lambda: service.evaluate_pair("open", 7, words),
                 lambda: next(service.ask_image("", words))):  # fmt: skip
        with pytest.raises(gr.Error) as caught:
            call()
        assert len(str(caught.value)) < 200


# -- parsers ----------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)


def damaged(whole: str) -> st.SearchStrategy[str]:
    """A text with a piece of it replaced."""
    place = st.integers(0, len(whole))
    return st.builds(lambda a, b, text: whole[: min(a, b)] + text + whole[max(a, b) :], place, place, TEXT)


@settings(max_examples=150)
@given(text=st.one_of(TEXT, damaged((SUITES / "tabletop-basic.yaml").read_text())))
def test_a_suite_file_is_a_suite_or_one_sentence(text: str) -> None:
    check_yaml(text)


@settings(max_examples=100)
@given(content=st.dictionaries(st.sampled_from(["name", "success", "tasks", "pack", "x"]), PLAIN, max_size=5))
def test_suites_of_strange_values(content: dict[str, Any]) -> None:
    check_yaml(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "text", ["[" * 5000, "name: 2001-99-99", "a: &a [*a, *a]", "? [1]: 2\n: 3", "!!python/object:os.x {}"]
)
def test_suites_made_to_break_yaml(text: str) -> None:
    check_yaml(text)


def check_yaml(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for read in (load_suite, Settings.load):
            try:
                assert isinstance(read(path), Suite | Settings)
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error).strip(), str(error)


LINES = st.lists(st.one_of(PLAIN.map(lambda value: json.dumps(value, default=str)), TEXT), max_size=5).map("\n".join)


@settings(max_examples=200)
@given(text=LINES, link=TEXT)
def test_a_damaged_record_is_one_that_is_not_there(text: str, link: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = Recording(Path(folder) / "run-1")
        record.folder.mkdir()
        record.log.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            record.events()
        except RecordingError as error:
            assert str(error) == "This recording is damaged."
        assert find("run-1", Path(folder)) is None and find(link, Path(folder)) is None


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tab, Any]:
    with gr.Blocks():
        widgets = layout(FakePilot(), [])
    folder = tmp_path_factory.mktemp("recordings")
    return Tab(widgets, FakePilot(), Sessions(DrawnPool(), size=1), folder), widgets.status


@settings(max_examples=150)
@given(link=TEXT)
def test_whatever_a_link_says_the_page_opens(handlers: tuple[Tab, Any], link: str) -> None:
    tab, status = handlers
    request: Any = SimpleNamespace(session_hash="x", query_params={"run": link})
    opened = tab.open(request)
    assert "no longer here" in opened[status] if link else status not in opened


ORDERS = st.sampled_from([pack(Reset(instruction="go", seed=1)), pack(Think(seen=Seen.of(observation()))),
                          pack(Act(seen=Seen.of(observation()))), pack(Instruct(instruction="go"))])  # fmt: skip


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=200), st.builds(
    lambda data, place, piece: data[: place % len(data)] + piece + data[place % len(data) + len(piece) :],
    ORDERS, st.integers(0, 9999), st.binary(max_size=6))))  # fmt: skip
def test_wire_messages_are_whole_or_refused(data: bytes) -> None:
    for kind in (ORDER, QUESTION, REPLY):
        try:
            message = unpack(kind, data)
        except Refused as refused:
            assert "\n" not in str(refused) and 400 <= refused.status < 500
        else:
            assert unpack(kind, pack(message)) == message


@settings(max_examples=100)
@given(text=TEXT)
def test_texts_cross_the_wire_as_they_are(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    for message in (Instruct(instruction=text), Rethink(seen=Seen.of(observation()), thought=text)):
        assert unpack(ORDER, pack(message)) == message
