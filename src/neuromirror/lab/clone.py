"""Clone a version with DataLad, and select files of it, also in subdatasets."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuromirror.git import GITLINK_MODE, list_tree
from neuromirror.lab.clone_urls import refuse_clone_url
from neuromirror.lab.globs import Globs
from neuromirror.mint.documents import OWN_NAMES
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
    """Clone a dataset: from a store of this machine with git, from a server with DataLad.

    Both make the same clone; DataLad alone takes longer to start than all of the rest.

    Raises
    ------
    ConfigurationError
        The folder is not empty, or a program is missing.
    CloneFailedError
        git, git-annex or DataLad failed.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists and is not empty; name another folder")
    store, _, alias = url.removeprefix("ria+").partition("#~")
    is_local = store.startswith("file://")
    for program in ("git-annex", "datalad"):
        if shutil.which(program) is None and not (is_local and program == "datalad"):
            raise ConfigurationError(
                f"{program} is not installed, and is required to clone: {install_advice(program)}"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    if is_local:
        _clone_stored(store, alias, folder)
        return
    command = ("datalad", "-l", "error", "-f", "disabled", "clone", "--", url, str(folder))
    reason = _failure_of(command, folder.parent)
    if reason is not None or not (folder / ".git").exists():
        raise CloneFailedError(f"{redact(url)}: datalad cannot clone it: {reason or 'no reason'}")


def _clone_stored(store: str, name: str, folder: Path) -> None:
    """Clone ``alias@label`` from the URL of a store, with the settings of ``datalad clone``."""
    root = url2pathname(urlsplit(store).path)
    alias, _, label = name.partition("@")
    settings = (
        # git-annex has no objects in the store
        "remote.origin.annex-ignore=true",
        f"datalad.get.subdataset-source-candidate-200origin=ria+{store}#{{id}}",
    )
    clone = (
        *("git", "-c", "advice.detachedHead=false", "clone", "--quiet"),
        *(f"--config={setting}" for setting in settings),
        *(["--branch", label] if label else []),
        *("--", os.path.join(root, "alias", alias), str(folder)),
    )
    reason = _failure_of(clone, folder.parent)
    if reason is None:
        reason = _failure_of(("git", "-C", str(folder), "annex", "init", "--quiet"), folder.parent)
        if reason is not None:
            shutil.rmtree(folder, ignore_errors=True)
    if reason is not None:
        raise CloneFailedError(f"{root}: {name} cannot be cloned: {reason or 'no reason'}")


def _failure_of(command: Sequence[str], folder: Path) -> str | None:
    """Run a program; return the last line of its messages if it failed, else None."""
    done = subprocess.run(
        command,
        env=work_tree_environment(credentials=True) | committer_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return (redact(lines[-1]) if lines else "") if done.returncode else None


def selected_paths(
    top: Path, globs: Globs, *, with_own_files: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield the selected files of a clone; subdatasets that have some are installed.

    Parameters
    ----------
    top
        Top folder of the clone.
    globs
        The selection.
    with_own_files
        Whether the files that neuromirror and DataLad add to a dataset can be selected.

    Yields
    ------
    tuple of str
        The path from the top of the clone, and an empty text or why it cannot be selected.
    """
    yield from _selected(top, "", globs, with_own_files)


def _selected(
    top: Path, prefix: str, globs: Globs, with_own_files: bool
) -> Iterator[tuple[str, str]]:
    folder = top / prefix
    links: list[bytes] = []
    for entry in list_tree(folder / ".git", "HEAD"):
        path = prefix + os.fsdecode(entry.path)
        if entry.mode == GITLINK_MODE:
            if globs.matches(path) or globs.reaches(path):
                links.append(entry.path)
        elif not with_own_files and entry.path.partition(b"/")[0] in OWN_NAMES:
            continue
        elif globs.matches(path):
            yield path, ""
    missing = [link for link in links if not is_installed(folder, link)]
    failed = install_subdatasets(folder, missing) if missing else {}
    for link in links:
        path = prefix + os.fsdecode(link)
        if link in failed:
            yield path, failed[link]
        else:
            yield from _selected(top, f"{path}/", globs, with_own_files)


def get_selected(
    top: Path, selection: Sequence[str], *, jobs: int, progress: ByteProgress | None = None
) -> Iterator[Outcome]:
    """Get the files of a clone that match globs; yield one outcome per file.

    A glob that no file matches has an outcome of its own, ``impossible``.
    """
    chosen: list[str] = []
    failed = False
    for path, problem in selected_paths(top, Globs(selection)):
        if problem:
            failed = True
            yield Outcome("get", "error", path, problem)
        else:
            chosen.append(path)
    for glob in () if failed else selection:
        if not any(map(Globs([glob]).matches, chosen)):
            yield Outcome("get", "impossible", glob, "the version has no file that matches")
    if chosen:
        yield from get(top, [top / path for path in chosen], jobs=jobs, progress=progress)


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
