"""What several tabs share: how their events are registered, and a picture box that opens nothing by itself."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.utils import get_upload_folder

from app.recording import Recording

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For events that are no endpoint and too quick for a progress bar."""
FINE = gr.validate(True, "")
"""A validator's verdict on an input that cannot be wrong."""
SIMULATOR_QUEUE = "simulator"
"""Events that wait for a free simulator wait in one line."""
Updates = dict[Any, Any]
"""Widget -> its new value, for those that change."""


def picture_box(**options: Any) -> gr.Image:
    """An image box that hands over the file as it was uploaded: `app.pictures` decides whether it is opened at all.

    Give it plain values only; an update made with `gr.Image(...)` would bring Gradio's own reading back.
    """
    box = gr.Image(type="filepath", **options)
    # Set on the object, because Gradio writes a stub file beside every module that subclasses a component.
    box.preprocess = lambda payload: payload.path if payload else None
    return box


def camera_picture(jpeg: bytes) -> str:
    """A camera frame for gr.Image: a file in Gradio's cache, byte by byte what the simulator sent.

    Gradio would encode it once more, and into a file that two visitors with the same frame write and read at once; this
    one appears whole, by renaming.
    """
    file = Path(get_upload_folder()) / hashlib.sha256(jpeg).hexdigest() / "frame.jpg"
    if file.is_file():
        with contextlib.suppress(OSError):
            file.touch()  # Gradio deletes by age
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(secrets.token_hex(8))
        draft.write_bytes(jpeg)
        draft.replace(file)
    return str(file)


def player(box: gr.HTML, recording: Recording, autoplay: bool = False) -> str:
    """A recorded rollout in the browser's own player, which keyboards and screen readers know, to be shown in `box`.

    Gradio's brings a third more of its scripts to the page, for streams that we have none of. `page.js` makes
    `data-src` its source: Gradio builds what is new beside the page first, where a source would be fetched, too.
    """
    video, subtitles = (
        f"gradio_api/file={quote(box.move_resource_to_block_cache(file) or '')}"
        for file in (recording.video, recording.subtitles)
    )
    return (
        f'<video data-src="{video}" controls muted playsinline preload="auto"{" autoplay" if autoplay else ""} '
        f'aria-label="Video of the rollout"><track src="{subtitles}" kind="captions" srclang="en" default></video>'
    )
