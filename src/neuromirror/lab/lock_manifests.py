"""What lies beside a lock file: manifests, bundles and block digests of pinned versions.

Validate the lines of files in a manifest, many at a time.

A manifest may have millions of lines. One regular expression accepts the lines of files as they are
usually written; all other lines are parsed one by one.

Git bundles of pinned versions: a dataset in one file, from which git can clone.

A bundle has the pinned commit with its history (``HEAD``, ``main`` and the tag of the version) and
the git-annex branch of that version. Its bytes depend on the release of git; its objects do not.

The block digests beside a lock file: one file per pin, named by its sha256.

The file is a sequence of encoded block digests (docs/reference/block-digests.md), sorted by key.
The lock file has its path, and thereby its sha256, so the digests are as trustworthy as the lock
file. The file itself is untrusted input.

The manifest beside a lock file: one version without its history and the content of its files.

A zstd frame of JSON lines (docs/reference/lock.md): a head, the plain files in git, then files and
subdatasets sorted by path, each with its line of the canonical manifest, its key and its URLs. The
canonical manifest, the state digest and the git tree can be computed from it. URLs are hints: the
content that they serve is checked against the digest.

Manifests are untrusted input. Each line is validated before use, and no more is unpacked than the
lock file announces.
"""

from __future__ import annotations

import base64
import hashlib
import operator
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, NamedTuple, Self

import msgspec
import zstandard

from neuromirror import model
from neuromirror.annex import CLAIM_PREFIX, CLAIMED_LOCATION_KINDS, link_target
from neuromirror.git import (
    BLOB,
    COMMIT,
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    Commit,
    GitError,
    ObjectIds,
    ObjectReader,
    TreeBuilder,
    create_bundle_of_commits,
    is_ref_name,
    object_id,
    parse_commit,
    read_refs,
)
from neuromirror.index import VersionRow
from neuromirror.mint import LONGEST_LINE, FrameLimits, ZstdFrameError, decompress_frame, join_lines
from neuromirror.model.block_digests import MAX_HEAD_BYTES, decode_head
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    TAG_PREFIX,
    SafeFolder,
    Store,
    read_records_from_git,
)
from neuromirror.store.block_digests import OwnBlockDigests, block_digests_name, check_encoded
from neuromirror.store.durable_files import NotARegularFileError, open_regular

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock, Pin

_FILE_LINE: Final = re.compile(
    rb'^\{"path":"([^"]++)",'
    rb'"key":"([A-Z0-9_]++(?:-[smSC][0-9]{1,18})*+--[^"\x00-\x20\x7f]++)?+",'
    rb'"digest":"(none|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|etag:[0-9a-f]{32}(?:-[0-9]{1,18}){2})"'
    rb'(?:,"size":(0|[1-9][0-9]{0,17}))?+(?:,"urls":\["[^"]*+"(?:,"[^"]*+")*+\])?+'
    rb'(?:,"checked":true)?+(?(2)(,"git":false)?+|,"git":false)\}\n',
    re.MULTILINE,
)
"""The line of a file as it is written, if no text has an escape."""
_NOT_IN_TEXT: Final = bytes(one for one in range(32) if one != ord("\n")) + b"\\"
_ODD_IN_PATHS: Final = (b"/.", b"//", b"\n.", b"\n/", b"/\n")


class FileLines(NamedTuple):
    """Valid lines of files.

    Attributes
    ----------
    canonical
        Their lines in the canonical manifest.
    last
        The path of the last one.
    fields
        Path, key, digest, size, and whether it is not in git, of each.
    """

    canonical: bytes
    last: bytes
    fields: list[tuple[bytes, bytes, bytes, bytes, bytes]]


def file_lines(block: bytes, last: bytes) -> FileLines | None:
    """Validate lines of a manifest without parsing their JSON.

    Parameters
    ----------
    block
        The lines, each with its newline.
    last
        The path before them; empty for none.

    Returns
    -------
    FileLines or None
        None if a line is invalid, unusual, or not that of a file: then each has to be parsed.
    """
    if not _FILE_LINE.match(block) or not _is_plain_text(block):
        return None
    found = _FILE_LINE.findall(block)
    paths = [one[0] for one in found]
    if len(paths) != block.count(b"\n") or not all(map(operator.lt, (last, *paths), paths)):
        return None
    joined = b"\n%b\n" % b"\n".join(paths)
    is_odd = any(odd in joined for odd in _ODD_IN_PATHS)
    if is_odd and not all(model.is_git_path(path.decode()) for path in paths):
        return None
    lines = [
        b'{"digest":"%b","path":"%b","size":%b}\n' % (digest, path, size or b"null")
        for path, _, digest, size, _ in found
    ]
    return FileLines(b"".join(lines), paths[-1], found)


def _is_plain_text(block: bytes) -> bool:
    """Return whether lines are UTF-8 without backslashes and control characters."""
    if len(block.translate(None, _NOT_IN_TEXT)) != len(block):
        return False
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


_MODE = 0o644


def write_bundle(
    store: Store, row: VersionRow, into: SafeFolder, name: str, known: str | None
) -> str:
    """Write the bundle of a version; return its sha256.

    The repository in the store is only read.

    Parameters
    ----------
    store, row
        The store and the version.
    into
        The folder of the bundle.
    name
        The file name of the bundle.
    known
        The sha256 that a lock file states; an existing bundle that has it is kept.

    Raises
    ------
    NeuromirrorError
        git cannot write the bundle.
    UnsafePathError
        The path of the bundle is a symlink.
    """
    into.refuse_symlink(name)
    if known is not None:
        with suppress(LockManifestDamagedError, LockManifestMissingError):
            open_beside(into.path / name, known).close()
            return known
    refs = {
        MAIN_BRANCH: row.commit,
        f"{TAG_PREFIX}{row.label}": row.commit,
        ANNEX_BRANCH: row.annex_commit,
    }
    repository = store.repositories.of(row.dataset_ref).path
    with into.scratch() as folder:
        scratch = folder.path.absolute()
        draft = scratch / name
        try:
            create_bundle_of_commits(repository, scratch / "git", draft, refs, MAIN_BRANCH)
        except GitError as error:
            raise model.NeuromirrorError(
                f"{row.name}: the bundle {into.path / name} cannot be written: {error}"
            ) from error
        draft.chmod(_MODE)
        with draft.open("rb") as file:
            written = hashlib.file_digest(file, "sha256").hexdigest()
        folder.replace(name, into, name)
    return written


def store_contradiction(store: Store | None, pin: Pin) -> str:
    """Return how a store contradicts the pin of a published version; empty if it does not."""
    repository = None if store is None else store.repositories.of(pin.dataset)
    if repository is None or not repository.exists():
        return ""
    commit = read_refs(repository.path).get(f"{TAG_PREFIX}{pin.resolved.version}")
    if commit in (None, pin.commit):
        return ""
    with ObjectReader(repository.path) as reader:
        content = reader.read(f"{commit}:{model.DESCRIPTION_PATH}")
    if model.parse_description(content, model.DESCRIPTION_PATH).get("kind") != "published":
        return ""
    return (
        f"the lock file pins commit {pin.commit} for the published version {pin.version}, but it "
        f"has commit {commit} in the store {repository.path}; ask the sender of the lock file, or "
        "pin the version from the store"
    )


def stored_record_lines(store: Store, row: VersionRow) -> Iterator[bytes]:
    """Return the record lines of a version, from the store or, if they are missing, from git.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        The store or the repository cannot be read.
    """
    dataset = row.dataset_ref
    if store.records.has(dataset.dataset_id, row.records):
        return store.records.lines(dataset.dataset_id, row.records)
    return read_records_from_git(
        store.repositories.of(dataset), row.commit, row.annex_commit, row.kind
    )


MANIFEST_ENDING: Final = ".jsonl.zst"
BUNDLE_ENDING: Final = ".bundle"
BLOCK_DIGESTS_ENDING: Final = ".block-digests"
BLOCK_DIGESTS_NAME: Final = re.compile(rf"([0-9a-f]{{64}}){re.escape(BLOCK_DIGESTS_ENDING)}")
_BLOCK: Final = 1 << 20


class LockManifestMissingError(model.NeuromirrorError):
    """The manifest of a pin, or another file beside the lock file, is missing."""


class LockManifestDamagedError(model.NeuromirrorError):
    """A file beside a lock file is invalid, or not the one that the lock file states."""


_SOURCE: Final = "copy it again from the source of the lock file, or pin the dataset again"


def open_beside(path: Path, sha256: str | None) -> BinaryIO:
    """Open a file beside a lock file after its whole content was compared with the lock file.

    Parameters
    ----------
    path
        The path of the file.
    sha256
        The sha256 that the lock file states; None if it states none.

    Raises
    ------
    LockManifestMissingError
        The file does not exist.
    LockManifestDamagedError
        It has another sha256, or cannot be read.
    """
    try:
        file = open_regular(path)
    except NotARegularFileError as error:
        raise LockManifestDamagedError(f"{error}; {_SOURCE}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LockManifestMissingError(f"{path} is missing; {_SOURCE}") from error
    except OSError as error:
        raise LockManifestDamagedError(f"{path} cannot be read: {error.strerror}") from error
    hashed = _HashedFile(file)
    try:
        while hashed.read(_BLOCK):
            pass
        _check_sha256(path, hashed, sha256)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def copy_beside(path: Path, sha256: str | None, target: BinaryIO) -> None:
    """Copy a file beside a lock file; raise as :func:`open_beside` if the copy is another file."""
    with open_beside(path, sha256) as file:
        hashed = _HashedFile(file)
        while block := hashed.read(_BLOCK):
            target.write(block)
    _check_sha256(path, hashed, sha256)


def _check_sha256(path: Path, hashed: _HashedFile, stated: str | None) -> None:
    if stated is None:
        raise LockManifestDamagedError(f"the lock file states no sha256 of {path}; {_SOURCE}")
    if (found := hashed.digest.hexdigest()) != stated:
        raise LockManifestDamagedError(
            f"{path} is not the file that the lock file states: its sha256 is {found}, expected "
            f"{stated}; {_SOURCE}"
        )


class PinnedState(msgspec.Struct, frozen=True):
    """The pinned state of a dataset or subdataset, and its files beside the lock file.

    Attributes
    ----------
    commit, tree, state
        Commit, tree and state digest; empty ones are unknown, and are not compared.
    folder
        The folder of manifest and bundle; None without a lock file.
    sha256
        The sha256 that the lock file states for each file there, by name.
    files
        Maximum number of files; None if unknown.
    version
        The name and the label of the version; empty if they are unknown, and are not compared.
    """

    commit: str
    tree: str = ""
    state: str = ""
    folder: Path | None = None
    sha256: Mapping[str, str] = {}
    files: int | None = None
    version: str = ""

    @classmethod
    def of_pin(cls, lock: Lock, pin: Pin) -> PinnedState:
        """Return the state of a pin."""
        folder = lock.manifest_path(pin).parent
        files = None if pin.paths else pin.files
        return cls(pin.commit, pin.tree, pin.state, folder, pin.sha256_by_name, files, pin.version)

    def of_subdataset(self, commit: str, state: str, files: int) -> PinnedState:
        """Return the state of a subdataset, whose files are beside those of its dataset."""
        return msgspec.structs.replace(
            self, commit=commit, tree="", state=state, files=files, version=""
        )

    @property
    def manifest(self) -> Path:
        """The path of the manifest; the file may be missing."""
        assert self.folder is not None
        return self.folder / f"{self.commit}{MANIFEST_ENDING}"

    @property
    def has_manifest(self) -> bool:
        """Whether there is a lock file with a manifest beside it."""
        return self.folder is not None and self.manifest.exists()

    @property
    def bundle(self) -> Path | None:
        """The path of the bundle, which may be missing; None if the lock file states none."""
        name = f"{self.commit}{BUNDLE_ENDING}"
        return None if self.folder is None or name not in self.sha256 else self.folder / name

    def open_manifest(self) -> LockManifestReader:
        """Open the manifest; it is an error unless it is that of this state."""
        stated = self.sha256.get(self.manifest.name)
        return LockManifestReader(self.manifest, self.files, stated, self)


class _Position(NamedTuple):
    """The position of a content's digests in the file, and their sha256."""

    start: int
    length: int
    sha256: bytes


class LockBlockDigests:
    """The block digests of a pin, which are claims of its sender. Thread-safe.

    Parameters
    ----------
    path
        The path of the file, whose name contains its sha256.

    Raises
    ------
    LockManifestMissingError, LockManifestDamagedError
        The file is missing or damaged, or has another sha256.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        name = BLOCK_DIGESTS_NAME.fullmatch(path.name)
        self._file = open_beside(path, name and name[1])
        try:
            self._positions = dict(self._read_positions())
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        """Yield the annex keys, in the order of the file."""
        return iter(self._positions)

    def read(self, key: str) -> model.BlockDigests | None:
        """Return the block digests of a key's content; None if there are none.

        Raises
        ------
        LockManifestDamagedError
            The file changed, or the digests contradict the key.
        """
        position = self._positions.get(key)
        if position is None:
            return None
        content = os.pread(self._file.fileno(), position.length, position.start)
        if hashlib.sha256(content).digest() != position.sha256:
            raise self._damaged("was changed while it was in use")
        try:
            found = check_encoded(content, str(self._path), key)[1]
        except model.InvalidDocumentError as error:
            raise self._damaged(f"is damaged ({error})") from error
        return msgspec.structs.replace(found, sender=str(self._path))

    def _read_positions(self) -> Iterator[tuple[str, _Position]]:
        left = os.fstat(self._file.fileno()).st_size
        start, before = 0, ""
        while line := self._file.readline(MAX_HEAD_BYTES + 1):
            try:
                head = decode_head(line.removesuffix(b"\n"), str(self._path))
            except model.InvalidDocumentError as error:
                raise self._damaged(f"is damaged ({error})") from error
            length = len(line) + head.body_length
            if not line.endswith(b"\n") or length > left or head.key <= before:
                raise self._damaged(f"is damaged at byte {start}: it is cut off or not sorted")
            content = line + self._file.read(head.body_length)
            yield head.key, _Position(start, length, hashlib.sha256(content).digest())
            start, before, left = start + length, head.key, left - length

    def _damaged(self, problem: str) -> LockManifestDamagedError:
        return LockManifestDamagedError(f"{self._path} {problem}; {_SOURCE}")


class PinnedDigests:
    """Collects the block digests of a pin's files, and writes them beside the lock file.

    Parameters
    ----------
    store
        The store. Digests that it lacks are read from the folder of the user.
    """

    def __init__(self, store: Store) -> None:
        self._own = OwnBlockDigests(store)
        self._names = {
            path.parent.name + path.name for folder in self._own.folders for path in folder.paths()
        }
        self._keys: set[str] = set()
        self._missing: set[str] = set()

    def add(self, key: str, size: int | None) -> None:
        """Add the key of a file of some size, which may have no block digests."""
        if self._names and block_digests_name(key) in self._names:
            self._keys.add(key)
        elif size is not None and size > model.default_piece_size(size):
            self._missing.add(key)

    def summary(self) -> str:
        """Return how many contents have block digests, for a message."""
        found = f"block digests of {model.count_of(len(self._keys), 'file')}"
        if not self._missing:
            return found
        return (
            f"{found}, none of {len(self._missing)} larger than a piece: run 'neuromirror digest' "
            "for the version, and pin it again"
        )

    def write(self, folder: SafeFolder) -> tuple[str, bool]:
        """Write the file; return its name, and whether it is new.

        Parameters
        ----------
        folder
            The folder of the dataset beside the lock file.

        Raises
        ------
        BlockDigestsDamagedError
            Block digests in the store are damaged.
        """
        draft, handle = folder.new_file()
        try:
            whole = hashlib.sha256()
            with os.fdopen(handle, "wb") as file:
                for key in sorted(self._keys):
                    if (known := self._own.find(key)) is not None:
                        encoded = model.encode_block_digests(key, known)
                        whole.update(encoded)
                        file.write(encoded)
                file.flush()
                os.fchmod(file.fileno(), _MODE)
                os.fsync(file.fileno())
            name = f"{whole.hexdigest()}{BLOCK_DIGESTS_ENDING}"
            is_new = folder.status(name) is None
            folder.replace(draft, folder, name)
        finally:
            folder.unlink(draft)
        return name, is_new


MANIFEST_VERSION = 1
_CHANGED: Final = "it was changed while it was read"
_LINES_BLOCK = 1 << 18
_FREE_BYTES = 1 << 26
_MAX_FILE_LINE = 1 << 16
"""Maximum length of the line of a file in bytes; typical lines have 300."""
_DIGEST = re.compile(
    r"none|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|etag:[0-9a-f]{32}(-[0-9]{1,18}){2}"
)
_KEY = re.compile(r"[A-Z0-9_]+(?:-[smSC][0-9]{1,18})*--[^\x00-\x20\x7f]+")
_LINE_BREAK = re.compile(r"[\x00\r\n]")
_EVIDENCE = {
    kind.value: kind for kind in (model.Evidence.SHA256, model.Evidence.MD5, model.Evidence.ETAG)
}


class LockManifestHead(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The first line of a manifest: the version that it describes.

    ``commit_object`` is the commit object of git, as text; ``remotes``, ``names`` and ``trust`` are
    ``remote.log``, ``uuid.log`` and ``trust.log`` of the git-annex branch; ``form`` is ``files``,
    or ``manifest`` for a dataset of which most files are not in git.
    """

    manifest: Annotated[int, msgspec.Meta(ge=1)]
    dataset: model.DatasetName
    dataset_id: model.DatasetId
    source: model.SingleLine
    version: model.SingleLine
    commit: model.CommitId
    tree: model.CommitId
    state: model.StateDigestText
    form: Annotated[str, msgspec.Meta(pattern=r"^(?:files|manifest)\Z")]
    commit_object: str
    remotes: str = ""
    names: str = ""
    trust: str = ""

    def parse_commit(self) -> Commit:
        """Return the headers and the message of the commit; raises LockManifestDamagedError."""
        try:
            return parse_commit(self.commit_object.encode())
        except ValueError as error:
            raise LockManifestDamagedError(
                f"the manifest of {self.dataset}@{self.version}: {error}"
            ) from error


class PlainFile(msgspec.Struct, frozen=True, gc=False):
    """A plain file in git: a document of upstream, or of the dataset itself."""

    path: str
    content: bytes


class ListedFile(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"in_git": "git"}
):
    """A file of a version.

    Attributes
    ----------
    path
        The path in git.
    key
        The annex key.
    digest
        The digest as in the canonical manifest: ``sha256:<hex>``, …, or ``none``.
    size
        Size in bytes; None if unknown.
    urls
        URLs, best first; one that starts with a colon is for the special remote that claims it.
    checked
        The mirror has hashed the content.
    in_git
        False for a chunk of a huge Zarr, which is not in the git tree.
    """

    path: str
    key: str
    digest: str
    size: int | None = None
    urls: tuple[str, ...] = ()
    checked: bool = False
    in_git: bool = True

    @property
    def evidence(self) -> model.Evidence:
        """Return the evidence for the content."""
        algorithm = self.digest.partition(":")[0]
        if algorithm != "none":
            return _EVIDENCE[algorithm]
        return model.Evidence.NONE if self.size is None else model.Evidence.SIZE


class ListedSubdataset(msgspec.Struct, frozen=True, gc=False, rename={"dataset_id": "dataset"}):
    """A subdataset of a version, with its commit and state.

    Attributes
    ----------
    path
        The path in git.
    dataset_id
        The UUID of the dataset.
    name
        The name of the dataset, ``<mirror>:<local id>``.
    commit
        The commit id in hex.
    state
        The state digest.
    files, bytes
        Number and size of its files.
    """

    path: str
    dataset_id: model.DatasetId
    name: model.DatasetName
    commit: model.CommitId
    state: model.StateDigestText
    files: model.Count
    bytes: model.Count


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """Any line but the head: a file has a ``digest``, a subdataset a ``dataset``.

    ``base64`` replaces ``content`` that is not UTF-8.
    """

    path: str
    digest: str | None = None
    key: str = ""
    size: model.Count | None = None
    urls: tuple[str, ...] = ()
    checked: bool = False
    git: bool = True
    dataset: str | None = None
    content: str | None = None
    base64: str | None = None


ManifestEntry = PlainFile | ListedFile | ListedSubdataset

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode
_decode_files = msgspec.json.Decoder(ListedFile).decode_lines
_decode_subdataset = msgspec.json.Decoder(ListedSubdataset).decode
_decode_head = msgspec.json.Decoder(LockManifestHead).decode


def manifest_entry(
    placed: model.SnapshotEntry, mirror: str, form: str
) -> ListedFile | ListedSubdataset:
    """Convert an entry of a snapshot to an entry of the manifest beside a lock file.

    ``mirror`` is the name of the mirror; ``form`` the form of the dataset, ``files`` or
    ``manifest``.
    """
    subdataset, record = placed.subdataset, placed.record
    path = placed.git_path.decode()
    if subdataset is not None:
        return ListedSubdataset(
            path,
            subdataset.dataset_id,
            f"{mirror}:{subdataset.local_id}",
            subdataset.commit,
            subdataset.state,
            subdataset.files,
            subdataset.bytes,
        )
    urls = [
        location.url if location.kind not in CLAIMED_LOCATION_KINDS else CLAIM_PREFIX + location.url
        for location in record.locations
    ]
    digest = model.manifest_digest(record)
    algorithm = digest.partition(":")[0]
    checked = [one.checked for one in record.digests if one.algorithm == algorithm][:1] == [True]
    return ListedFile(
        path, placed.key, digest, record.size, tuple(urls), checked, model.is_in_git(placed, form)
    )


def canonical_line(one: ListedFile | ListedSubdataset) -> bytes:
    """Return the line of an entry in the canonical manifest, with its newline."""
    if isinstance(one, ListedSubdataset):
        return model.subdataset_line(one.path.encode(), one.dataset_id, one.state)
    return model.manifest_line(one.path.encode(), one.digest, one.size)


def plain_names(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the plain files in git of a dataset, sorted by their bytes.

    ``description`` is its ``.neuromirror/dataset.json``.
    """
    own = [".datalad/config", ".gitattributes", ".neuromirror/dataset.json"]
    modules = [".gitmodules"] * bool(description.get("parts"))
    return sorted([*own, *modules, *description["documents"]], key=str.encode)


class LockManifestWriter:
    """Writes the manifest of a pinned version beside a lock file; a context manager.

    Without :meth:`finish`, nothing is left behind. An existing manifest with equal content is kept
    byte for byte, because releases of the compressor differ.

    Parameters
    ----------
    folder
        The folder of the manifest.
    name
        Its file name.
    head
        The version that it describes.
    """

    def __init__(self, folder: SafeFolder, name: str, head: LockManifestHead) -> None:
        self._folder = folder
        self._name = name
        self._head = head
        self._draft, handle = folder.new_file()
        self._file = os.fdopen(handle, "w+b")
        # one thread and no content size: equal lines give equal bytes on every machine
        self._zstd = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            self._file, closefd=False
        )
        self._content = hashlib.sha256()
        self._state = model.StateDigest()
        self._block = bytearray(_encode(head) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._folder.unlink(self._draft)

    def add_plain(self, path: str, content: bytes) -> None:
        """Add the next plain file in git."""
        try:
            self._add(_Line(path, content=content.decode("utf-8")))
        except UnicodeDecodeError:
            self._add(_Line(path, base64=base64.b64encode(content).decode("ascii")))

    def add(self, one: ListedFile | ListedSubdataset) -> None:
        """Add the next file or subdataset, in the order of paths."""
        self._state.add(canonical_line(one))
        self._add(one)

    def _add(self, line: _Line | ListedFile | ListedSubdataset) -> None:
        written = _encode(line)
        if len(written) > LONGEST_LINE:
            raise LockManifestDamagedError(
                f"{self._head.dataset}@{self._head.version}: {line.path!r} has a manifest line of "
                f"more than {LONGEST_LINE} bytes, so that the version cannot be pinned"
            )
        self._block += written
        self._block += b"\n"
        if len(self._block) > _LINES_BLOCK:
            self._flush()

    def _flush(self) -> None:
        self._content.update(self._block)
        self._zstd.write(bytes(self._block))
        self._block.clear()

    def finish(self) -> str:
        """Move the manifest to its path; return the sha256 of the file.

        Raises
        ------
        LockManifestDamagedError
            The files have another state than the head.
        """
        if self._state.value() != self._head.state:
            raise LockManifestDamagedError(
                f"{self._head.dataset}@{self._head.version}: its records in the store have the "
                f"state {self._state.value()}, not {self._head.state}; restore the store from a "
                "backup, or run 'neuromirror sync --deep' for the dataset"
            )
        self._flush()
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        self._folder.refuse_symlink(self._name)
        content, kept = _digests_of(self._folder.path / self._name)
        if content == self._content.digest():
            return kept
        os.fchmod(self._file.fileno(), _MODE)
        os.fsync(self._file.fileno())
        self._file.seek(0)
        written = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._folder.replace(self._draft, self._folder, self._name)
        return written


class _TreeId:
    """Computes the id of the git tree of a manifest, whose plain files come first."""

    def __init__(self) -> None:
        self._trees = TreeBuilder(ObjectIds())
        self._plain: list[tuple[bytes, bytes]] = []

    def add(self, found: ManifestEntry) -> None:
        path = found.path.encode()
        if isinstance(found, PlainFile):
            heappush(self._plain, (path, object_id(BLOB, found.content)))
        elif isinstance(found, ListedSubdataset):
            self._add(path, GITLINK_MODE, bytes.fromhex(found.commit))
        elif found.in_git:
            self._add_link(path, found.key)

    def add_files(self, lines: FileLines) -> None:
        for path, key, _, _, not_in_git in lines.fields:
            if key and not not_in_git:
                self._add_link(path, key.decode())

    def value(self) -> str:
        while self._plain:
            path, sha = heappop(self._plain)
            self._trees.add(path, REGULAR_FILE_MODE, sha)
        return self._trees.finish({}).hex()

    def _add_link(self, path: bytes, key: str) -> None:
        self._add(path, SYMLINK_MODE, object_id(BLOB, link_target(key, path)))

    def _add(self, path: bytes, mode: bytes, sha: bytes) -> None:
        while self._plain and self._plain[0][0] < path:
            plain, blob = heappop(self._plain)
            self._trees.add(plain, REGULAR_FILE_MODE, blob)
        self._trees.add(path, mode, sha)


class LockManifestReader:
    """Reads a manifest line by line, each time it is iterated; ``head`` is read at once.

    Parameters
    ----------
    path
        The path of the manifest.
    files
        Maximum number of files, as in the lock file; None if unknown.
    sha256
        The sha256 of the file, as in the lock file; required with ``pinned``.
    pinned
        The state that the manifest must have, including its git tree; None to parse a manifest
        that no lock file states.

    Attributes
    ----------
    path, max_files, sha256
        The parameters.

    Raises
    ------
    LockManifestMissingError
        The file does not exist.
    LockManifestDamagedError
        The manifest is invalid, or another than the lock file states; also raised during
        iteration, at its end if the files do not have the state and the tree of the head.
    """

    def __init__(
        self,
        path: Path,
        files: int | None = None,
        sha256: str | None = None,
        pinned: PinnedState | None = None,
    ) -> None:
        self.path = path
        self.max_files = files
        self.sha256 = sha256
        self._pinned = pinned
        self._limits = FrameLimits(
            ratio_free_bytes=_FREE_BYTES,
            max_bytes=1 << 62 if files is None else 4 * _FREE_BYTES + files * _MAX_FILE_LINE,
        )
        if pinned is not None or sha256 is not None:
            open_beside(path, sha256).close()
        self._first = next(self._blocks(), b"")
        if not self._first:
            raise self._damaged("it is empty or truncated")
        try:
            self.head = _head(self._first[:-1])
        except model.InvalidDocumentError as error:
            raise self._damaged(f"its head is invalid: {error}") from None
        if pinned is not None:
            self._check_head(pinned)

    @classmethod
    def of_pin(cls, lock: Lock, pin: Pin) -> LockManifestReader:
        """Open the manifest of a pin; raise an error unless it is the one of the lock file."""
        return PinnedState.of_pin(lock, pin).open_manifest()

    def _check_head(self, pinned: PinnedState) -> None:
        """Compare the head, and the commit object in it, with the pinned state."""
        head, described = self.head, self.head.parse_commit()
        commit = object_id(COMMIT, head.commit_object.encode()).hex()
        version = "@".join(described.subject.rsplit(" ", 1))  # a name may contain spaces
        for name, found, expected in (
            ("version", version, pinned.version or version),
            ("commit", commit, pinned.commit),
            ("commit", head.commit, pinned.commit),
            ("tree", head.tree, described.tree),
            ("tree", head.tree, pinned.tree or head.tree),
            ("state", head.state, pinned.state or head.state),
        ):
            if found != expected:
                raise self._damaged(f"it has the {name} {found}, expected {expected}")
        if f"\nState: {head.state}\n" not in described.message:
            raise self._damaged(f"its commit does not have the state {head.state}")

    def __iter__(self) -> Generator[ManifestEntry, None, None]:
        return self.lines()

    def lines(self, *, check_tree: bool = True) -> Generator[ManifestEntry, None, None]:
        """Yield the entries; parameters as of :meth:`blocks`.

        Yields
        ------
        ManifestEntry
            An entry.
        """
        for found in self.blocks(check_tree=check_tree):
            if isinstance(found, bytes):
                yield from _decode_files(found)
            else:
                yield found

    def blocks(self, *, check_tree: bool = True) -> Generator[ManifestEntry | bytes, None, None]:
        """Yield the entries, of which consecutive files may be a block of unparsed lines.

        Parameters
        ----------
        check_tree
            False if the caller itself computes the git tree of a pinned state.

        Yields
        ------
        ManifestEntry or bytes
            An entry, or the validated lines of files, each with its newline and in the form of
            :class:`ListedFile`.
        """
        state, last, files, number = model.StateDigest(), b"", 0, 1
        tree = _TreeId() if check_tree and self._pinned is not None else None
        blocks = self._blocks()
        if next(blocks) != self._first:
            raise self._damaged(_CHANGED)
        for block in blocks:
            lines = file_lines(block, last)
            if lines and not self._is_exceeded(files + len(lines.fields)):
                last, files = lines.last, files + len(lines.fields)
                number += len(lines.fields)
                state.add(lines.canonical)
                if tree is not None:
                    tree.add_files(lines)
                yield block
                continue
            for line in block.split(b"\n")[:-1]:
                number += 1
                found = self._entry(line, number)
                if not isinstance(found, PlainFile):
                    path = found.path.encode()
                    if path <= last:
                        raise self._damaged(f"{found.path!r} is not in the order of paths")
                    last = path
                    state.add(canonical_line(found))
                    files += isinstance(found, ListedFile)
                    if self._is_exceeded(files):
                        raise self._damaged(
                            f"it lists more files than the {self.max_files} of the lock file"
                        )
                elif files or last:
                    raise self._damaged(f"{found.path!r} is not in the order of paths")
                if tree is not None:
                    tree.add(found)
                yield found
        if state.value() != self.head.state:
            raise self._damaged(f"its files have the state {state.value()}, not {self.head.state}")
        if tree is not None and tree.value() != self.head.tree:
            raise self._damaged(
                f"its files and documents do not have the git tree {self.head.tree} of the commit"
            )

    def entries(self) -> Iterator[ListedFile | ListedSubdataset]:
        """Return the entries without the plain files.

        Returns
        -------
        Iterator[ListedFile | ListedSubdataset]
            Files and subdatasets, in path order.
        """
        return (line for line in self if not isinstance(line, PlainFile))

    def _is_exceeded(self, files: int) -> bool:
        return self.max_files is not None and files > self.max_files

    def _entry(self, line: bytes, number: int) -> ManifestEntry:
        try:
            return _line(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._damaged(
                str(model.invalid_document_error(error, f"line {number}"))
            ) from None
        except ValueError as error:
            raise self._damaged(f"line {number} is invalid: {error}") from error

    def _blocks(self) -> Iterator[bytes]:
        """Yield the lines with their newlines, in blocks; the first one is the first line."""
        try:
            with open_regular(self.path) as opened:
                file = _HashedFile(opened)
                yield from join_lines(decompress_frame(file, self._limits))
        except NotARegularFileError as error:
            raise self._damaged("it is not a regular file") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LockManifestMissingError(
                f"the manifest {self.path} is missing; {_SOURCE}"
            ) from error
        except ZstdFrameError as error:
            raise self._damaged(str(error)) from error
        if self.sha256 is not None and file.digest.hexdigest() != self.sha256:
            raise self._damaged(_CHANGED)

    def _damaged(self, why: str) -> LockManifestDamagedError:
        return LockManifestDamagedError(f"the manifest {self.path} is invalid: {why}; {_SOURCE}")


class _HashedFile:
    """Hashes what is read from a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        return content


def _head(line: bytes) -> LockManifestHead:
    """Parse the head, the first line.

    Raises
    ------
    InvalidDocumentError
        The head is invalid, or of a later version of the format.
    """
    table = model.parse_json(line, "the head")
    version = table.get("manifest") if isinstance(table, dict) else None
    if isinstance(version, int) and version > MANIFEST_VERSION:
        supported = f"version {MANIFEST_VERSION} at most (install a newer neuromirror)"
        raise model.InvalidDocumentError("the head", "manifest", supported, str(version))
    try:
        head = _decode_head(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise model.invalid_document_error(error, "the head") from None
    if not is_ref_name(f"{TAG_PREFIX}{head.version}"):
        raise model.InvalidDocumentError(
            "the head", "version", "a valid name of a git tag", repr(head.version)
        )
    return head


def _line(content: bytes) -> ManifestEntry:
    """Parse a line.

    Raises
    ------
    ValueError, msgspec.DecodeError, RecursionError
        The line is invalid.
    """
    line = _decode(content)
    if not model.is_git_path(line.path):
        raise ValueError(f"{line.path!r} is not a path that git checks out")
    if len(_encode(line)) != len(content):
        model.parse_json(content, "it")  # reject duplicate members, which change the length
    if line.digest is not None:
        _check_file(line)
        return ListedFile(
            line.path, line.key, line.digest, line.size, line.urls, line.checked, line.git
        )
    if line.dataset is not None:
        return _decode_subdataset(content)
    if line.base64 is not None:
        return PlainFile(line.path, base64.b64decode(line.base64, validate=True))
    if line.content is None:
        raise ValueError(f"{line.path!r} has neither digest nor content")
    return PlainFile(line.path, line.content.encode())


def _check_file(line: _Line) -> None:
    """Reject values that are unsafe for git, git-annex or line-based programs.

    Raises
    ------
    ValueError
        A value is invalid.
    """
    if not _DIGEST.fullmatch(line.digest or ""):
        raise ValueError(f"{line.path!r} has an invalid digest")
    if not _KEY.fullmatch(line.key) and (line.git or line.key):
        raise ValueError(f"{line.path!r} has an invalid git-annex key")
    for url in line.urls:
        if _LINE_BREAK.search(url):
            raise ValueError(f"a URL of {line.path!r} has a line break")


def _digests_of(path: Path) -> tuple[bytes, str]:
    """Return the sha256 of the lines of a manifest and of the file; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as opened:
            file = _HashedFile(opened)
            for block in decompress_frame(file):
                digest.update(block)
    except (FileNotFoundError, ZstdFrameError, NotARegularFileError):
        return b"", ""
    return digest.digest(), file.digest.hexdigest()
