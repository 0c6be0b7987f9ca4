"""The files of a volume in a version of the store: metadata from git, blocks from their service."""

from __future__ import annotations

import hashlib
import mmap
import subprocess
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from neuromirror.annex import (
    ALLOWED_ADDRESSES,
    key_digest,
    key_of_file,
    may_be_private,
    parse_key,
    parse_log,
    unclaimed,
    url_log_path,
)
from neuromirror.mint import FOLDER, LINK, ObjectMissing, ObjectReader
from neuromirror.model import NeuromirrorError
from neuromirror.net import Limits, NetError, Session, UnsafeAddress, is_local_name, only_at
from neuromirror.sources.volumes import BlockUrl, Volume, WrongVoxels, fetch, parse_url
from neuromirror.volume.checking import mapped
from neuromirror.volume.errors import BlockMissing
from neuromirror.volume.geometry import block_of
from neuromirror.volume.tokens import from_environment

_LIMITS: Final = Limits(per_host=4, read=300.0)
"""A cut-out is made before its first byte is sent, which may take minutes."""

_ATTEMPTS: Final = 3
_PLACES: Final = 5
"""Places of one block that are tried; a block of zeros has as many as there are such."""

_KEPT: Final = 4
_FOLDERS: Final = 256
_CLOSED: Final = "the volume was closed"
_STRIPES: Final = 64

Entry = tuple[bytes, bytes]
"""Mode and object id."""


class VersionFiles:
    """A commit in a bare repository of the store.

    A block is fetched from the service that its URLs on the git-annex branch (``annex_commit``)
    name, and is checked against its key before anybody sees it. The few that were wanted last are
    kept in temporary files without names, since an array is often read plane by plane; who wants
    more kept has a clone. ``host`` is the source's: an operator named it, so if its name says that
    it is this machine or of a private network it may be asked. Others may where git-annex may, by
    its setting ``annex.security.allowed-ip-addresses``.
    """

    def __init__(
        self, repository: Path, commit: str, annex_commit: str, where: str, host: str
    ) -> None:
        self.where = where
        self.volume: Volume | None = None
        """Tells of which place each block is, once it is known."""
        self._given = (repository, commit, annex_commit, where, host)
        self._annex_commit = annex_commit
        self._reader = ObjectReader(repository)
        self._reading = threading.RLock()
        self._root = self._reader.commit_tree(commit)
        self._folder = lru_cache(_FOLDERS)(partial(_read_folder, self._reader, self._reading))
        self._own = host if is_local_name(_name(host)) else None
        self._allowed = _allowed(repository)
        self._public = Session(limits=_LIMITS)
        self._private: dict[str, Session] = {}
        self._kept: OrderedDict[str, BinaryIO] = OrderedDict()
        self._keeping = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._closed = False
        weakref.finalize(self, _let_go, self._reader, self._kept)

    def __reduce__(self) -> tuple[type[VersionFiles], tuple[Path, str, str, str, str]]:
        return VersionFiles, self._given

    def document(self, path: str) -> bytes | None:
        """The content of a document; None where the version has no such file."""
        entry = self._entry(path)
        if entry is None or entry[0] == FOLDER:
            return None
        if entry[0] == LINK:
            return bytes(self.block(path))
        with self._reading:
            return self._reader.read(entry[1].hex())

    def block(self, path: str) -> mmap.mmap:
        """A block's bytes, checked; raises BlockMissing."""
        entry = self._entry(path)
        if entry is None or entry[0] != LINK:
            raise BlockMissing(path, self.where, "the version has no such file")
        with self._reading:
            key = key_of_file(self._reader.read(entry[1].hex()).rpartition(b"/")[2])
        with self._locks[hash(key) % _STRIPES]:
            with self._keeping:
                kept = self._kept.get(key)
                if kept is not None:
                    self._kept.move_to_end(key)
                    return mapped(kept)
            file = self._fetched(path, key)
            with self._keeping:
                if self._closed:
                    raise BlockMissing(path, self.where, _CLOSED)
                self._kept[key] = file
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)[1].close()
                return mapped(file)

    def has(self, path: str) -> bool:
        """Whether the version has the file."""
        return self._entry(path) is not None

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yields the names in a folder, each with whether it is a folder."""
        found = self._tree(folder)
        if found is not None:
            yield from ((name.decode(), mode == FOLDER) for name, (mode, _) in found.items())

    def close(self) -> None:
        """Ends what is under way; nothing can be read afterwards."""
        self._closed = True
        with self._keeping, self._reading:
            _let_go(self._reader, self._kept)
        for session in (self._public, *self._private.values()):
            session.close()

    # --- git

    def _tree(self, folder: str) -> dict[bytes, Entry] | None:
        found = self._folder(self._root)
        for name in filter(None, folder.split("/")):
            entry = found.get(name.encode())
            if entry is None or entry[0] != FOLDER:
                return None
            found = self._folder(entry[1])
        return found

    def _entry(self, path: str) -> Entry | None:
        folder, _, name = path.rpartition("/")
        found = self._tree(folder)
        return None if found is None else found.get(name.encode())

    def _urls(self, path: str, key: str) -> list[BlockUrl]:
        """The addresses of a block's bytes, that of its own place first."""
        with self._reading, suppress(ObjectMissing):
            log = self._reader.read(f"{self._annex_commit}:{url_log_path(key).decode()}")
            found: list[BlockUrl] = []
            for line in parse_log(log):
                with suppress(NeuromirrorError):
                    if line.status == "1":
                        found.append(parse_url(unclaimed(line.value)))
            own = None if self.volume is None else block_of(self.volume, path)
            level = path.partition("/")[0]
            found.sort(key=lambda url: url.level != level or (url.box, url.time) != own)
            return found[:_PLACES]
        return []

    # --- the service

    def _fetched(self, path: str, key: str) -> BinaryIO:
        """A block in a file without a name."""
        said = []
        for url in self._urls(path, key):
            file = cast(BinaryIO, tempfile.TemporaryFile(prefix="neuromirror-"))  # noqa: SIM115
            try:
                wrong = self._tried(url, key, file)
            except UnsafeAddress as error:
                wrong = f"{error} (git's setting {ALLOWED_ADDRESSES} says what may be asked)"
            except NeuromirrorError as error:
                wrong = str(error)
            except OSError as error:
                file.close()
                raise BlockMissing(
                    path,
                    self.where,
                    f"it cannot be kept in {tempfile.gettempdir()} while it is read"
                    f" ({error.strerror}); free some space there, or name another folder in TMPDIR",
                ) from error
            if not wrong:
                return file
            file.close()
            said.append(wrong)
        why = " | ".join(said) or "no place of it is known; 'neuromirror sync' may find one"
        raise BlockMissing(path, self.where, why)

    def _tried(self, url: BlockUrl, key: str, file: BinaryIO) -> str:
        """Writes a block, again after troubles that may pass; says what is wrong with it."""
        for left in reversed(range(_ATTEMPTS)):
            file.seek(0)
            file.truncate()
            try:
                return self._written(url, key, file)
            except (NetError, WrongVoxels) as error:
                if not (left and error.passing):
                    raise
        return ""

    def _written(self, url: BlockUrl, key: str, file: BinaryIO) -> str:
        digest = key_digest(key)
        hashing = None if digest is None or digest[0] == "etag" else hashlib.new(digest[0])
        session = self._session(url)
        token = from_environment(url.host)
        for piece in fetch(session, url, size=parse_key(key).size, token=token):
            if self._closed:
                return _CLOSED
            file.write(piece)
            if hashing is not None:
                hashing.update(piece)
        file.flush()
        if hashing is not None and digest is not None and hashing.hexdigest() != digest[1]:
            return (
                f"{url} now gives other voxels than when it was mirrored ({digest[0]} "
                f"{hashing.hexdigest()}, not {digest[1]}); whoever got the block before may still"
                " have it, and 'neuromirror sync' makes a version of what is there now"
            )
        return ""

    def _session(self, url: BlockUrl) -> Session:
        """One that asks this host; another that is private it does not, wherever it is sent."""
        if url.host != self._own and not may_be_private(url.host, self._allowed):
            return self._public
        with self._keeping:
            if url.origin not in self._private:
                made = Session(limits=_LIMITS, private_at=only_at(url.origin))
                self._private[url.origin] = made
            return self._private[url.origin]


def _let_go(reader: ObjectReader, kept: OrderedDict[str, BinaryIO]) -> None:
    while kept:
        kept.popitem()[1].close()
    reader.__exit__()


def _read_folder(reader: ObjectReader, lock: threading.RLock, sha: bytes) -> dict[bytes, Entry]:
    with lock:
        return reader.tree(sha)


def _allowed(repository: Path) -> list[str]:
    """The addresses of private networks that git-annex may ask, as git's setting has them."""
    asked = ["git", "--git-dir", str(repository), "config", "--get", ALLOWED_ADDRESSES]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()


def _name(host: str) -> str:
    """A host without its port and brackets."""
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
