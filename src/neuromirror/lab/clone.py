"""Clone a version with DataLad, or put its files into a folder without git."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from msgspec.structs import replace

from neuromirror import git
from neuromirror.annex import SkippedRemote, exclude_from_fetch, initialize, sha256e_key
from neuromirror.lab.addresses import annexed_key
from neuromirror.lab.clone_urls import refuse_clone_url, to_git_url
from neuromirror.lab.globs import Globs, escape
from neuromirror.lab.restore import REMOTE_PROTOCOLS
from neuromirror.lab.work_trees import KEEP_BYTES, run_git
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.model import ConfigurationError, NeuromirrorError, name_from_alias
from neuromirror.model.programs import install_advice
from neuromirror.net import redact
from neuromirror.store import SafeFolder, UnsafePathError, refuse_relative_symlinks, refuse_symlinks
from neuromirror.transfer import get
from neuromirror.transfer.annex_branch import foreign_settings
from neuromirror.transfer.annex_clone import (
    committer_environment,
    install_subdatasets,
    is_installed,
    work_tree_environment,
)
from neuromirror.transfer.outcomes import ByteProgress, Outcome
from neuromirror.transfer.verified_repository import PinnedFile
from neuromirror.transfer.work_tree import verify_plain_files

_NO_REPOSITORY: Final = re.compile("repository '[^']*' not found")
_NO_BRANCH: Final = re.compile("Remote branch .* not found in upstream")
_NO_CONNECTION: Final = re.compile(
    "(Could not resolve host|Failed to connect|Connection timed out|SSL)[^;\\n]*"
)
_OTHER_OWNER: Final = re.compile("dubious ownership in repository at '([^']*)'")
_QUIET_OPTIONS: Final = ("-c", "advice.detachedHead=false")


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


def clone_dataset(url: str, folder: Path) -> list[SkippedRemote]:
    """Clone a dataset as ``datalad clone`` does, but without the start of DataLad.

    For the mirror of another operator, only the special remotes that neuromirror itself writes are
    enabled: ``datalad clone`` would start the programs that the mirror specifies.

    Parameters
    ----------
    url
        The URL from :func:`store_url` or :func:`remote_url`.
    folder
        The folder of the clone.

    Returns
    -------
    list of SkippedRemote
        The special remotes that were not enabled.

    Raises
    ------
    ConfigurationError
        The folder is not empty, or git-annex is missing.
    NeuromirrorError
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
        **dict([KEEP_BYTES.split("=")]),
        # git-annex has no objects in the store
        "remote.origin.annex-ignore": "true",
        "datalad.get.subdataset-source-candidate-200origin": f"ria+{store}#{{id}}",
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
    except (git.GitError, git.ObjectsRefusedError) as error:
        if is_new:
            folder.rmdir()
        raise NeuromirrorError(_failure_message(url, redact(str(error)))) from error


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
    return f"{base}: git cannot clone {dataset}: {git.with_redirect_advice(message)}"


def _clone_stored(store: str, name: str, options: Sequence[str], folder: Path) -> None:
    """Clone ``alias@label`` from the URL of a store."""
    root = url2pathname(urlsplit(store).path)
    origin = os.path.join(root, "alias", name.partition("@")[0])
    environment = work_tree_environment(credentials=True) | committer_environment(folder.parent)
    initialization = ("-C", str(folder), "annex", "init", "--quiet")
    for command in ((*_QUIET_OPTIONS, *options, "--", origin, str(folder)), initialization):
        done = git.call_git(environment, *command)
        if done.returncode:
            if command is initialization:
                shutil.rmtree(folder, ignore_errors=True)
            reason = _failure_reason(done.stderr.decode(errors="replace"))
            raise NeuromirrorError(f"{root}: {name} cannot be cloned: {reason}")
    exclude_from_fetch(lambda *args: run_git(folder, *args))


def _failure_reason(output: str) -> str:
    """Return why git failed: its first error, which the others follow from."""
    if (distrusted := _OTHER_OWNER.search(output)) is not None:
        return (
            "it belongs to another user, and git reads only repositories of users that you trust; "
            f"trust it: git config --global --add safe.directory '{distrusted[1]}'"
        )
    lines = output.strip().splitlines() or ["git gave no reason"]
    return redact(next((line for line in lines if line.startswith("fatal: ")), lines[-1]))


def _clone_from_mirror(url: str, options: Sequence[str], folder: Path) -> list[SkippedRemote]:
    """Clone a dataset; move it to its folder once all objects are checked."""
    with SafeFolder.open_path(folder, create=True) as target, target.scratch() as scratch:
        made = scratch.path / "clone"
        run_git(
            scratch.path,
            *(*git.REMOTE_OPTIONS, *git.FSCK_OPTIONS, *_QUIET_OPTIONS),
            *(*options, "--template=", "--no-checkout", "--", url, str(made)),
            environment={"GIT_ALLOW_PROTOCOL": REMOTE_PROTOCOLS, "GIT_TERMINAL_PROMPT": "0"},
            credentials=True,
        )
        git.check_objects(made / ".git")
        unfiltered = foreign_settings()
        run_git(made, "checkout", "-q", environment=unfiltered)
        identity = committer_environment(made) | unfiltered
        skipped = initialize(lambda *args: run_git(made, *args, environment=identity), is_new=True)
        with scratch.folder("clone") as clone:
            for name in clone.names():
                clone.replace(name, target, name)
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
    for entry in git.list_tree(folder / ".git", "HEAD"):
        path = prefix + os.fsdecode(entry.path)
        if entry.mode == git.GITLINK_MODE:
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
    top: Path,
    selection: Sequence[str],
    *,
    jobs: int,
    progress: ByteProgress | None = None,
    settings: Mapping[str, str] | None = None,
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
    settings
        Settings of git with which private content is requested.
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
        paths = [top / path for path in chosen]
        yield from get(top, paths, jobs=jobs, progress=progress, settings=settings)


_DIFFERS: Final = "exists with different content and is kept; --overwrite replaces it"
_COMPARED_AT_ONCE: Final = 8
"""Number of threads that hash existing files."""


def download(
    url: str,
    path: str | None,
    target: Path,
    *,
    jobs: int,
    overwrite: bool = False,
    progress: ByteProgress | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Put files of a version into a folder, as plain files with verified content.

    The status of a file is ``notneeded`` if it exists with the right content, ``ok`` if it was
    fetched, ``error`` if it could not be fetched or written, or exists with different content, and
    ``impossible`` if no URL is known. No failure of a file prevents that of another.

    Parameters
    ----------
    url
        The URL from which DataLad clones the version.
    path
        A file or folder of the version; None for all files, except those that neuromirror and
        DataLad add to a dataset.
    target
        The folder.
    jobs
        Maximum number of concurrent downloads.
    overwrite
        Whether to replace files with different content.
    progress
        Called with the bytes received and expected so far.
    settings
        Settings of git with which private content is requested.

    Yields
    ------
    Outcome
        The result for each file.
    """
    own = {os.fsdecode(name) for name in OWN_NAMES}
    with_own_files = path is not None and not own.isdisjoint(path.split("/"))
    globs = Globs([] if path is None else [escape(path)])
    with (
        SafeFolder.open_path(target, create=True) as folder,
        folder.scratch(prefix=".neuromirror-") as scratch,
    ):
        clone = scratch.path / "clone"
        clone_dataset(url, clone)
        missing: list[str] = []
        existing: list[str] = []
        failed = False
        for one, problem in selected_paths(clone, globs, with_own_files=with_own_files):
            if problem:
                failed = True
                yield Outcome("get", "error", one, problem)
                continue
            is_there = False
            with suppress(UnsafePathError):  # an error when the file is written
                refuse_symlinks(target, os.path.dirname(one))
                is_there = os.path.lexists(target / one)
            (existing if is_there else missing).append(one)
        if path is not None and not (failed or missing or existing):
            yield Outcome("get", "impossible", path, "the version has no such file or folder")
        for outcome in _compare(clone, existing, target):
            if not outcome.failed:
                yield outcome
            elif overwrite:
                missing.append(outcome.path)
            else:
                yield outcome
        paths = [clone / one for one in missing]
        found = get(clone, paths, jobs=jobs, progress=progress, settings=settings) if paths else ()
        for outcome in found:
            if outcome.status == "notneeded":
                outcome = replace(outcome, status="ok", message="from git")  # noqa: PLW2901
            yield outcome if outcome.failed else _moved(clone, outcome, target, overwrite)


def _compare(clone: Path, paths: Sequence[str], target: Path) -> Iterator[Outcome]:
    """Yield whether existing files have the content of the version: ``notneeded`` or ``error``."""
    items = (PinnedFile(os.fsencode(path), _content_key(clone / path), ()) for path in paths)
    for finding in verify_plain_files(items, target, "error", _COMPARED_AT_ONCE):
        path = os.fsdecode(os.fsencode(finding.path))
        if finding.failed:
            # a file that could be compared has a size
            why = f"exists and {finding.message}" if finding.size is None else _DIFFERS
            yield Outcome("get", "error", path, why, key=finding.key)
        else:
            yield Outcome(
                *("get", "notneeded", path, finding.message),
                key=finding.key,
                size=finding.size,
                evidence=finding.evidence,
                checked=finding.checked,
            )


def _content_key(file: Path) -> str:
    """Return the key of an annexed file of a clone, or one for the content of any other file."""
    if key := annexed_key(file):
        return key
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return sha256e_key(os.fstat(content.fileno()).st_size, digest, file.name)


def _moved(clone: Path, outcome: Outcome, target: Path, overwrite: bool) -> Outcome:
    """Move the content of a file out of a scratch clone; return the outcome of both steps."""
    destination = target / outcome.path
    try:
        move_file(clone, outcome.path, destination, target, overwrite=overwrite)
        return replace(outcome, size=destination.stat().st_size)
    except FileExistsError:
        why = _DIFFERS
    except UnsafePathError as error:
        why = f"cannot be written: {error}"
    except OSError as error:
        # the folder at fault is the same for many files
        where = f"{error.filename}: " if error.filename in map(str, destination.parents) else ""
        why = f"cannot be written: {where}{error.strerror or error}"
    return Outcome("get", "error", outcome.path, why, key=outcome.key, size=outcome.size)


def move_file(
    clone: Path, path: str, destination: Path, top: Path, *, overwrite: bool = False
) -> None:
    """Move the content of a file out of a scratch clone, in one step.

    Parameters
    ----------
    clone
        The clone, on the file system of ``destination``.
    path
        The path of the file in the clone.
    destination
        The new path.
    top
        The folder below which no component of ``destination`` may be a symlink.
    overwrite
        Whether to replace an existing file.

    Raises
    ------
    FileExistsError
        The target exists.
    UnsafePathError
        A component of the path is a symlink.
    OSError
        The content is missing, or cannot be moved.
    """
    content = (clone / path).resolve(strict=True)
    if not content.is_relative_to(clone.resolve()):
        raise OSError(f"{path}: a link out of the dataset")
    draft = clone.parent / "draft"
    draft.unlink(missing_ok=True)
    os.chmod(content.parent, 0o700)
    try:
        # files with the same content must not become one file with several names
        if content.stat().st_nlink > 1:
            raise OSError
        os.link(content, draft)
    except OSError:  # for example on a file system without hard links
        shutil.copyfile(content, draft)
    os.chmod(draft, 0o644)
    try:
        opened = SafeFolder.open_path(destination.parent, create=True, below=top)
    except NotADirectoryError as error:
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(destination.parent)) from error
    name = destination.name
    with opened as folder:
        if not overwrite:
            try:
                # unlike a rename, never replaces a file
                os.link(draft, name, dst_dir_fd=folder.descriptor)
                return
            except OSError:
                if folder.status(name) is not None:
                    raise
        os.replace(draft, name, dst_dir_fd=folder.descriptor)
