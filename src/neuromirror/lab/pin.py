"""Pin versions in a lock file, from a store or a catalogue, and find outdated pins.

Pin versions from the pages of a catalogue, without a store.

The catalogue creates a lock file and manifests (``/lock/datasets.lock.zip``). This module verifies
them and merges them into the local lock file.
"""

from __future__ import annotations

import errno
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Struct, field

from neuromirror import model
from neuromirror.config.addresses import catalogue_page
from neuromirror.git import ObjectReader
from neuromirror.index import (
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.index.rows import RETENTION
from neuromirror.lab.clone_urls import clone_urls
from neuromirror.lab.globs import Globs, WatchedGlobs, escape
from neuromirror.lab.lock_manifests import (
    BLOCK_DIGESTS_NAME,
    BUNDLE_ENDING,
    MANIFEST_ENDING,
    MANIFEST_VERSION,
    ListedFile,
    ListedSubdataset,
    LockManifestHead,
    LockManifestWriter,
    PinnedDigests,
    copy_beside,
    manifest_entry,
    plain_names,
    stored_record_lines,
    write_bundle,
)
from neuromirror.lab.lockfile import (
    Lock,
    LockUnusableError,
    Pin,
    PinnedEvidence,
    ResolvedVersion,
    dump_lock,
    load_lock,
    parse_lock,
    pinned_vaults,
    read_lock_bytes,
)
from neuromirror.lab.output_files import exclusive_write
from neuromirror.lab.verify import pinned_items
from neuromirror.model.errors import format_bytes
from neuromirror.net import Session, only_host_of
from neuromirror.store import SafeFolder, Store, published_vaults, write_atomically
from neuromirror.transfer.outcomes import Finding, MessageCallback, Outcome
from neuromirror.transfer.verified_repository import VerifiedRepository

_OWN_FILE_NAME = re.compile(
    rf"(?:[0-9a-f]{{40}}(?:{re.escape(MANIFEST_ENDING)}|{re.escape(BUNDLE_ENDING)})"
    rf"|{BLOCK_DIGESTS_NAME.pattern})\Z"
)

_PERISHABLE = {
    model.Retention.DRAFT: "upstream may delete replaced files of a draft (DANDI after 30 days)",
    model.Retention.ARCHIVED: "files in an archive storage class are not readable before a restore",
    model.Retention.MUTABLE_BUCKET: "content that upstream overwrites or deletes is lost at once",
}


class PinRequest(Struct, frozen=True):
    """A version to pin; None keeps the value that the lock file has.

    Attributes
    ----------
    dataset
        ``<mirror>:<local id>``.
    label
        The requested label, such as ``latest``.
    paths
        Globs (:mod:`neuromirror.lab.globs`); an empty tuple pins the whole dataset.
    clones
        URLs, or patterns of URLs (:mod:`neuromirror.lab.clone_urls`).
    bundle
        Whether to write git bundles.
    streamable
        Whether to write the block digests of the files.
    is_checked_out
        The version was read from a clone, not chosen by its label.
    """

    dataset: str
    label: str
    paths: tuple[str, ...] | None = None
    clones: tuple[str, ...] | None = None
    bundle: bool | None = None
    streamable: bool | None = None
    is_checked_out: bool = False


def pin_request_for_clone(folder: Path, index: Index) -> PinRequest:
    """Return a request to pin the checked-out version of a clone.

    Parameters
    ----------
    folder
        The folder of the clone.
    index
        The index of the store.

    Raises
    ------
    NotADatasetError
        The folder is not a clone.
    NeuromirrorError
        The checked-out commit was not created by a mirror.
    UnknownDatasetError, UnknownVersionError
        The index does not have the version.
    """
    with VerifiedRepository.at(folder) as clone:
        head = clone.head()
        minted = clone.newest_minted(head)
        description = None if minted is None else clone.describe(minted)
    if description is None or not description.dataset:
        raise model.NeuromirrorError(
            f"{folder}: the checked-out commit {head[:12]} was not created by a mirror; specify "
            f"a VERSION"
        )
    if minted != head:
        raise model.NeuromirrorError(
            f"{folder}: the checked-out commit {head[:12]} was not created by the mirror, but "
            f"follows "
            f"{description.dataset}@{description.label}. A lock file can pin commits of the mirror "
            f"only: pin {description.dataset}@{description.label}, and keep your own commits with "
            "your work."
        )
    row = index.versions.resolve(description.dataset, head)
    return PinRequest(row.dataset_name, row.label, is_checked_out=True)


def pin(
    path: Path,
    requests: Sequence[PinRequest],
    store: Store,
    index: Index,
    *,
    remove: Sequence[str] = (),
    progress: MessageCallback = lambda message: None,
) -> Iterator[Outcome]:
    """Pin versions in the lock file at ``path``, which is created if it does not exist.

    The new version of a pinned dataset replaces the old one at its position. The lock file is
    written once, at the end; manifests and bundles without a pin are removed after that. If
    anything fails, nothing changes.

    Parameters
    ----------
    path
        The path of the lock file.
    requests
        The versions to pin, with their globs.
    store
        The store that has the versions.
    index
        The index of the store.
    remove
        Names of datasets whose pins are removed.
    progress
        Called with a description of each step.

    Yields
    ------
    Outcome
        The result for each version and each removed pin.

    Raises
    ------
    ConfigurationError
        The request is invalid.
    LockUnusableError
        The file is not a valid lock file.
    LockBusyError
        Another process is writing it.
    """
    names = [*(one.dataset for one in requests), *remove]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise model.ConfigurationError(
            f"{twice} is named twice; a lock file has one version per dataset (use a second lock "
            "file for another version)"
        )
    for request in requests:
        Globs(request.paths or ())
    rows = [(one, index.versions.resolve(one.dataset, one.label)) for one in requests]
    with exclusive_write(path) as folder:
        outcomes = _write(folder, path, rows, store, index, remove, progress)
    yield from outcomes


def _write(
    beside: SafeFolder,
    path: Path,
    rows: Sequence[tuple[PinRequest, VersionRow]],
    store: Store,
    index: Index,
    remove: Sequence[str],
    progress: MessageCallback,
) -> list[Outcome]:
    """Write the lock file, its manifests and bundles; the caller holds the lock for writing."""
    content, lock = read_lock_or_empty(path)
    pins = {dataset.name: dataset for dataset in lock.datasets}
    outcomes = remove_pins(pins, remove, path)
    kept: set[Path] = set()
    with ExitStack() as folders, ExitStack() as undo:
        for one, row in rows:
            old = pins.get(row.dataset_name)
            folder = folders.enter_context(own_folder(beside, lock, row.dataset_name))
            writer = _PinWriter(path.parent, folder, one, row, old, store, index, progress)
            undo.callback(writer.undo)
            new = writer.run()
            kept |= writer.files
            pins[new.name] = new
            latest = index.versions.resolve(row.dataset_name) if one.is_checked_out else row
            newer = None if latest.commit == row.commit else latest.label
            outcomes.append(pin_outcome(old, new, newer, writer.digests_summary))
        undo.pop_all()
    changed = [*(one.dataset for one, _ in rows), *remove]
    write_pins(beside, lock, content, pins, changed, kept)
    return outcomes


def remove_pins(pins: dict[str, Pin], names: Iterable[str], path: Path) -> list[Outcome]:
    """Remove pins, given by the names of their datasets; return the outcomes.

    Raises
    ------
    ConfigurationError
        The lock file, which is at ``path``, has no such pin.
    """
    outcomes = []
    for name in names:
        if pins.pop(name, None) is None:
            raise model.ConfigurationError(f"{path} has no pin of {name}; nothing was changed")
        outcomes.append(Outcome("pin", "ok", name, "removed from the lock file", name))
    return outcomes


def write_pins(
    beside: SafeFolder,
    lock: Lock,
    content: bytes,
    pins: Mapping[str, Pin],
    changed: Iterable[str],
    kept: set[Path],
) -> None:
    """Write the pins of a lock file, and remove the manifests and bundles without a pin.

    Parameters
    ----------
    beside
        The folder of the lock file.
    lock, content
        The lock file as it was, and its bytes.
    pins
        The new pins by the names of their datasets.
    changed
        The names of the datasets whose pins were written or removed.
    kept
        The manifests and bundles of the new pins.
    """
    written = dump_lock(Lock(lock.path, tuple(pins.values())), content)
    if written != content:
        write_atomically(lock.path, written)
    for name in changed:
        _remove_unused(beside, lock, name, kept)


def read_lock_or_empty(path: Path) -> tuple[bytes, Lock]:
    """Return the content of a lock file and its pins; both are empty if it does not exist."""
    try:
        content = read_lock_bytes(path)
    except FileNotFoundError:
        return b"", Lock(path)
    except IsADirectoryError as error:
        raise LockUnusableError(f"{path} is a folder; specify a file with --output") from error
    return content, parse_lock(path, content)


def own_folder(beside: SafeFolder, lock: Lock, name: str, *, create: bool = True) -> SafeFolder:
    """Open the folder beside a lock file that has the manifests and bundles of a dataset.

    Parameters
    ----------
    beside
        The folder of the lock file.
    lock
        The lock file.
    name
        The name of the dataset.
    create
        Whether to create the folder if it is missing.

    Raises
    ------
    UnsafePathError
        A component of the path is a symlink.
    """
    return beside.folder(lock.folder.name, model.alias_of(name), create=create)


def _remove_unused(beside: SafeFolder, lock: Lock, name: str, kept: set[Path]) -> None:
    """Remove a dataset's manifests and bundles except those in ``kept``, and empty folders."""
    try:
        with own_folder(beside, lock, name, create=False) as folder:
            for file in folder.names():
                if folder.path / file not in kept and _OWN_FILE_NAME.match(file):
                    folder.unlink(file)
            if folder.names():
                return
    except FileNotFoundError:
        return
    with beside.folder(lock.folder.name) as above:
        above.rmdir(model.alias_of(name))
        if above.names():
            return
    beside.rmdir(lock.folder.name)


def pin_outcome(old: Pin | None, new: Pin, latest: str | None, digests: str = "") -> Outcome:
    """Return the outcome of pinning a version, for the user.

    Parameters
    ----------
    old
        The previous pin of the dataset; None without one.
    new
        The new pin.
    latest
        The label of the latest version, if the pinned one is another because a clone has it checked
        out; otherwise None.
    digests
        A description of the block digests beside the lock file; empty without them.
    """
    requested = "" if new.requested == new.resolved.version else f" ({new.requested})"
    count = "1 file" if new.files == 1 else f"{new.files} files"
    message = f"{new.resolved.version}{requested}, {count}, {format_bytes(new.bytes)}"
    if old is not None and old.commit != new.commit:
        message += f", replaces {old.resolved.version}"
    if new.paths and not new.files:
        message += "; the paths are in git, and restored with each pin of the dataset"
    if digests:
        message += f", {digests}"
    if warning := _PERISHABLE.get(new.durability):
        message += f"; {new.durability.value}: {warning}"
    if latest is not None:
        message += f"; checked out in the clone (the latest version is {latest})"
    return Outcome(
        "pin",
        "notneeded" if old == new else "ok",
        new.name,
        message,
        dataset=new.name,
        version=new.resolved.version,
        size=new.bytes,
        latest=latest,
    )


class _PinTotals(Struct):
    """Counts of the pinned files of a version."""

    files: int = 0
    bytes: int = 0
    evidence_counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    retentions: set[model.Retention] = field(default_factory=set)
    _last: model.Retention | None = None

    def add(self, one: ListedFile, retention: model.Retention) -> None:
        self.files += 1
        self.bytes += one.size or 0
        # hashing enum members is slow for a million files
        self.evidence_counts[one.evidence._value_, one.checked] += 1
        if retention is not self._last:
            self.retentions.add(retention)
            self._last = retention

    def evidence(self) -> dict[model.Evidence, PinnedEvidence]:
        counts = {
            kind: PinnedEvidence(
                self.evidence_counts[kind.value, True], self.evidence_counts[kind.value, False]
            )
            for kind in model.Evidence
        }
        return {kind: one for kind, one in counts.items() if one.checked or one.claimed}

    def durability(self) -> model.Retention:
        """Return the weakest retention; the strongest if there is no file."""
        return next((one for one in RETENTION if one in self.retentions), model.Retention.PUBLISHED)


_FIELDS_OF_ROW: Final = ("commit", "annex_commit", "tree", "swhid", "state", "metadata")


class _PinWriter(Struct, eq=False):
    """Pins one version; ``files`` are the manifests and bundles that the pin refers to."""

    lock_dir: Path
    folder: SafeFolder
    request: PinRequest
    row: VersionRow
    old: Pin | None
    store: Store
    index: Index
    progress: MessageCallback
    files: set[Path] = field(default_factory=set)
    _new: set[Path] = field(default_factory=set)
    _totals: _PinTotals = field(default_factory=_PinTotals)
    _vaults: dict[str, dict[str, str]] = field(default_factory=dict)
    _digests: PinnedDigests | None = None
    _sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        streamable = self.request.streamable
        if streamable is None:
            streamable = self.old is not None and self.old.block_digests is not None
        self._digests = PinnedDigests(self.store) if streamable else None

    def undo(self) -> None:
        """Remove the files written so far."""
        for path in self._new:
            self.folder.unlink(path.name)

    def run(self) -> Pin:
        request, row, old = self.request, self.row, self.old
        paths = request.paths
        if paths is None:
            paths = () if old is None else old.paths
        bundle = request.bundle
        if bundle is None:
            bundle = old is not None and old.bundle is not None
        clones = () if old is None else old.clone
        if request.clones is not None:
            clones = clone_urls(request.clones, row.dataset_ref)
        globs = WatchedGlobs(paths)
        manifest = self._write_files(row, b"", globs, bundle=bundle)
        unmatched = [glob for glob, _ in globs.unmatched()]
        # a kept glob may have lost its files in a new version
        if unmatched and (request.paths is not None or len(unmatched) == len(paths)):
            raise model.ConfigurationError(
                f"{row.name}: no file matches {' or '.join(unmatched)}; "
                f"'neuromirror files {row.name}' lists the files"
            )
        digests = self._write_digests()
        here = self.lock_dir
        return Pin(
            name=row.dataset_name,
            requested=request.label,
            resolved=ResolvedVersion(row.label, row.doi),
            dataset_id=row.dataset_ref.dataset_id,
            source=row.source_uri,
            **{name: getattr(row, name) for name in _FIELDS_OF_ROW},
            manifest=manifest.relative_to(here).as_posix(),
            bundle=self._bundle_path(row).relative_to(here).as_posix() if bundle else None,
            block_digests=None if digests is None else digests.relative_to(here).as_posix(),
            sha256=tuple(f"{sha256}  {name}" for name, sha256 in self._sha256.items()),
            clone=clones,
            copies=pinned_vaults(self._vaults, () if old is None else old.copies),
            files=self._totals.files,
            bytes=self._totals.bytes,
            paths=paths,
            evidence=self._totals.evidence(),
            durability=self._totals.durability(),
        )

    @property
    def digests_summary(self) -> str:
        """Return a description of the block digests; empty without them."""
        return "" if self._digests is None else self._digests.summary()

    def _write_digests(self) -> Path | None:
        """Write the block digests of the pinned files."""
        if self._digests is None:
            return None
        self.progress(f"{self.row.name}, block digests")
        name, is_new = self._digests.write(self.folder)
        path = self.folder.path / name
        self.files.add(path)
        if is_new:
            self._new.add(path)
        return path

    def _bundle_path(self, row: VersionRow) -> Path:
        return self.folder.path / f"{row.commit}{BUNDLE_ENDING}"

    def _write_files(
        self, row: VersionRow, prefix: bytes, globs: WatchedGlobs, *, bundle: bool
    ) -> Path:
        """Write the manifest of a version, and those of its subdatasets with pinned files."""
        self.progress(f"{row.name}, {row.files} files")
        target = self.folder.path / f"{row.commit}{MANIFEST_ENDING}"
        self._record_needed(target)
        subdatasets = self._write(row, target, prefix, globs)
        if bundle:
            self.progress(f"{row.name}, bundle")
            self._record_needed(self._bundle_path(row))
            name = self._bundle_path(row).name
            known = None if self.old is None else self.old.sha256_by_name.get(name)
            self._sha256[name] = write_bundle(self.store, row, self.folder, name, known)
        for subdataset in subdatasets:
            inner = self.index.versions.resolve(subdataset.name, subdataset.commit)
            self._write_files(inner, prefix + subdataset.path.encode() + b"/", globs, bundle=bundle)
        return target

    def _record_needed(self, path: Path) -> None:
        self.files.add(path)
        if not path.exists():
            self._new.add(path)

    def _write(
        self, row: VersionRow, target: Path, prefix: bytes, globs: WatchedGlobs
    ) -> list[ListedSubdataset]:
        """Write one manifest; return the subdatasets that may have pinned files."""
        subdatasets: list[ListedSubdataset] = []
        dataset = row.dataset_ref
        repository = self.store.repositories.of(dataset)
        self._vaults |= published_vaults(self.store, dataset)
        with ObjectReader(repository.path) as reader:
            description = model.parse_description(
                reader.read(f"{row.commit}:{model.DESCRIPTION_PATH}"),
                f"{row.name}: {model.DESCRIPTION_PATH}",
            )
            head = _head(reader, row, description.get("form", "files"))
            with LockManifestWriter(self.folder, target.name, head) as writer:
                for name in description["documents"]:
                    globs.matches(prefix.decode() + name)  # in git, so part of every pin
                for name in plain_names(description):
                    writer.add_plain(name, reader.read(f"{row.commit}:{name}"))
                for line in stored_record_lines(self.store, row):
                    placed = model.load_snapshot_entry(line)
                    one = manifest_entry(placed, row.mirror, head.form)
                    writer.add(one)
                    path = (prefix + placed.git_path).decode()
                    if isinstance(one, ListedSubdataset):
                        if globs.reaches(path):
                            subdatasets.append(one)
                    elif globs.matches(path):
                        self._totals.add(one, placed.record.durability)
                        if self._digests is not None:
                            self._digests.add(one.key, one.size)
                self._sha256[target.name] = writer.finish()
        return subdatasets


def _head(reader: ObjectReader, row: VersionRow, form: str) -> LockManifestHead:
    commit = reader.read(row.commit).decode("utf-8")
    if commit.partition("\n")[0] != f"tree {row.tree}":
        raise model.NeuromirrorError(
            f"{row.name}: its tree is {row.tree} in the index and another one in the store; run "
            "'neuromirror rebuild-index'"
        )
    return LockManifestHead(
        manifest=MANIFEST_VERSION,
        dataset=row.dataset_name,
        dataset_id=row.dataset_ref.dataset_id,
        source=row.source_uri,
        version=row.label,
        commit=row.commit,
        tree=row.tree,
        state=row.state,
        form=form,
        commit_object=commit,
        remotes=_text(reader, row.annex_commit, "remote.log"),
        names=_text(reader, row.annex_commit, "uuid.log"),
        trust=_text(reader, row.annex_commit, "trust.log"),
    )


def _text(reader: ObjectReader, commit: str, name: str) -> str:
    return (reader.find(commit, name) or b"").decode("utf-8")


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
        query = [("add", name) for name in self.names] + [("path", path) for path in self.paths]
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
    NeuromirrorError
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
        raise model.NeuromirrorError(
            f"{request.base}: the response is not a lock file: {error}"
        ) from error
    except model.ConfigurationError:
        raise
    except model.NeuromirrorError as error:
        raise model.NeuromirrorError(
            f"{', '.join(request.names)}: {request.base} cannot provide a lock file: {error}"
        ) from error
    if [one.name for one in lock.datasets] != [name.partition("@")[0] for name in request.names]:
        raise model.NeuromirrorError(
            f"{request.base}: its lock file has other datasets than requested"
        )
    for pinned in lock.datasets:
        if pinned.manifest != _manifest_name(Path(_LOCK), pinned):
            raise model.NeuromirrorError(
                f"{request.base}: its lock file has an unexpected manifest, {pinned.manifest!r}"
            )
        for item in pinned_items(lock, pinned):
            if isinstance(item, Finding) and item.failed:
                raise model.NeuromirrorError(
                    f"{request.base}: its manifest of {pinned.version} is damaged: {item.message}"
                )
    return lock


def _save(chunks: Iterator[bytes | memoryview], archive: Path, base: str) -> None:
    received = 0
    with archive.open("xb") as file:
        for chunk in chunks:
            received += len(chunk)
            if received > _MAX_BYTES:
                raise model.NeuromirrorError(
                    f"{base}: the lock file has more than {_MAX_BYTES} bytes"
                )
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
        for member in members:
            pieces = member.filename.split("/")
            is_manifest = (
                len(pieces) == 3
                and pieces[0] == f"{_LOCK}.d"
                and pieces[1] not in ("", ".", "..")
                and pieces[2].endswith(MANIFEST_ENDING)
            )
            if member.filename != _LOCK and not is_manifest:
                raise zipfile.BadZipFile(f"it has an unexpected member, {member.filename[:100]!r}")
            target = folder.joinpath(*pieces)
            target.parent.mkdir(parents=True, exist_ok=True)
            with found.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)


def _merge(
    beside: SafeFolder,
    path: Path,
    fetched: Sequence[Lock],
    clones: Sequence[str] | None,
    remove: Sequence[str],
) -> list[Outcome]:
    """Add the fetched pins to the lock file; the caller holds the lock for writing."""
    content, lock = read_lock_or_empty(path)
    pins = {dataset.name: dataset for dataset in lock.datasets}
    outcomes = remove_pins(pins, remove, path)
    kept: set[Path] = set()
    changed = list(remove)
    for source in fetched:
        for found in source.datasets:
            if found.name in changed:
                raise model.ConfigurationError(
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
        for name, sha256 in one.sha256_by_name.items():
            draft, handle = folder.new_file(0o644)
            try:
                with open(handle, "wb") as file:
                    copy_beside(source.manifest_path(one).with_name(name), sha256, file)
                folder.replace(draft, folder, name)
            finally:
                folder.unlink(draft)
            copied.add(folder.path / name)
    return copied


_DRAFT = "draft"


def find_outdated(lock: Lock, index: Index) -> Iterator[Outcome]:
    """Compare each pin with the newest version of its dataset.

    A pin of a draft is compared with the newest state of the draft, any other with the newest
    published version (with the newest observed one if nothing is published).

    Parameters
    ----------
    lock
        The lock file.
    index
        The index with the newest versions.

    Yields
    ------
    Outcome
        ``newer`` is whether there is a newer version, which ``version`` names. The status is
        ``impossible``, and ``newer`` None, if the index lacks the dataset or the pinned version.
    """
    for pin in lock.datasets:
        try:
            newest = index.versions.resolve(
                pin.name, _DRAFT if pin.requested == _DRAFT else "latest"
            )
            pinned = index.versions.resolve(pin.name, pin.commit)
        except (UnknownMirrorError, UnknownDatasetError, UnknownVersionError) as error:
            label = pin.resolved.version
            yield Outcome("outdated", "impossible", pin.name, str(error), pin.name, label)
            continue
        if newest.seq <= pinned.seq:
            message, label, newer = f"{pinned.label} is the newest", pinned.label, False
        else:
            what = "other files" if newest.state != pinned.state else "the same files"
            if newest.state == pinned.state and newest.metadata != pinned.metadata:
                what += ", different metadata"
            is_dated, recorded = newest.upstream_time, newest.recorded_at
            when = f"from {newest.time}" if is_dated else f"observed {recorded}"
            message = f"{pinned.label} is pinned, {newest.label} {when} is newer: {what}"
            label, newer = newest.label, True
        yield Outcome("outdated", "ok", pin.name, message, pin.name, label, newer=newer)
