"""Get the official SimplerEnv assets from their public homes, into ManiSkill's own folders.

A download resumes where it stopped, is verified by SHA-256, unpacked beside its place and moved there in one step: a
folder that is there is whole. Nothing is ever asked on standard input.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from sim.twin_assets import BRIDGE, EXTRA, EXTRA_HINT, FETCH, MODELS, ROBOT, is_extra, missing, real2sim, root

TIMEOUT_S = 30.0
BLOCK = 1 << 20
WIDOWX_SUMS = Path(__file__).resolve().parents[1] / "assets" / "simpler" / "widowx.sha256"


@dataclass(frozen=True)
class Source:
    """One zip archive. `target` is the folder it becomes below ManiSkill's asset folder, `landmark` a file in it.

    It is verified whole by `sha256`; GitHub packs its archives anew at will, so there the files are, by `sums`
    (a list as sha256sum writes it).
    """

    name: str
    url: str
    megabytes: float
    licence: str
    target: str
    landmark: str
    sha256: str | None = None
    sums: Path | None = None


def sources() -> tuple[Source, ...]:
    """Where the WidowX scenes come from; a mirror of the Hugging Face hub can be named by HF_ENDPOINT."""
    hub = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return (
        Source(
            name="ManiSkill's Bridge scenes",
            url=f"{hub}/datasets/haosulab/ManiSkill_bridge_v2_real2sim/resolve/main/bridge_v2_real2sim_dataset.zip",
            megabytes=82.0,
            licence="CC BY-NC 4.0 (ManiSkill's word for its assets): not for commercial use",
            target=BRIDGE,
            landmark="custom/info_bridge_custom_v0.json",
            sha256="618512a205b4528cafecdad14b1788ed1130879f3064deb406516ed5b9c5ba92",
        ),
        Source(
            name="WidowX 250S",
            url=(
                "https://github.com/haosulab/ManiSkill-WidowX250S/archive/"
                "6a12bb745d964aab9fc897f0999cad53aa29000c.zip"
            ),
            megabytes=1.2,
            licence="none stated by its authors",
            target=ROBOT,
            landmark="wx250s.urdf",
            sums=WIDOWX_SUMS,
        ),
    )


def fetch(
    wanted: Iterable[Source] | None = None, folder: Path | None = None, say: Callable[[str], None] = print
) -> None:
    """Download and install what is not complete yet.

    Args:
        wanted: archives; None: `sources()`.
        folder: ManiSkill's asset folder; None: where ManiSkill looks.
        say: gets every line for the user.

    Raises:
        ValueError: no network, a broken download or an unexpected archive; one sentence that says what to do.
    """
    folder = folder or root()
    for source in sources() if wanted is None else tuple(wanted):
        if _complete(source, folder):
            say(f"{source.name}: already in {folder / source.target}")
            continue
        say(f"{source.name}: {source.megabytes:g} MB from {source.url}")
        say(f"{'':4}licence: {source.licence}")
        _install(source, _download(source, folder / ".downloads"), folder)
        say(f"{'':4}now in {folder / source.target}")


def add_instruct_models(folder: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Copy what tasks 79 and 80 need besides from a checkout of ManiSkill2_real2sim, or say how to get that.

    No archive of these models is published, nor a checksum. Arguments as for `fetch`.
    """
    folder, models = folder or root(), real2sim() / MODELS
    for model in EXTRA:
        target = folder / BRIDGE / MODELS / model
        if all((target / name).is_file() for name in ("collision.obj", "textured.dae")):
            continue
        if not (models / model).is_dir():
            say(f"Tasks 79 and 80 also need the models {' and '.join(EXTRA)}: {EXTRA_HINT}")
            return
        fresh = target.with_name(f".{model}.new")
        for leftover in (fresh, target):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(models / model, fresh)
        fresh.rename(target)
        say(f"{model}: copied from {models / model}")


def _complete(source: Source, folder: Path) -> bool:
    absent = [path for path in missing(folder=folder) if path.startswith(f"{source.target}/")]
    return (folder / source.target / source.landmark).is_file() and all(map(is_extra, absent))


def _download(source: Source, folder: Path) -> Path:
    """Fetch the archive, going on where an earlier attempt stopped; returns the verified file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{PurePosixPath(source.target).name}.zip.part"
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            resumed = answer.status == 206
            length = answer.headers.get("Content-Length")
            whole = int(length) + (done if resumed else 0) if length else None
            with (
                partial.open("ab" if resumed else "wb") as file,
                tqdm(total=whole, initial=done if resumed else 0, unit="B", unit_scale=True) as bar,
            ):
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: there is nothing after what we have, so it is all here
            raise ValueError(f"{source.url} answered {error.code} {error.reason}; try again later.") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{source.url} cannot be reached ({reason}); run again to go on: {FETCH}") from None
    else:
        if whole is not None and partial.stat().st_size < whole:
            raise ValueError(f"The download of {source.name} stopped early; run again to go on: {FETCH}")
    if source.sha256 is not None and _sha256(partial) != source.sha256:
        partial.unlink()
        raise ValueError(f"{source.name}: the download is damaged and was deleted; run again: {FETCH}")
    return partial


def _install(source: Source, archive: Path, folder: Path) -> None:
    """Unpack beside the target, check, and swap it in."""
    target = folder / source.target
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as pack:
            pack.extractall(fresh)  # takes no path out of the folder
        found = sorted(fresh.rglob(source.landmark), key=lambda path: len(path.parts))
        if not found:
            raise ValueError(f"{source.name}: the archive holds no {source.landmark}; please report this.")
        content = found[0].parents[len(PurePosixPath(source.landmark).parts) - 1]
        _check_sums(source, content)
    except (zipfile.BadZipFile, ValueError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        archive.unlink()
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{source.name}: the download is damaged and was deleted; run again: {FETCH}") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    content.rename(target)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    archive.unlink()


def _check_sums(source: Source, content: Path) -> None:
    if source.sums is None:
        return
    for line in source.sums.read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        if not (content / name).is_file() or _sha256(content / name) != wanted:
            raise ValueError(f"{source.name}: {name} is not the file that was expected; please report this.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
