"""Clone a version with DataLad, and select files of it, also in subdatasets."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuromirror.annex import SkippedRemote, initialize
from neuromirror.git import (
    FSCK_OPTIONS,
    GITLINK_MODE,
    REMOTE_OPTIONS,
    GitError,
    ObjectsRefusedError,
    call_git,
    check_objects,
    list_tree,
    with_redirect_advice,
)
from neuromirror.lab.clone_urls import refuse_clone_url, to_git_url
from neuromirror.lab.globs import Globs
from neuromirror.lab.restore_strategies import REMOTE_PROTOCOLS
from neuromirror.lab.work_trees import run_git
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.model import ConfigurationError, NeuromirrorError, name_from_alias
from neuromirror.model.programs import install_advice
from neuromirror.net import redact
from neuromirror.store import SafeFolder, refuse_relative_symlinks
from neuromirror.transfer import get
from neuromirror.transfer.annex_clone import committer_environment, work_tree_environment
from neuromirror.transfer.byte_progress import ByteProgress
from neuromirror.transfer.git_commands import disabled_filters
from neuromirror.transfer.outcomes import Outcome
from neuromirror.transfer.subdatasets import install_subdatasets, is_installed

_NO_REPOSITORY: Final = re.compile("repository '[^']*' not found")
_NO_BRANCH: Final = re.compile("Remote branch .* not found in upstream")
_NO_CONNECTION: Final = re.compile(
    "(Could not resolve host|Failed to connect|Connection timed out|SSL)[^;\\n]*"
)
_QUIET_OPTIONS: Final = ("-c", "advice.detachedHead=false")


class CloneFailedError(NeuromirrorError):
    """git could not clone the dataset."""


def store_url(root: Path, alias: str, label: str) -> str:
    """Return the URL from which DataLad clones a version in a store of this machine.

    ``root`` is the store's folder, ``alias`` the dataset's alias in it.
    """
    return f"ria+{root.absolute().as_uri()}#~{alias}@{label}"


def remote_url(base: str, alias: str, label: str | None) -> str:
    """Return the URL from which DataLad clones a version at a catalogue or mirror.

    Parameters
    ----------
    base
        The URL of the catalogue or mirror.
    alias
        The alias of the dataset.
    label
        The label of the version; None for the newest.

    Raises
    ------
    ConfigurationError
        The scheme of ``base`` is not that of a web or SSH server, or it has credentials.
    """
    if urlsplit(base).fragment:
        raise ConfigurationError(
            f"{redact(base)}: use the URL of a mirror or catalogue, without a #fragment"
        )
    refuse_clone_url(base)
    prefix = "" if base.startswith("ria+") else "ria+"
    return f"{prefix}{base.rstrip('/')}/#~{alias}" + (f"@{label}" if label else "")


def clone_dataset(
    url: str, folder: Path, settings: Mapping[str, str] | None = None
) -> list[SkippedRemote]:
    """Clone a dataset as ``datalad clone`` does, but without the start of DataLad.

    For the mirror of another operator, only the special remotes that neuromirror itself writes are
    enabled: ``datalad clone`` would start the programs that the mirror specifies.

    Parameters
    ----------
    url
        The URL from :func:`store_url` or :func:`remote_url`.
    folder
        The folder of the clone.
    settings
        Further settings of git for the clone.

    Returns
    -------
    list of SkippedRemote
        The special remotes that were not enabled.

    Raises
    ------
    ConfigurationError
        The folder is not empty, or git-annex is missing.
    CloneFailedError
        git or git-annex failed, or git refuses the objects.
    """
    refuse_relative_symlinks(folder)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists and is not empty; choose another folder")
    if shutil.which("git-annex") is None:
        raise ConfigurationError(
            f"git-annex is not installed, and is required to clone: {install_advice('git-annex')}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    store, _, name = url.removeprefix("ria+").partition("#~")
    given = {
        # git-annex has no objects in the store
        "remote.origin.annex-ignore": "true",
        "datalad.get.subdataset-source-candidate-200origin": f"ria+{store}#{{id}}",
        **(settings or {}),
    }
    label = name.partition("@")[2]
    options = (
        *("clone", "--quiet", *(f"--config={name}={value}" for name, value in given.items())),
        *(["--branch", label] if label else []),
    )
    if store.startswith("file://"):
        _clone_stored(store, name, options, folder)
        return []
    is_new = not folder.exists()
    try:
        return _clone_from_mirror(to_git_url(url), options, folder.absolute())
    except (GitError, ObjectsRefusedError) as error:
        if is_new:
            folder.rmdir()
        raise CloneFailedError(_failure_message(url, redact(str(error)))) from error


def _failure_message(url: str, message: str) -> str:
    """Return the reason why a mirror was not cloned, from the message of git."""
    base, _, name = url.removeprefix("ria+").partition("#~")
    alias, _, label = name.partition("@")
    base, dataset = redact(base), name_from_alias(alias)
    if _NO_REPOSITORY.search(message):
        return f"{dataset}: there is no such dataset at {base}; check the name and the URL"
    if _NO_BRANCH.search(message):
        return (
            f"{dataset}: there is no version {label} at {base}; without @{label}, it is the newest"
        )
    if (failed := _NO_CONNECTION.search(message)) is not None:
        return f"{base} cannot be reached: {failed[0]}; check the network and the URL"
    return f"{base}: git cannot clone {dataset}: {with_redirect_advice(message)}"


def _clone_stored(store: str, name: str, options: Sequence[str], folder: Path) -> None:
    """Clone ``alias@label`` from the URL of a store."""
    root = url2pathname(urlsplit(store).path)
    origin = os.path.join(root, "alias", name.partition("@")[0])
    environment = work_tree_environment(credentials=True) | committer_environment(folder.parent)
    initialization = ("-C", str(folder), "annex", "init", "--quiet")
    for command in ((*_QUIET_OPTIONS, *options, "--", origin, str(folder)), initialization):
        done = call_git(environment, *command)
        if done.returncode:
            if command is initialization:
                shutil.rmtree(folder, ignore_errors=True)
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            reason = redact(lines[-1]) if lines else "no reason"
            raise CloneFailedError(f"{root}: {name} cannot be cloned: {reason}")


def _clone_from_mirror(url: str, options: Sequence[str], folder: Path) -> list[SkippedRemote]:
    """Clone a dataset; move it to its folder once all objects are checked."""
    with (
        SafeFolder.open_path(folder, create=True) as target,
        target.scratch() as scratch,
    ):
        made = scratch.path / "clone"
        run_git(
            scratch.path,
            *(*REMOTE_OPTIONS, *FSCK_OPTIONS, *_QUIET_OPTIONS),
            *(*options, "--template=", "--no-checkout", "--", url, str(made)),
            environment={"GIT_ALLOW_PROTOCOL": REMOTE_PROTOCOLS, "GIT_TERMINAL_PROMPT": "0"},
            credentials=True,
        )
        check_objects(made / ".git")
        unfiltered = disabled_filters()
        run_git(made, "checkout", "-q", environment=unfiltered)
        identity = committer_environment(made) | unfiltered
        skipped = initialize(lambda *args: run_git(made, *args, environment=identity), is_new=True)
        with scratch.folder("clone") as clone:
            for one in clone.names():
                clone.replace(one, target, one)
    return skipped


def selected_paths(
    top: Path, globs: Globs, *, with_own_files: bool = True, prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the selected files of a clone; subdatasets that contain some are installed.

    Parameters
    ----------
    top
        Top folder of the clone.
    globs
        The selection.
    with_own_files
        Whether the files that neuromirror and DataLad add to a dataset can be selected.
    prefix
        The path of a subdataset of the clone, with a slash at its end; empty for the clone itself.

    Yields
    ------
    tuple of str
        The path of a file from the top of the clone, and an empty text; or the path of a subdataset
        and why it cannot be installed.
    """
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
            yield from selected_paths(top, globs, with_own_files=with_own_files, prefix=f"{path}/")


def get_selected(
    top: Path, selection: Sequence[str], *, jobs: int, progress: ByteProgress | None = None
) -> Iterator[Outcome]:
    """Get the files of a clone that match globs; yield one outcome per file.

    A glob that no file matches has an outcome of its own, ``impossible``.

    Parameters
    ----------
    top
        The top folder of the clone.
    selection
        The globs; empty for all files.
    jobs
        Maximum number of concurrent downloads.
    progress
        Called with the bytes received and expected so far.
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
            names = sorted(one for one in os.listdir(top) if not one.startswith("."))
            near = ", ".join(get_close_matches(glob, names) or names[:3])
            example = f"; there are, for example, {near}" if near else ""
            yield Outcome("get", "impossible", glob, f"no file of the version matches{example}")
    if chosen:
        yield from get(top, [top / path for path in chosen], jobs=jobs, progress=progress)


@contextmanager
def scratch_clone(
    url: str, beside: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Clone a dataset into a temporary folder in ``beside``; yield the path of the clone.

    ``settings`` are further settings of git for the clone.

    The folder is removed at the end of the block.
    """
    with (
        SafeFolder.open_path(beside, create=True) as folder,
        folder.scratch(prefix=".neuromirror-") as holder,
    ):
        clone_dataset(url, holder.path / "clone", settings)
        yield holder.path / "clone"
