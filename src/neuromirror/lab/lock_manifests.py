"""The manifest beside a lock: everything of one version but its history and the files' bytes.

A zstd frame of JSON lines (docs/lock.md): a head, then the plain files that git holds, then files
and sub-datasets sorted by path, each with what the canonical manifest says of it, its key and its
places. The canonical lines can be made of it, and so the state digest; and so can the git tree.
Places are hints: what they give is checked by the digest.

Whoever sends a lock may have written anything into its manifests. Each line is validated before
anything is made of it, and no more is unpacked than the lock promises (docs/lock.md).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
import zstandard

from neuromirror.annex import CLAIM_PREFIX, CLAIMED_LOCATION_KINDS
from neuromirror.git import is_ref_name
from neuromirror.lab.regular_files import NotARegularFileError, open_regular
from neuromirror.mint import LONGEST_LINE, FrameLimits, ZstdFrameError, decompress_frame, read_lines
from neuromirror.model import (
    CommitId,
    Count,
    DatasetId,
    DatasetName,
    Evidence,
    InvalidDocumentError,
    NeuromirrorError,
    SingleLine,
    SnapshotEntry,
    StateDigest,
    StateDigestText,
    invalid_document_error,
    is_git_path,
    is_in_git,
    manifest_digest,
    manifest_line,
    parse_json,
    subdataset_line,
)
from neuromirror.store import TAG_PREFIX, SafeFolder

MANIFEST_VERSION = 1
_BLOCK = 1 << 18
_MODE = 0o644
_FREE_BYTES = 1 << 26
_MAX_FILE_LINE = 1 << 16
"""Bytes that a line of a file has at most; most have 300."""
_DIGEST = re.compile(
    r"none|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|etag:[0-9a-f]{32}(-[0-9]{1,18}){2}"
)
_KEY = re.compile(r"[A-Z0-9_]+(?:-[smSC][0-9]{1,18})*--[^\x00-\x20\x7f]+")
_LINE_BREAK = re.compile(r"[\x00\r\n]")
_EVIDENCE = {word.value: word for word in (Evidence.SHA256, Evidence.MD5, Evidence.ETAG)}


class LockManifestMissingError(NeuromirrorError):
    """The manifest that a lock names is not beside it."""


class LockManifestDamagedError(NeuromirrorError):
    """A manifest that cannot be read, or that does not give the state it is of."""


class LockManifestHead(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What a manifest is of.

    ``commit_object`` is git's, as text; ``remotes``, ``names`` and ``trust`` are ``remote.log``,
    ``uuid.log`` and ``trust.log`` of the git-annex branch; ``form`` is model.SnapshotHeader's.
    """

    manifest: Annotated[int, msgspec.Meta(ge=1)]
    dataset: DatasetName
    dataset_id: DatasetId
    source: SingleLine
    version: SingleLine
    commit: CommitId
    tree: CommitId
    state: StateDigestText
    form: Annotated[str, msgspec.Meta(pattern=r"^(?:files|manifest)\Z")]
    commit_object: str
    remotes: str = ""
    names: str = ""
    trust: str = ""


class PlainFile(msgspec.Struct, frozen=True, gc=False):
    """A file that git holds itself: upstream's documents, and the dataset's own."""

    path: str
    content: bytes


class ListedFile(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"in_git": "git"}
):
    """A file of a version.

    ``digest`` is as the canonical manifest spells it, ``size`` in bytes. ``urls`` are its places,
    best first; one that begins with a colon is not for the web, but for the special remote that
    claims it. ``checked``: the mirror has hashed the bytes. ``in_git`` is False for a chunk of a
    huge Zarr, which has no place in the git tree.
    """

    path: str
    key: str
    digest: str
    size: int | None = None
    urls: tuple[str, ...] = ()
    checked: bool = False
    in_git: bool = True

    @property
    def evidence(self) -> Evidence:
        """What is known of its bytes."""
        algorithm = self.digest.partition(":")[0]
        if algorithm != "none":
            return _EVIDENCE[algorithm]
        return Evidence.NONE if self.size is None else Evidence.SIZE


class ListedSubdataset(msgspec.Struct, frozen=True, gc=False):
    """A sub-dataset of a version, at one of its own states."""

    path: str
    name: str
    dataset_id: str
    commit: str
    state: str
    files: int
    bytes: int


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """Any line but the head: a file (ListedFile) has a ``digest``, a sub-dataset a ``dataset``.

    What has neither is plain; ``base64`` stands for ``content`` that is not UTF-8.
    """

    path: str
    digest: str | None = None
    key: str = ""
    size: Count | None = None
    urls: tuple[str, ...] = ()
    checked: bool = False
    git: bool = True
    dataset: str | None = None
    name: str = ""
    commit: str = ""
    state: str = ""
    files: int = 0
    bytes: int = 0
    content: str | None = None
    base64: str | None = None


class _SubdatasetLine(msgspec.Struct, gc=False):
    """The line of a sub-dataset, of which there are few, and of which everything is needed."""

    path: str
    dataset: DatasetId
    name: DatasetName
    commit: CommitId
    state: StateDigestText
    files: Count
    bytes: Count


ManifestEntry = PlainFile | ListedFile | ListedSubdataset

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode
_decode_subdataset = msgspec.json.Decoder(_SubdatasetLine).decode
_decode_head = msgspec.json.Decoder(LockManifestHead).decode


def manifest_entry(placed: SnapshotEntry, mirror: str, form: str) -> ListedFile | ListedSubdataset:
    """A version's record as its manifest has it."""
    part, record = placed.subdataset, placed.record
    path = placed.git_path.decode()
    if part is not None:
        name = f"{mirror}:{part.local_id}"
        return ListedSubdataset(
            path, name, part.dataset_id, part.commit, part.state, part.files, part.bytes
        )
    urls = [
        location.url if location.kind not in CLAIMED_LOCATION_KINDS else CLAIM_PREFIX + location.url
        for location in record.locations
    ]
    digest = manifest_digest(record)
    algorithm = digest.partition(":")[0]
    checked = [one.checked for one in record.digests if one.algorithm == algorithm][:1] == [True]
    return ListedFile(
        path, placed.key, digest, record.size, tuple(urls), checked, is_in_git(placed, form)
    )


def canonical_line(one: ListedFile | ListedSubdataset) -> bytes:
    """Its line of the canonical manifest, newline included."""
    if isinstance(one, ListedSubdataset):
        return subdataset_line(one.path.encode(), one.dataset_id, one.state)
    return manifest_line(one.path.encode(), one.digest, one.size)


class LockManifestWriter:
    """Writes a manifest beside its place, and puts it there in one step.

    A context manager; what is not finished leaves nothing behind. A manifest that is there already
    and says the same stays, byte for byte: compressors differ from release to release.
    """

    def __init__(self, folder: SafeFolder, name: str, head: LockManifestHead) -> None:
        self._folder = folder
        self._name = name
        self._head = head
        self._draft, handle = folder.new_file()
        self._file = os.fdopen(handle, "wb")
        # one thread and no content size: the same lines give the same bytes wherever they are made
        self._zstd = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            self._file, closefd=False
        )
        self._content = hashlib.sha256()
        self._state = StateDigest()
        self._block = bytearray(_encode(head) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._folder.unlink(self._draft)

    def add_plain(self, path: str, content: bytes) -> None:
        """The next file that git holds itself."""
        try:
            self._add(_Line(path, content=content.decode("utf-8")))
        except UnicodeDecodeError:
            self._add(_Line(path, base64=base64.b64encode(content).decode("ascii")))

    def add(self, one: ListedFile | ListedSubdataset) -> None:
        """The next file or sub-dataset, in order of path."""
        self._state.add(canonical_line(one))
        if isinstance(one, ListedFile):
            self._add(one)
        else:
            self._add(
                _Line(
                    one.path,
                    dataset=one.dataset_id,
                    name=one.name,
                    commit=one.commit,
                    state=one.state,
                    files=one.files,
                    bytes=one.bytes,
                )
            )

    def _add(self, line: _Line | ListedFile) -> None:
        written = _encode(line)
        if len(written) > LONGEST_LINE:
            raise LockManifestDamagedError(
                f"{line.path!r} of {self._head.dataset}@{self._head.version} cannot be in a "
                f"manifest: its line has more than {LONGEST_LINE} bytes"
            )
        self._block += written
        self._block += b"\n"
        if len(self._block) > _BLOCK:
            self._flush()

    def _flush(self) -> None:
        self._content.update(self._block)
        self._zstd.write(bytes(self._block))
        self._block.clear()

    def finish(self) -> None:
        """Puts the manifest in its place; raises ManifestDamaged for files of another state."""
        if self._state.value() != self._head.state:
            raise LockManifestDamagedError(
                f"the records of {self._head.dataset}@{self._head.version} in the store give the "
                f"state {self._state.value()}, and not {self._head.state}: restore the store from "
                "a backup, or run 'neuromirror sync --deep' for the dataset"
            )
        self._flush()
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        self._folder.refuse_symlink(self._name)
        if _content_digest(self._folder.path / self._name) == self._content.digest():
            return
        os.fchmod(self._file.fileno(), _MODE)
        os.fsync(self._file.fileno())
        self._folder.replace(self._draft, self._folder, self._name)


class LockManifestReader:
    """A manifest read line by line, as often as it is iterated; ``head`` is read at once.

    ``files`` is how many files it may list at most, as the lock promises; None where nothing does.
    Raises LockManifestMissingError, or ManifestDamaged: also while it is iterated, at the latest
    at the end
    of files that do not give the state that the head names.
    """

    def __init__(self, path: Path, files: int | None = None) -> None:
        self._path = path
        self._files = files
        self._limits = FrameLimits(
            ratio_free_bytes=_FREE_BYTES,
            max_bytes=1 << 62 if files is None else 4 * _FREE_BYTES + files * _MAX_FILE_LINE,
        )
        for line in self._lines():
            try:
                self.head = _head(line)
            except InvalidDocumentError as error:
                raise self._damaged(f"it does not begin with a head: {error}") from None
            break
        else:
            raise self._damaged("it is empty, or cut off")

    def __iter__(self) -> Generator[ManifestEntry, None, None]:
        lines = self._lines()
        next(lines)
        state, last, files = StateDigest(), b"", 0
        for number, line in enumerate(lines, 2):
            try:
                found = _line(line)
            except (msgspec.DecodeError, RecursionError) as error:
                raise self._damaged(str(invalid_document_error(error, f"line {number}"))) from None
            except ValueError as error:
                raise self._damaged(f"line {number} is none: {error}") from error
            if not isinstance(found, PlainFile):
                path = found.path.encode()
                if path <= last:
                    raise self._damaged(f"{found.path!r} stands in the wrong place")
                last = path
                state.add(canonical_line(found))
                files += isinstance(found, ListedFile)
                if self._files is not None and files > self._files:
                    raise self._damaged(
                        f"it lists more than the {self._files} files that are expected of it"
                    )
            elif files or last:
                raise self._damaged(f"{found.path!r} stands in the wrong place")
            yield found
        if state.value() != self.head.state:
            raise self._damaged(f"its files give the state {state.value()}")

    def entries(self) -> Iterator[ListedFile | ListedSubdataset]:
        """All lines but those of plain files."""
        return (line for line in self if not isinstance(line, PlainFile))

    def _lines(self) -> Iterator[bytes]:
        try:
            with open_regular(self._path) as file:
                yield from read_lines(file, self._limits)
        except NotARegularFileError as error:
            raise self._damaged("it is no regular file") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LockManifestMissingError(
                f"the manifest {self._path} is missing; take it back from where the lock came "
                "from, or pin the dataset again"
            ) from error
        except ZstdFrameError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> LockManifestDamagedError:
        return LockManifestDamagedError(
            f"the manifest {self._path} cannot be used: {why}; take it back from where the lock "
            "came from, or pin the dataset again"
        )


def sibling_path(path: Path, commit: str) -> Path:
    """The manifest or bundle of a part, from that of the dataset it is in."""
    _, dot, ending = path.name.partition(".")
    return path.with_name(f"{commit}{dot}{ending}")


def _head(line: bytes) -> LockManifestHead:
    """Return the head in a manifest's first line; raises InvalidDocumentError."""
    parse_json(line, "the head")
    try:
        head = _decode_head(line)
    except (msgspec.DecodeError, RecursionError) as error:
        version = _version(line)
        if version is not None and version > MANIFEST_VERSION:
            raise _unsupported_version(version) from None
        raise invalid_document_error(error, "the head") from None
    if head.manifest > MANIFEST_VERSION:
        raise _unsupported_version(head.manifest)
    if not is_ref_name(f"{TAG_PREFIX}{head.version}"):
        raise InvalidDocumentError(
            "the head", "version", "a label that git takes", repr(head.version)
        )
    return head


def _version(line: bytes) -> int | None:
    found = parse_json(line, "the head")
    version = found.get("manifest") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None


def _unsupported_version(version: int) -> InvalidDocumentError:
    return InvalidDocumentError(
        "the head",
        "manifest",
        f"version {MANIFEST_VERSION} at most (install a newer neuromirror)",
        str(version),
    )


def _line(content: bytes) -> ManifestEntry:
    """Return what a line stands for; raises ValueError, msgspec.DecodeError or RecursionError."""
    line = _decode(content)
    if not is_git_path(line.path):
        raise ValueError(f"{line.path!r} is no path that git checks out")
    if len(_encode(line)) != len(content):
        parse_json(content, "it")  # what is written otherwise may have members twice
    if line.digest is not None:
        _check_file(line)
        return ListedFile(
            line.path, line.key, line.digest, line.size, line.urls, line.checked, line.git
        )
    if line.dataset is not None:
        part = _decode_subdataset(content)
        return ListedSubdataset(
            part.path, part.name, part.dataset, part.commit, part.state, part.files, part.bytes
        )
    if line.base64 is not None:
        return PlainFile(line.path, base64.b64decode(line.base64, validate=True))
    if line.content is None:
        raise ValueError(f"nothing is said of {line.path!r}")
    return PlainFile(line.path, line.content.encode())


def _check_file(line: _Line) -> None:
    """Raise ValueError for what git, git-annex or a program that reads lines cannot be given."""
    if not _DIGEST.fullmatch(line.digest or ""):
        raise ValueError(f"{line.path!r} has no digest of a known form")
    if not _KEY.fullmatch(line.key) and (line.git or line.key):
        raise ValueError(f"{line.path!r} has no key of git-annex")
    for url in line.urls:
        if _LINE_BREAK.search(url):
            raise ValueError(f"an address of {line.path!r} has a line break")


def _content_digest(path: Path) -> bytes:
    """The sha256 of what a manifest holds; empty where there is none that can be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            for block in decompress_frame(file):
                digest.update(block)
    except (FileNotFoundError, ZstdFrameError, NotARegularFileError):
        return b""
    return digest.digest()
