"""The manifest beside a lock: everything of one version but its history and the files' bytes.

A zstd frame of JSON lines (docs/lock.md): a head, then the plain files that git holds, then files
and sub-datasets sorted by path, each with what the canonical manifest says of it, its key and its
places. The canonical lines can be made of it, and so the state digest; and so can the git tree.
Places are hints: what they give is checked by the digest.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec
import zstandard

from neuromirror.annex import CLAIMED, CLAIMED_KINDS
from neuromirror.model import (
    Evidence,
    NeuromirrorError,
    PlacedFile,
    StateDigest,
    in_git,
    manifest_digest,
    manifest_line,
    subdataset_line,
)
from neuromirror.store import SafeFolder

MANIFEST_VERSION = 1
_BLOCK = 1 << 18
_LONGEST_LINE = 1 << 28
_MODE = 0o644
_WORDS = {word.value: word for word in (Evidence.SHA256, Evidence.MD5, Evidence.ETAG)}


class ManifestMissing(NeuromirrorError):
    """The manifest that a lock names is not beside it."""


class ManifestDamaged(NeuromirrorError):
    """A manifest that cannot be read, or that does not give the state it is of."""


class ManifestHead(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What a manifest is of.

    ``commit_object`` is git's, as text; ``remotes``, ``names`` and ``trust`` are ``remote.log``,
    ``uuid.log`` and ``trust.log`` of the git-annex branch; ``form`` is model.SnapshotHeader's.
    """

    manifest: int
    dataset: str
    dataset_id: str
    source: str
    version: str
    commit: str
    tree: str
    state: str
    form: str
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
        word = self.digest.partition(":")[0]
        if word != "none":
            return _WORDS[word]
        return Evidence.NONE if self.size is None else Evidence.SIZE


class ListedPart(msgspec.Struct, frozen=True, gc=False):
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
    size: int | None = None
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


Line = PlainFile | ListedFile | ListedPart

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(ManifestHead).decode


def listed(placed: PlacedFile, mirror: str, form: str) -> ListedFile | ListedPart:
    """A version's record as its manifest has it."""
    part, record = placed.part, placed.record
    path = placed.git_path.decode()
    if part is not None:
        name = f"{mirror}:{part.local_id}"
        return ListedPart(
            path, name, part.dataset_id, part.commit, part.state, part.files, part.bytes
        )
    urls = [
        place.url if place.kind not in CLAIMED_KINDS else CLAIMED + place.url
        for place in record.locations
    ]
    digest = manifest_digest(record)
    word = digest.partition(":")[0]
    checked = [one.checked for one in record.digests if one.algorithm == word][:1] == [True]
    return ListedFile(
        path, placed.key, digest, record.size, tuple(urls), checked, in_git(placed, form)
    )


def canonical_line(one: ListedFile | ListedPart) -> bytes:
    """Its line of the canonical manifest, newline included."""
    if isinstance(one, ListedPart):
        return subdataset_line(one.path.encode(), one.dataset_id, one.state)
    return manifest_line(one.path.encode(), one.digest, one.size)


class ManifestWriter:
    """Writes a manifest beside its place, and puts it there in one step.

    A context manager; what is not finished leaves nothing behind. A manifest that is there already
    and says the same stays, byte for byte: compressors differ from release to release.
    """

    def __init__(self, folder: SafeFolder, name: str, head: ManifestHead) -> None:
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

    def plain(self, path: str, content: bytes) -> None:
        """The next file that git holds itself."""
        try:
            self._add(_Line(path, content=content.decode("utf-8")))
        except UnicodeDecodeError:
            self._add(_Line(path, base64=base64.b64encode(content).decode("ascii")))

    def add(self, one: ListedFile | ListedPart) -> None:
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
        self._block += _encode(line)
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
            raise ManifestDamaged(
                f"the records of {self._head.dataset}@{self._head.version} in the store give the "
                f"state {self._state.value()}, and not {self._head.state}: restore the store from "
                "a backup, or run 'neuromirror sync --deep' for the dataset"
            )
        self._flush()
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        self._folder.refuse_symlink(self._name)
        if _content(self._folder.path / self._name) == self._content.digest():
            return
        os.fchmod(self._file.fileno(), _MODE)
        os.fsync(self._file.fileno())
        self._folder.replace(self._draft, self._folder, self._name)


class ManifestReader:
    """A manifest read line by line, as often as it is iterated; ``head`` is read at once.

    Raises ManifestMissing, or ManifestDamaged: also while it is iterated, at the latest at the end
    of files that do not give the state that the head names.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        for line in self._lines():
            try:
                self.head = _decode_head(line)
            except msgspec.DecodeError as error:
                raise self._damaged(f"it does not begin with a head: {error}") from error
            break
        else:
            raise self._damaged("it is empty, or cut off")
        if self.head.manifest > MANIFEST_VERSION:
            raise self._damaged(
                f"it is of version {self.head.manifest}; install a newer neuromirror"
            )

    def __iter__(self) -> Generator[Line, None, None]:
        lines = self._lines()
        next(lines)
        state, last = StateDigest(), ""
        for line in lines:
            try:
                found = _line(_decode(line))
            except (msgspec.DecodeError, ValueError) as error:
                raise self._damaged(f"a line of it is none: {error}") from error
            if not isinstance(found, PlainFile):
                if found.path.encode() <= last.encode():
                    raise self._damaged(f"{found.path!r} stands in the wrong place")
                last = found.path
                state.add(canonical_line(found))
            yield found
        if state.value() != self.head.state:
            raise self._damaged(f"its files give the state {state.value()}")

    def listed(self) -> Iterator[ListedFile | ListedPart]:
        """All lines but those of plain files."""
        return (line for line in self if not isinstance(line, PlainFile))

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                yield from _split(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ManifestMissing(
                f"the manifest {self._path} is missing; take it back from where the lock came "
                "from, or pin the dataset again"
            ) from error
        except (EOFError, zstandard.ZstdError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> ManifestDamaged:
        return ManifestDamaged(
            f"the manifest {self._path} cannot be used: {why}; take it back from where the lock "
            "came from, or pin the dataset again"
        )


def beside(path: Path, commit: str) -> Path:
    """The manifest or bundle of a part, from that of the dataset it is in."""
    _, dot, ending = path.name.partition(".")
    return path.with_name(f"{commit}{dot}{ending}")


def _line(line: _Line) -> Line:
    if line.digest is not None:
        return ListedFile(
            line.path, line.key, line.digest, line.size, line.urls, line.checked, line.git
        )
    if line.dataset is not None:
        return ListedPart(
            line.path, line.name, line.dataset, line.commit, line.state, line.files, line.bytes
        )
    if line.base64 is not None:
        return PlainFile(line.path, base64.b64decode(line.base64, validate=True))
    if line.content is None:
        raise ValueError(f"nothing is said of {line.path!r}")
    return PlainFile(line.path, line.content.encode())


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    # in pieces of a fixed size, whatever a frame would grow to
    return zstandard.ZstdDecompressor().read_to_iter(file, write_size=1 << 16)


def _split(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in _blocks(file):
        first, newline, more = block.partition(b"\n")
        rest += first
        if len(rest) > _LONGEST_LINE:
            raise EOFError("it has a line that is too long")
        if newline:
            yield rest
            lines = more.split(b"\n")
            rest = lines.pop()
            yield from lines
    if rest:
        raise EOFError("its last line is not whole")


def _content(path: Path) -> bytes:
    """The sha256 of what a manifest holds; empty where there is none that can be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in _blocks(file):
                digest.update(block)
    except (FileNotFoundError, zstandard.ZstdError):
        return b""
    return digest.digest()
