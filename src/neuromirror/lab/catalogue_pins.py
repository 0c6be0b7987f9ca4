"""Pin versions from the pages of a catalogue, without a store.

The catalogue creates a lock file and manifests (``/lock/datasets.lock.zip``). This module verifies
them and merges them into the local lock file.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from neuromirror.config.addresses import catalogue_page
from neuromirror.lab.clone_urls import clone_urls
from neuromirror.lab.exclusive_write import exclusive_write
from neuromirror.lab.globs import escape
from neuromirror.lab.lockfile import Lock, LockUnusableError, Pin, load_lock
from neuromirror.lab.pin import (
    MANIFEST_ENDING,
    NotPinnedError,
    own_folder,
    pin_outcome,
    read_lock_or_empty,
    remove_pins,
    write_pins,
)
from neuromirror.lab.verify.remote_files import pinned_items
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import Session, only_host_of
from neuromirror.store import SafeFolder
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.outcomes import Outcome

_MAX_BYTES: Final = 1 << 32
"""Maximum size of the downloaded lock file with its manifests."""
_MAX_FILES: Final = 100_000
"""Maximum number of manifests."""
_LOCK: Final = "datasets.lock"


class CataloguePins(Struct, frozen=True):
    """Versions to pin from one catalogue.

    Attributes
    ----------
    base
        The URL of the catalogue.
    names
        ``<mirror>:<local id>``, with ``@<label>`` unless it is the latest version.
    paths
        Globs; empty for the whole datasets.
    """

    base: str
    names: tuple[str, ...]
    paths: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Return the URL of the lock file with its manifests."""
        query = [("add", one) for one in self.names] + [("path", one) for one in self.paths]
        return f"{self.base}/lock/{_LOCK}.zip?{urlencode(query)}"


def parse_catalogue_url(text: str, paths: tuple[str, ...] | None = None) -> CataloguePins | None:
    """Return the versions to pin that a catalogue's URL names; None for any other text.

    Parameters
    ----------
    text
        The URL of a catalogue's page, or of its list of versions to pin (``/lock?add=…``).
    paths
        Globs of the files to select in each version; None for what the page shows: a file, a folder
        or the whole dataset.
    """
    page = catalogue_page(text)
    if page is not None:
        base, found = page
        own = () if found.path is None else (escape(found.path),)
        name = found.dataset if found.version is None else f"{found.dataset}@{found.version}"
        return CataloguePins(base, (name,), own if paths is None else paths)
    parts = urlsplit(text)
    is_web = parts.scheme in ("http", "https") and parts.netloc
    if not is_web or not parts.path.endswith("/lock"):
        return None
    names = tuple(parse_qs(parts.query).get("add", ()))
    base = urlunsplit((parts.scheme, parts.netloc, parts.path.removesuffix("/lock"), "", ""))
    return CataloguePins(base, names, paths or ()) if names else None


def pin_from_catalogues(
    path: Path,
    requests: Sequence[CataloguePins],
    *,
    clones: Sequence[str] | None = None,
    remove: Sequence[str] = (),
) -> list[Outcome]:
    """Pin versions that catalogues describe in the lock file at ``path``; no store is needed.

    If one version cannot be pinned, none is.

    Parameters
    ----------
    path
        The lock file, which is created if it does not exist.
    requests
        The versions.
    clones
        URLs to clone from instead of the catalogues, as in :class:`PinRequest`.
    remove
        Names of datasets whose pins are removed.

    Raises
    ------
    NotPinnedError
        A catalogue cannot provide a version, or its response is damaged.
    ConfigurationError, LockUnusableError, LockBusyError
        As in :func:`~neuromirror.lab.pin.pin`.
    """
    with TemporaryDirectory(prefix="neuromirror-") as scratch:
        fetched = [_fetch(one, Path(scratch) / str(number)) for number, one in enumerate(requests)]
        with exclusive_write(path) as folder:
            return _merge(folder, path, fetched, clones, remove)


def _fetch(request: CataloguePins, folder: Path) -> Lock:
    """Download and verify a lock file with its manifests."""
    folder.mkdir()
    archive = folder / "lock.zip"
    url = request.url
    try:
        with Session(is_private_allowed=only_host_of(url)) as session, session.stream(url) as reply:
            _save(reply.chunks, archive, request.base)
        _unpack(archive, folder)
        lock = load_lock(folder / _LOCK)
    except (zipfile.BadZipFile, LockUnusableError) as error:
        raise NotPinnedError(f"{request.base}: the response is not a lock file: {error}") from error
    except ConfigurationError:
        raise
    except NeuromirrorError as error:
        raise NotPinnedError(
            f"{', '.join(request.names)}: {request.base} cannot provide a lock file: {error}"
        ) from error
    if [one.name for one in lock.datasets] != [name.partition("@")[0] for name in request.names]:
        raise NotPinnedError(f"{request.base}: its lock file has other datasets than requested")
    for one in lock.datasets:
        _verify(lock, one, request.base)
    return lock


def _save(chunks: Iterator[bytes | memoryview], archive: Path, base: str) -> None:
    received = 0
    with archive.open("xb") as file:
        for chunk in chunks:
            received += len(chunk)
            if received > _MAX_BYTES:
                raise NotPinnedError(f"{base}: the lock file has more than {_MAX_BYTES} bytes")
            file.write(chunk)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the lock file and the manifests; raises BadZipFile for any other archive."""
    try:
        _unpack_members(archive, folder)
    except (zlib.error, EOFError, ValueError, RuntimeError) as error:
        # a RuntimeError: encrypted, or a method of compression that Python does not know
        raise zipfile.BadZipFile(str(error) or "it is damaged") from error
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
            # offsets before the start of the archive; members that contradict each other
            raise zipfile.BadZipFile(error.strerror) from error
        raise


def _unpack_members(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as found:
        members = found.infolist()
        if len(members) > _MAX_FILES or sum(one.file_size for one in members) > _MAX_BYTES:
            raise zipfile.BadZipFile("it is too large")
        for one in members:
            pieces = one.filename.split("/")
            is_manifest = (
                len(pieces) == 3
                and pieces[0] == f"{_LOCK}.d"
                and pieces[1] not in ("", ".", "..")
                and pieces[2].endswith(MANIFEST_ENDING)
            )
            if one.filename != _LOCK and not is_manifest:
                raise zipfile.BadZipFile(f"it has an unexpected member, {one.filename[:100]!r}")
            target = folder.joinpath(*pieces)
            target.parent.mkdir(parents=True, exist_ok=True)
            with found.open(one) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)


def _verify(lock: Lock, one: Pin, base: str) -> None:
    """Compare the manifests of a pin with its commit and state digest."""
    if one.manifest != _manifest_name(Path(_LOCK), one):
        raise NotPinnedError(f"{base}: its lock file has an unexpected manifest, {one.manifest!r}")
    for item in pinned_items(lock, one):
        if isinstance(item, Finding) and item.failed:
            raise NotPinnedError(
                f"{base}: its manifest of {one.version} is damaged: {item.message}"
            )


def _merge(
    beside: SafeFolder,
    path: Path,
    fetched: Sequence[Lock],
    clones: Sequence[str] | None,
    remove: Sequence[str],
) -> list[Outcome]:
    """Add the fetched pins to the lock file; the caller holds the lock for writing."""
    content, lock = read_lock_or_empty(path)
    pins = {one.name: one for one in lock.datasets}
    outcomes = remove_pins(pins, remove, path)
    kept: set[Path] = set()
    changed = list(remove)
    for source in fetched:
        for found in source.datasets:
            if found.name in changed:
                raise ConfigurationError(
                    f"{found.name} is specified twice; a lock file has one version per dataset"
                )
            changed.append(found.name)
            manifest = _manifest_name(path, found)
            urls = found.clone if clones is None else clone_urls(clones, found.dataset)
            new = msgspec.structs.replace(found, manifest=manifest, clone=urls, block_digests=None)
            kept |= _copy_manifests(beside, lock, source, found)
            outcomes.append(pin_outcome(pins.get(new.name), new, None))
            pins[new.name] = new
    write_pins(beside, lock, content, pins, changed, kept)
    return outcomes


def _manifest_name(path: Path, one: Pin) -> str:
    return f"{path.name}.d/{one.dataset.alias}/{one.commit}{MANIFEST_ENDING}"


def _copy_manifests(beside: SafeFolder, lock: Lock, source: Lock, one: Pin) -> set[Path]:
    """Copy the manifests of a dataset and its subdatasets; return their paths."""
    copied: set[Path] = set()
    with own_folder(beside, lock, one.name) as folder:
        for file in sorted(source.manifest_path(one).parent.iterdir()):
            target = folder.path / file.name
            copied.add(target)
            if not target.exists():
                descriptor = folder.open(file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with file.open("rb") as content, open(descriptor, "wb") as written:
                    shutil.copyfileobj(content, written)
    return copied
