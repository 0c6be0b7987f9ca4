"""The bare repositories of a store, and the documents of the archive in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from neuromirror import git
from neuromirror.git import (
    GitError,
    InvalidRefNameError,
    ObjectMissingError,
    ObjectReader,
    Pack,
    is_ref_name,
    parse_commit,
    read_refs,
)
from neuromirror.git.runner import PACKED_REFS, info_refs_content, read_loose_ref, read_packed_refs
from neuromirror.model import (
    CLEANED,
    DESCRIPTION_PATH,
    DatasetRef,
    InvalidDocumentError,
    describing_documents,
    parse_description,
)
from neuromirror.store.durable_files import (
    CONFIG,
    FILE_MODE,
    FOLDER_MODE,
    UMASK,
    finish_file,
    fsync_path,
    fsync_tree,
    make_folder,
    protect,
    protection_digest,
    write_atomically,
)
from neuromirror.store.errors import RefsMovedError, StoreBusyError, StoreDamagedError
from neuromirror.store.repack import is_pack_list_current, write_pack_list

DRAFT_PREFIX = "packed-refs.new-"

# git ignores unknown traits; "neuromirror" in a lock file identifies its writer
_HEADER = b"# pack-refs with: peeled fully-peeled sorted neuromirror \n"


def update_refs(
    repository: Path, expected: Mapping[str, str | None], new: Mapping[str, str | None]
) -> None:
    """Move refs in one step: after a crash either all refs in ``new`` are moved, or none is.

    The caller holds the dataset's lock.

    Parameters
    ----------
    repository
        The bare repository.
    expected
        Where the refs must be now: full name → commit id in hex; None for a ref that must not
        exist.
    new
        Where the refs are moved to; None deletes a ref.

    Raises
    ------
    RefsMovedError
        A ref is not where ``expected`` has it.
    StoreBusyError
        git holds the lock of one of the refs.
    InvalidRefNameError
        git rejects a name in ``new``.
    """
    for name in new:
        if not is_ref_name(name):
            raise InvalidRefNameError(
                f"{repository}: {name!r} is not a valid ref name; nothing was changed"
            )
    remove_own_locks(repository)
    names = sorted({*expected, *new})
    with _lock_refs(repository, names):
        packed = read_packed_refs(repository)
        loose = {name: sha for name in names if (sha := read_loose_ref(repository, name))}
        for name, commit in expected.items():
            found = loose.get(name) or packed.get(name, (None, ""))[0]
            if found != commit:
                raise RefsMovedError(
                    f"{repository}: {name} is at {found}, expected {commit}: another program moved "
                    "it during the visit. Nothing was changed; run the sync again."
                )
        hiding = [name for name in new if name in loose]
        if hiding:
            # A loose ref overrides the packed one. Its value is packed and the loose file is
            # removed first; otherwise a crash could leave this ref behind the others.
            packed.update({name: (loose[name], "") for name in hiding})
            _write_packed_refs(repository, packed)
            for name in hiding:
                (repository / name).unlink(missing_ok=True)
                fsync_path((repository / name).parent)
        packed = {name: value for name, value in packed.items() if name not in new}
        packed.update({name: (sha, "") for name, sha in new.items() if sha is not None})
        _write_packed_refs(repository, packed)


def remove_own_locks(repository: Path) -> None:
    """Remove locks of a killed neuromirror process; the caller holds the dataset's lock."""
    for lock in (repository / f"{PACKED_REFS}.lock", *(repository / "refs").rglob("*.lock")):
        try:
            is_own = lock.read_bytes().startswith(_HEADER)
        except (FileNotFoundError, IsADirectoryError):
            continue
        # the caller has the dataset's lock, so no living process of ours owns this one
        if is_own:
            lock.unlink(missing_ok=True)


def _write_packed_refs(repository: Path, refs: Mapping[str, tuple[str, str]]) -> None:
    lines = "".join(f"{sha} {name}\n{peeled}" for name, (sha, peeled) in sorted(refs.items()))
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER + lines.encode("utf-8", "surrogateescape"))
            finish_file(file)
        os.replace(draft, repository / PACKED_REFS)
    finally:
        Path(draft).unlink(missing_ok=True)
    fsync_path(repository)


@contextmanager
def _lock_refs(repository: Path, names: Iterable[str]) -> Iterator[None]:
    """Hold git's locks of the refs and of the packed-refs file during the block."""
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    held: list[Path] = []
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER)
        for name in (*names, PACKED_REFS):
            lock = repository / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                # a hard link, so that the lock file never exists without its content
                os.link(draft, lock)
            except FileExistsError:
                raise StoreBusyError(
                    f"{lock} exists: git is running in this repository, or was killed there. If no "
                    "git process is running, remove the file."
                ) from None
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.unlink(missing_ok=True)
        Path(draft).unlink(missing_ok=True)


MAIN_BRANCH = "refs/heads/main"
PUBLISHED_BRANCH = "refs/heads/published"
DRAFT_BRANCH = "refs/heads/draft"
"""A branch at the commit of ``main``, if upstream calls the observed state its draft."""
ANNEX_BRANCH = "refs/heads/git-annex"
CUSTODY_BRANCH = "refs/heads/custody/git-annex"
"""Which vaults have copies. It belongs to the store, not to the dataset's history."""
TAG_PREFIX = "refs/tags/"

_FOLDERS = (
    *("", "info", "objects", "objects/info", "objects/pack"),
    *("refs", "refs/heads", "refs/tags"),
)
HEADS = frozenset(f"ref: {branch}\n" for branch in (MAIN_BRANCH, PUBLISHED_BRANCH))
"""The contents of ``HEAD``: of a dataset without and with published versions."""
RIA_VERSION = "2\n"
_FILES = {"HEAD": f"ref: {MAIN_BRANCH}\n", "config": CONFIG, "ria-layout-version": RIA_VERSION}
"""The files of ``git init --bare`` (gitrepository-layout(5)), and the one that RIA stores need."""
_TEMPORARY_PATTERNS = (
    *(f"{DRAFT_PREFIX}*", ".new-*", "info/.new-*", "info/refs_*"),
    *("objects/info/.new-*", "objects/info/packs_*"),
)
"""Temporary files, ours and git's, that a rename would have replaced."""


class Repository:
    """A bare git repository that any static HTTP server can serve.

    Parameters
    ----------
    path
        The path of the repository; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Return whether the repository exists.

        Returns
        -------
        bool
            Whether the folder is there.
        """
        return (self.path / "HEAD").exists()

    def create(self, settings: str = "") -> None:
        """Create the empty repository in one step, unless it exists.

        Parameters
        ----------
        settings
            Text to append to its configuration.
        """
        if self.exists():
            return
        make_folder(self.path.parent)
        draft = self.path.with_name(f".new-{self.path.name}")
        shutil.rmtree(draft, ignore_errors=True)
        for name in _FOLDERS:
            (draft / name).mkdir()
            (draft / name).chmod(FOLDER_MODE)
        for name, content in _FILES.items():
            (draft / name).write_text(content)
            (draft / name).chmod(FILE_MODE)
        if settings:
            (draft / "config").write_text(CONFIG + settings)
        protect(draft)
        fsync_tree(draft)
        os.rename(draft, self.path)
        fsync_path(self.path.parent)

    def remove_stale_files(self) -> None:
        """Remove temporary files and locks of a killed visit; the caller has the dataset's lock."""
        remove_own_locks(self.path)
        if self.exists():
            protect(self.path)
        for pattern in _TEMPORARY_PATTERNS:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def refs(self) -> dict[str, str]:
        """Return all refs of the repository.

        Returns
        -------
        dict[str, str]
            Full name → object id in hex.
        """
        return read_refs(self.path) if self.exists() else {}

    def ref(self, name: str) -> str | None:
        """Return one ref, without reading the others where it is loose.

        Parameters
        ----------
        name
            The full name.

        Returns
        -------
        str | None
            The object id in hex; None if the repository has no such ref.
        """
        loose_ref = read_loose_ref(self.path, name)
        return loose_ref or read_packed_refs(self.path).get(name, (None, ""))[0]

    def main_tip(self) -> tuple[str, int] | None:
        """Return the newest commit on ``main`` and its date in seconds since the epoch, or None.

        Returns
        -------
        tuple[str, int] | None
            The commit id in hex and the date, or None without a commit.

        Raises
        ------
        StoreDamagedError
            If the commit is missing or cannot be parsed.
        """
        commit = self.ref(MAIN_BRANCH)
        if commit is None:
            return None
        try:
            with ObjectReader(self.path) as reader:
                return commit, parse_commit(reader.read(commit)).committed_at
        except (ObjectMissingError, ValueError) as error:
            raise StoreDamagedError(
                f"{self.path}: {MAIN_BRANCH}: {error}; run 'neuromirror repair'"
            ) from error

    def add_pack(self, pack: Pack) -> None:
        """Rename a finished pack into the repository, and fsync the folder.

        Parameters
        ----------
        pack
            The pack; its temporary files are renamed.
        """
        folder = self.path / "objects" / "pack"
        os.replace(pack.pack, folder / f"{pack.name}.pack")
        os.replace(pack.index, folder / f"{pack.name}.idx")
        fsync_path(folder)

    def publish(self, expected: Mapping[str, str | None], new: Mapping[str, str]) -> None:
        """Move refs in one transaction, then update the files for clients of plain HTTP.

        Parameters
        ----------
        expected
            Where the refs must be now: full name → commit id in hex; None for a ref that must not
            exist.
        new
            Where the refs are moved to: full name → commit id in hex.

        Raises
        ------
        RefsMovedError
            A ref is not where ``expected`` has it.
        """
        update_refs(self.path, expected, new)
        self.update_server_info()

    def refresh(self) -> None:
        """Make refs visible that another machine has moved.

        A client of NFS may remember that a file is missing until the folder changes.
        """
        with tempfile.NamedTemporaryFile(prefix=DRAFT_PREFIX, dir=self.path):
            pass

    def update_server_info(self) -> None:
        """Update HEAD and the files for clients of plain HTTP to match the refs.

        HEAD is the branch of published versions, and ``main`` before the first one, so that a clone
        checks out the latest version, as all commands do.

        ``git update-server-info`` is run only where another program created refs: it would list
        retired packs.
        """
        refs = self.refs()
        expected = self._expected_head(refs)
        if (self.path / "HEAD").read_text() != expected:
            write_atomically(self.path / "HEAD", expected.encode())
        info = self.path / "info" / "refs"
        # packs first: a client that sees the new refs must find their objects
        if not is_pack_list_current(self.path):
            write_pack_list(self.path)
        if self._is_info_current(refs):
            return
        content = info_refs_content(self.path)
        if content is not None:
            write_atomically(info, content)
            return
        run_git(self.path, "update-server-info", "--force")
        fsync_path(info)
        fsync_path(info.parent)
        if not is_pack_list_current(self.path):
            write_pack_list(self.path)

    def is_server_info_current(self) -> bool:
        """Return whether HEAD and the files for clients of plain HTTP match the refs."""
        refs = self.refs()
        head = (self.path / "HEAD").read_text()
        return (
            head == self._expected_head(refs)
            and is_pack_list_current(self.path)
            and self._is_info_current(refs)
        )

    def _expected_head(self, refs: Mapping[str, str]) -> str:
        return f"ref: {PUBLISHED_BRANCH if PUBLISHED_BRANCH in refs else MAIN_BRANCH}\n"

    def _is_info_current(self, refs: Mapping[str, str]) -> bool:
        lines = _read_text(self.path / "info" / "refs").splitlines(True)
        # these lines are the peeled ids of annotated tags, which only other programs create
        return "".join(line for line in lines if not line.endswith("^{}\n")) == "".join(
            f"{sha}\t{name}\n" for name, sha in sorted(refs.items())
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def run_git(repository: Path, *arguments: str, stdin: str = "") -> str:
    """Return the output of a git command on a store's repository.

    Parameters
    ----------
    repository
        The bare repository.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.

    Returns
    -------
    str
        The standard output.

    Raises
    ------
    StoreDamagedError
        The command failed; the message has git's own message.
    """
    try:
        return git.run_git(repository, *arguments, stdin=stdin, umask=UMASK)
    except GitError as error:
        raise StoreDamagedError(str(error)) from error


class StoredDocument(Struct, frozen=True):
    """A document of the archive in git.

    Attributes
    ----------
    path, size
        Its path, and its size in git.
    cleaned
        Whether upstream's document differs; see :data:`~neuromirror.model.CLEANED`.
    """

    path: str
    size: int
    cleaned: bool


@lru_cache(500)
def _read_documents(repository: Path, commit: str) -> tuple[StoredDocument, ...]:
    with ObjectReader(repository) as reader:
        content = reader.read(f"{commit}:{DESCRIPTION_PATH}")
    described = parse_description(content, DESCRIPTION_PATH)
    names, cleaned = described["documents"], described.get("attributes", {}).get(CLEANED, ())
    listing = ("ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", *names)
    listed = git.run_git(repository, "--literal-pathspecs", *listing) if names else ""
    entries = (line.partition("\t") for line in listed.split("\0")[:-1])
    return tuple(
        StoredDocument(path, int(about.split()[3]), path in cleaned) for about, _, path in entries
    )


class Repositories:
    """The repositories of a store's datasets, and the links to them by alias."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, dataset: DatasetRef) -> Repository:
        """Return the dataset's repository, which may not exist yet.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        Repository
            The repository.
        """
        return Repository(self.path(dataset.dataset_id))

    def path(self, dataset_id: str) -> Path:
        """Return the path of the repository of a dataset."""
        return self._root / dataset_id[:3] / dataset_id[3:]

    def alias(self, dataset: DatasetRef, name: str | None = None) -> None:
        """Create or update the alias of a dataset that has refs.

        Parameters
        ----------
        dataset
            The dataset.
        name
            Another alias than the dataset's own.
        """
        self.link_alias(name or dataset.alias, dataset.dataset_id)

    def link_alias(self, alias: str, dataset_id: str) -> None:
        """Let an alias point to the repository of a dataset."""
        link = self._root / "alias" / alias
        target = f"../{dataset_id[:3]}/{dataset_id[3:]}"
        draft = link.with_name(f".{link.name}.new")
        make_folder(link.parent)
        draft.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            if os.readlink(link) == target:
                return
        draft.symlink_to(target)
        os.replace(draft, link)
        fsync_path(link.parent)

    def aliases(self) -> Iterator[tuple[str, Repository]]:
        """Yield all aliases, sorted, with their repositories.

        Yields
        ------
        tuple[str, Repository]
            The alias and its repository.
        """
        for link in sorted((self._root / "alias").glob("[!.]*")):
            yield link.name, Repository(link.resolve())

    def protect(self) -> int:
        """Protect all repositories against other writers; return how many had to be changed.

        A repository is checked once per version of the protection; see
        :mod:`neuromirror.store.durable_files`.

        Returns
        -------
        int
            The number of changed repositories.
        """
        marker, form = self._root / "neuromirror" / "protected", f"{protection_digest()}\n"
        with suppress(FileNotFoundError):
            if marker.read_text() == form:
                return 0
        count = sum(protect(one.path) for _, one in self.aliases() if one.exists())
        write_atomically(marker, form.encode())
        return count

    def documents(self, dataset: DatasetRef, commit: str) -> tuple[StoredDocument, ...]:
        """Return the archive's documents in a commit; none if the store does not have the commit.

        Parameters
        ----------
        dataset
            The dataset.
        commit
            The commit id in hex.

        Returns
        -------
        tuple of StoredDocument
            In git's order.
        """
        repository = self.of(dataset)
        try:
            return _read_documents(repository.path, commit) if repository.exists() else ()
        except (ObjectMissingError, InvalidDocumentError, GitError):
            return ()

    def describing_documents(self, dataset_id: str, commit: str) -> dict[str, bytes]:
        """Return the archive's documents about a version from its commit.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        dict[str, bytes]
            Contents by path; empty if the store does not have the commit.
        """
        repository = self.path(dataset_id)
        if not Repository(repository).exists():
            return {}
        found: dict[str, bytes] = {}
        with ObjectReader(repository) as reader:
            try:
                content = reader.read(f"{commit}:{DESCRIPTION_PATH}")
                listed = parse_description(content, DESCRIPTION_PATH)["documents"]
            except (ObjectMissingError, InvalidDocumentError, GitError):
                return {}
            for path in describing_documents(listed):
                with suppress(ObjectMissingError):
                    found[path] = reader.read(f"{commit}:{path}")
        return found
