"""Clone a version with DataLad, and select files of it, also in subdatasets."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from neuromirror.git import GITLINK_MODE, list_tree
from neuromirror.lab.clone_urls import refuse_clone_url
from neuromirror.lab.globs import Globs
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.model.programs import install_advice
from neuromirror.net import redact
from neuromirror.transfer import get
from neuromirror.transfer.annex_clone import committer_environment, work_tree_environment
from neuromirror.transfer.byte_progress import ByteProgress
from neuromirror.transfer.outcomes import Outcome
from neuromirror.transfer.subdatasets import install_subdatasets, is_installed


class CloneFailedError(NeuromirrorError):
    """DataLad could not clone the dataset."""


def store_url(root: Path, alias: str, label: str) -> str:
    """Return the URL of a version in a store of this machine."""
    return f"ria+{root.absolute().as_uri()}#~{alias}@{label}"


def remote_url(base: str, alias: str, label: str | None) -> str:
    """Return the URL of a version at a catalogue or mirror.

    Raises
    ------
    ConfigurationError
        The scheme of ``base`` is not that of a web or SSH server, or it has credentials.
    """
    if urlsplit(base).fragment:
        raise ConfigurationError(f"{redact(base)}: name a mirror or catalogue, without a #fragment")
    refuse_clone_url(base)
    prefix = "" if base.startswith("ria+") else "ria+"
    return f"{prefix}{base.rstrip('/')}/#~{alias}" + (f"@{label}" if label else "")


def clone_dataset(url: str, folder: Path) -> None:
    """Clone a dataset with DataLad.

    Raises
    ------
    ConfigurationError
        The folder is not empty, or a program is missing.
    CloneFailedError
        DataLad failed.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists and is not empty; name another folder")
    for program in ("git-annex", "datalad"):
        if shutil.which(program) is None:
            raise ConfigurationError(
                f"{program} is not installed, and is required to clone: {install_advice(program)}"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["datalad", "-l", "error", "-f", "disabled", "clone", "--", url, str(folder)],
        env=work_tree_environment(credentials=True) | committer_environment(folder.parent),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode or not (folder / ".git").exists():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CloneFailedError(
            f"{redact(url)}: datalad cannot clone it: {redact(lines[-1]) if lines else 'no reason'}"
        )


def selected_paths(top: Path, globs: Globs) -> Iterator[tuple[str, str]]:
    """Yield the selected files of a clone; subdatasets that have some are installed.

    Yields
    ------
    tuple of str
        The path from the top of the clone, and an empty text or why it cannot be selected.
    """
    yield from _selected(top, "", globs)


def _selected(top: Path, prefix: str, globs: Globs) -> Iterator[tuple[str, str]]:
    folder = top / prefix
    links: list[bytes] = []
    for entry in list_tree(folder / ".git", "HEAD"):
        path = prefix + os.fsdecode(entry.path)
        if entry.mode == GITLINK_MODE:
            if globs.matches(path) or globs.reaches(path):
                links.append(entry.path)
        elif globs.matches(path):
            yield path, ""
    missing = [link for link in links if not is_installed(folder, link)]
    failed = install_subdatasets(folder, missing) if missing else {}
    for link in links:
        path = prefix + os.fsdecode(link)
        if link in failed:
            yield path, failed[link]
        else:
            yield from _selected(top, f"{path}/", globs)


def get_selected(
    top: Path, globs: Globs, *, jobs: int, progress: ByteProgress | None = None
) -> Iterator[Outcome]:
    """Get the selected files of a clone; yield one outcome per file."""
    chosen: list[str | Path] = []
    for path, problem in selected_paths(top, globs):
        if problem:
            yield Outcome("get", "error", path, problem)
        else:
            chosen.append(top / path)
    if chosen:
        yield from get(top, chosen, jobs=jobs, progress=progress)


@contextmanager
def scratch_clone(url: str, beside: Path) -> Iterator[Path]:
    """Clone a dataset into a temporary folder in ``beside``, which is removed afterwards."""
    beside.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=".neuromirror-", dir=beside))
    try:
        clone_dataset(url, holder / "clone")
        yield holder / "clone"
    finally:
        # git-annex protects its folders
        for parent, _, _ in os.walk(holder):
            os.chmod(parent, 0o700)
        shutil.rmtree(holder, ignore_errors=True)


def move_file(clone: Path, path: str, target: Path) -> None:
    """Move the content of a file out of a scratch clone.

    Raises
    ------
    FileExistsError
        The target exists.
    OSError
        The content is missing, or cannot be moved.
    """
    place = target / path
    if os.path.lexists(place):
        raise FileExistsError(f"{place} exists; remove it, or choose another folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    content = (clone / path).resolve(strict=True)
    if not content.is_relative_to(clone.resolve()):
        raise OSError(f"{path}: a link out of the dataset")
    os.chmod(content.parent, 0o700)
    os.chmod(content, 0o644)
    # another file can have the same content: it stays until the last one was moved
    try:
        os.link(content, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(content, place)


def download(
    url: str, globs: Globs, target: Path, *, jobs: int, progress: ByteProgress | None = None
) -> Iterator[Outcome]:
    """Put the selected files of a version into a folder, as plain files with verified content.

    Existing files are never replaced. Yields one outcome per file.
    """
    with scratch_clone(url, target) as clone:
        wanted = []
        for path, problem in selected_paths(clone, globs):
            if problem:
                yield Outcome("get", "error", path, problem)
            elif os.path.lexists(target / path):
                message = f"{target / path} exists; remove it, or choose another folder"
                yield Outcome("get", "error", path, message)
            else:
                wanted.append(path)
        if not wanted:
            return
        annexed = set()
        for outcome in get(clone, [clone / one for one in wanted], jobs=jobs, progress=progress):
            annexed.add(outcome.path)
            if not outcome.failed:
                move_file(clone, outcome.path, target)
            yield outcome
        for path in wanted:
            # files that are in git itself have no outcome
            if path not in annexed:
                move_file(clone, path, target)
                size = (target / path).stat().st_size
                yield Outcome("get", "ok", path, "from git", size=size)
