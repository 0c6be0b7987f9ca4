"""The files of a volume in a version of the store: metadata from git, blocks from their service."""

from __future__ import annotations

import hashlib
import io
import mmap
import subprocess
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from neuromirror.annex import (
    ALLOWED_ADDRESSES,
    EtagDigest,
    is_zeros,
    key_digest,
    key_of_file,
    may_be_private,
    parse_key,
    parse_log,
    unclaimed,
    url_log_path,
)
from neuromirror.mint import FOLDER, LINK, ObjectMissing, ObjectReader
from neuromirror.model import DatasetRef, NeuromirrorError, environment_without_secrets
from neuromirror.net import (
    BrokenOff,
    HostCircuitBreaker,
    Limits,
    Session,
    UnsafeAddress,
    is_local_name,
    only_at,
)
from neuromirror.sources.volumes import PARALLEL, BlockUrl, Volume, WrongVoxels, fetch, parse_url
from neuromirror.volume.checking import mapped
from neuromirror.volume.errors import BlockMissing, ExportFailed, WrongBytes, group_of, summary
from neuromirror.volume.geometry import block_of
from neuromirror.volume.tokens import from_environment, variable

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.store import Store

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

Place = BlockUrl | str
"""Where bytes are: a block of a service, or the web address of an object."""


class VersionFiles:
    """A commit in a bare repository of the store.

    A block is fetched from the service that its URLs on the git-annex branch (``annex_commit``)
    name, and is checked against its key before anybody sees it. The few that were wanted last are
    kept in temporary files without names, since an array is often read plane by plane; who wants
    more kept has a clone. ``host`` is the source's: an operator named it, so if its name says that
    it is this machine or of a private network it may be asked. Others may where git-annex may, by
    its setting ``annex.security.allowed-ip-addresses``. ``token`` gives what a host is shown, and
    ``limits`` says how it is asked. ``seconds`` is how long after their making blocks are fetched;
    what is under way then is broken off.
    """

    def __init__(
        self,
        repository: Path,
        commit: str,
        annex_commit: str,
        where: str,
        host: str,
        *,
        token: Callable[[str], str | None] = from_environment,
        limits: Limits = _LIMITS,
        seconds: float | None = None,
    ) -> None:
        self.where = where
        self.volume: Volume | None = None
        """Tells of which place each block is, once it is known."""
        self._given = (repository, commit, annex_commit, where, host)
        self._made_by = partial(VersionFiles, token=token, limits=limits, seconds=seconds)
        self._commit, self._annex_commit = commit, annex_commit
        self._token, self._limits = token, limits
        self._reader = ObjectReader(repository)
        self._reading = threading.RLock()
        self._root = self._reader.commit_tree(commit)
        self._folder = lru_cache(_FOLDERS)(partial(_read_folder, self._reader, self._reading))
        self._own = host if is_local_name(_name(host)) else None
        self._allowed = _allowed(repository)
        self._public = Session(limits=limits)
        self._breaker = HostCircuitBreaker(failures=2, seconds=0.0)
        self._private: dict[str, Session] = {}
        self._kept: OrderedDict[str, BinaryIO] = OrderedDict()
        self._keeping = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._closed = False
        weakref.finalize(self, _let_go, self._reader, self._kept)

    def __reduce__(self) -> tuple[Callable[..., VersionFiles], tuple[Path, str, str, str, str]]:
        return self._made_by, self._given

    def document(self, path: str) -> bytes | None:
        """The content of a document; None where the version has no such file."""
        entry = self._entry(path)
        if entry is None or entry[0] == FOLDER:
            return None
        if entry[0] == LINK:
            return bytes(self.block(path))
        with self._reading:
            return self._reader.read(entry[1].hex())

    def in_git(self, path: str) -> bytes | None:
        """The content of a document that is in git itself: nobody is asked for it."""
        entry = self._entry(path)
        if entry is None or entry[0] in (FOLDER, LINK):
            return None
        with self._reading:
            return self._reader.read(entry[1].hex())

    def block(self, path: str) -> mmap.mmap:
        """A block's bytes, checked; raises BlockMissing."""
        return self._had(path, self._block_key(path), self._urls)

    def copy(self, path: str, take: Callable[[int, memoryview], None]) -> None:
        """Pass a block's bytes to ``take``, in order; raises BlockMissing.

        They are known to be the block's once this returns, not before. An attempt that failed
        begins again at 0. A block whose bytes are of other places too, or are kept already, comes
        from the files that are kept.
        """
        key = self._block_key(path)
        urls = self._urls(path, key)
        with self._keeping:
            is_kept = key in self._kept
        if is_kept or is_zeros(key) or len(urls) != 1:
            take(0, memoryview(self._had(path, key, self._urls)))
        else:
            self._fetched(path, key, urls, lambda: cast(BinaryIO, _Taken(take)))

    def _block_key(self, path: str) -> str:
        """The annex key of a block; raises BlockMissing where there is no such file."""
        entry = self._entry(path)
        if entry is None or entry[0] != LINK:
            raise BlockMissing(path, self.where, "the version has no such file")
        with self._reading:
            return key_of_file(self._reader.read(entry[1].hex()).rpartition(b"/")[2])

    def object(self, path: str, most: int) -> mmap.mmap | None:
        """The bytes of an annexed file, checked; None where the version has no such file.

        Its folder may hold very many: git looks it up. Raises BlockMissing, and so it does for one
        of more than ``most`` bytes, or of unknown size.
        """
        try:
            with self._reading:
                target = self._reader.read(f"{self._commit}:{path}")
        except ObjectMissing:
            return None
        key = key_of_file(target.rpartition(b"/")[2])
        size = parse_key(key).size
        if size is None or not 0 < size <= most:
            told = "of unknown size" if size is None else f"of {size} bytes"
            raise BlockMissing(path, self.where, f"it is {told}, where 1 to {most} are expected")
        return self._had(path, key, self._web_urls)

    def _had(self, path: str, key: str, urls: Callable[[str, str], Sequence[Place]]) -> mmap.mmap:
        with self._locks[hash(key) % _STRIPES]:
            with self._keeping:
                kept = self._kept.get(key)
                if kept is not None:
                    self._kept.move_to_end(key)
                    return mapped(kept)
            file = self._fetched(path, key, urls(path, key))
            with self._keeping:
                if self._closed:
                    raise BlockMissing(path, self.where, _CLOSED, closed=True)
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
        with self._keeping:
            sessions = (self._public, *self._private.values())
        for session in sessions:
            # a thread that reads a reply would wait for all of it, or for its deadline
            session.abort()
        with self._keeping, self._reading:
            _let_go(self._reader, self._kept)
        for session in sessions:
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

    def _places_of(self, key: str) -> list[str]:
        """The addresses that git-annex knows of some bytes."""
        try:
            with self._reading:
                log = self._reader.read(f"{self._annex_commit}:{url_log_path(key).decode()}")
        except ObjectMissing:
            return []
        return [line.value for line in parse_log(log) if line.status == "1"]

    def _web_urls(self, path: str, key: str) -> list[str]:
        """The web addresses of an object's bytes."""
        found = [one for one in self._places_of(key) if one.startswith(("https://", "http://"))]
        return found[:_PLACES]

    def _urls(self, path: str, key: str) -> list[BlockUrl]:
        """The addresses of a block's bytes, that of its own place first."""
        found: list[BlockUrl] = []
        for place in self._places_of(key):
            with suppress(NeuromirrorError):
                found.append(parse_url(unclaimed(place)))
        own = None if self.volume is None else block_of(self.volume, path)
        level = path.partition("/")[0]
        found.sort(key=lambda url: url.level != level or (url.box, url.time) != own)
        return found[:_PLACES]

    # --- the service

    def _fetched(
        self,
        path: str,
        key: str,
        urls: Sequence[Place],
        make: Callable[[], BinaryIO] | None = None,
    ) -> BinaryIO:
        """A block in a file that ``make`` gives, else in one without a name.

        Zeros need no request.
        """
        if make is None:
            make = partial(self._nameless, path)
        failures: list[tuple[str, str]] = []
        causes: list[NeuromirrorError] = []
        if is_zeros(key):
            file = make()
            file.truncate(parse_key(key).size)
            return file
        for url in urls:
            file = make()
            host = url.host if isinstance(url, BlockUrl) else urlsplit(url).netloc
            try:
                wrong = self._tried(url, key, file)
                group = ""
            except ExportFailed:
                raise  # of where the bytes go, not of where they come from
            except UnsafeAddress as error:
                wrong = f"{error} (git's setting {ALLOWED_ADDRESSES} says what may be asked)"
                group = group_of(host, error)
            except NeuromirrorError as error:
                wrong, group = str(error), group_of(host, error)
                causes.append(error)
            except OSError as error:
                file.close()
                raise self._no_room(path, error) from error
            if not wrong:
                return file
            file.close()
            failures.append((group or wrong, wrong))
        why = summary(failures) or "no place of it is known; 'neuromirror sync' may find one"
        raise BlockMissing(path, self.where, why, tuple(causes), closed=self._ended)

    def _nameless(self, path: str) -> BinaryIO:
        try:
            return cast(BinaryIO, tempfile.TemporaryFile(prefix="neuromirror-"))
        except OSError as error:
            raise self._no_room(path, error) from error

    def _no_room(self, path: str, error: OSError) -> BlockMissing:
        return BlockMissing(
            path,
            self.where,
            f"it cannot be kept in {tempfile.gettempdir()} while it is read"
            f" ({error.strerror}); free some space there, or name another folder in TMPDIR",
        )

    def _tried(self, url: Place, key: str, file: BinaryIO) -> str:
        """Writes a block, again where the reply broke off; says what is wrong with it."""
        for left in reversed(range(_ATTEMPTS)):
            if self._ended:
                return _CLOSED
            file.seek(0)
            file.truncate()
            try:
                return self._written(url, key, file)
            except (BrokenOff, WrongVoxels) as error:
                if not (left and error.passing):
                    raise
        return ""

    @property
    def _left(self) -> float | None:
        """Seconds that are left; None where nobody counts them."""
        return None if self._ends is None else self._ends - time.monotonic()

    @property
    def _ended(self) -> bool:
        """Whether no more is to be fetched."""
        return self._closed or (self._left or 1.0) <= 0

    def _written(self, url: Place, key: str, file: BinaryIO) -> str:
        size, digest, hashing, done = parse_key(key).size, key_digest(key), _hashing(key), 0
        with closing(self._pieces(url, size)) as pieces:
            for piece in pieces:
                if self._closed:
                    return _CLOSED
                done += len(piece)
                if size is not None and done > size:
                    break
                file.write(piece)
                if hashing is not None:
                    hashing.update(piece)
        file.flush()
        if size is not None and done != size:
            return f"{url} now gives {'more' if done > size else 'less'} than its {size} bytes"
        if hashing is not None and digest is not None and hashing.hexdigest() != digest[1]:
            channel = str(url)
            if isinstance(url, BlockUrl):
                channel = f"{url.scheme}://{url.host}/{url.path}"
            found = f"{digest[0]} {hashing.hexdigest()}"
            raise WrongBytes(str(url), channel, found, digest[1])
        return ""

    def _pieces(self, url: Place, size: int | None) -> Generator[bytes | memoryview, None, None]:
        """Yields the bytes of a place as they come."""
        if isinstance(url, BlockUrl):
            session, token = self._session(url.host, url.origin), self._token(url.host)
            yield from fetch(
                session,
                url,
                size=size,
                token=token,
                token_name=variable(url.host),
                seconds=self._left,
                breaker=self._breaker,
                parallel=PARALLEL,
            )
            return
        parts = urlsplit(url)
        session = self._session(parts.netloc, f"{parts.scheme}://{parts.netloc}")
        with session.stream(url, total=self._left or self._limits.total) as reply:
            yield from reply.chunks

    def _session(self, host: str, origin: str) -> Session:
        """One that asks this host; another that is private it does not, wherever it is sent."""
        if host != self._own and not may_be_private(host, self._allowed):
            return self._public
        with self._keeping:
            if origin not in self._private:
                made = Session(limits=self._limits, private_at=only_at(origin))
                self._private[origin] = made
            return self._private[origin]


class _Taken(io.RawIOBase):
    """A file that passes on what is written to it, and keeps nothing."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._take = take
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._at = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        """Do nothing: what was passed on is written anew."""
        return self._at

    def write(self, data: Any) -> int:
        """Pass bytes on."""
        view = memoryview(data)
        self._take(self._at, view)
        self._at += len(view)
        return len(view)


def files_of(
    store: Store,
    row: VersionRow,
    *,
    token: Callable[[str], str | None] = from_environment,
    limits: Limits = _LIMITS,
    seconds: float | None = None,
) -> VersionFiles:
    """The files of a version of the store; see :class:`VersionFiles`."""
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri))
    host = row.source_uri.partition("://")[2].partition("/")[0]
    given = repository.path, row.commit, row.annex_commit, row.name, host
    return VersionFiles(*given, token=token, limits=limits, seconds=seconds)


def _hashing(key: str) -> Any:
    """A digest of the kind that a key proves; None where it proves none."""
    digest = key_digest(key)
    if digest is None:
        return None
    if digest[0] == "etag":
        return EtagDigest(int(parse_key(key).name.rpartition("-")[2]))
    return hashlib.new(digest[0], usedforsecurity=False)


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
    environment = environment_without_secrets()
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def _name(host: str) -> str:
    """A host without its port and brackets."""
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
