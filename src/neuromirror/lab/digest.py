"""Compute the block digests of the files of versions, lock files and clones.

Each file is read once, from its URLs or from a clone, hashed and not kept. Files that have block
digests, or that need none, are not read, so that an interrupted run can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct, field

from neuromirror.index import Index, VersionRow
from neuromirror.lab.globs import WatchedGlobs
from neuromirror.lab.lock_manifests import (
    ListedSubdataset,
    PinnedState,
    manifest_entry,
    stored_record_lines,
)
from neuromirror.lab.lockfile import Lock
from neuromirror.lab.verify import (
    PinnedCounts,
    manifest_item,
    open_url_sessions,
    walk,
    walk_manifest,
)
from neuromirror.model import ConfigurationError, load_snapshot_entry, path_to_text
from neuromirror.model.block_digests import MAX_CONTENT_SIZE
from neuromirror.store import Store
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from neuromirror.transfer.content_bodies import key_checksum
from neuromirror.transfer.outcomes import Finding, Outcome, Status
from neuromirror.transfer.url_health import check_urls
from neuromirror.transfer.verified_repository import (
    Item,
    MultipartEtag,
    NotADatasetError,
    PinnedFile,
    VerifiedRepository,
    VerifyScope,
)
from neuromirror.transfer.work_tree import WorkTreeInspector

JOBS = 8
"""Default number of concurrent downloads."""
_RECORDED = "its block digests are recorded"
_TOO_LARGE = f"a file of more than {MAX_CONTENT_SIZE >> 40} TiB cannot have block digests"


class DigestOutcome(Outcome, frozen=True):
    """The outcome of ``digest`` for one file or URL.

    Attributes
    ----------
    sha256
        The sha256 of the content in hex; None if no digests were computed.
    root
        The root of the hash tree in hex; None likewise.
    piece_size
        Size of a piece in bytes; None likewise.
    """

    sha256: str | None = None
    root: str | None = None
    piece_size: int | None = None


class DigestPlan(Struct):
    """The files whose block digests are to be computed, from :func:`plan_digests`.

    Attributes
    ----------
    files
        The files to read, each with the name of its dataset and the label of its version.
    known
        Outcomes that are known without reading: for files whose digests are recorded, and for
        damaged manifests or records.
    bytes
        Total size of the files to read.
    small
        Number of files of one piece, which need no block digests.
    """

    files: list[tuple[str, str, PinnedFile]] = field(default_factory=list)
    known: list[DigestOutcome] = field(default_factory=list)
    bytes: int = 0
    small: int = 0


def plan_digests(
    items: Iterable[tuple[str, str, Item]], digests: BlockDigestsRecorder
) -> DigestPlan:
    """Select the files whose block digests are needed.

    Parameters
    ----------
    items
        Dataset, label, and a file or a finding, from :func:`files_of_lock` or
        :func:`files_of_version`.
    digests
        Looks up the digests that are recorded already.

    Returns
    -------
    DigestPlan
        The files to read; each content once.
    """
    plan = DigestPlan()
    seen: set[str] = set()
    for dataset, label, item in items:
        if isinstance(item, Finding):
            if item.failed:
                plan.known.append(_outcome(item.for_version(dataset, label), digests))
            continue
        size = key_checksum(item.key).size
        status: Status = "impossible"
        message = _TOO_LARGE
        if not digests.is_useful(item.key, size):
            plan.small += 1
            continue
        if size is None or size <= MAX_CONTENT_SIZE:
            if item.key in seen:
                continue
            seen.add(item.key)
            if item.parts is not None:
                digests.expect_parts(item.key, item.parts)
            if not digests.is_recorded(item.key, size):
                plan.files.append((dataset, label, item))
                plan.bytes += size or 0
                continue
            status, message = "notneeded", _RECORDED
        path = path_to_text(item.path)
        found = Finding(status=status, path=path, key=item.key, size=size, message=message)
        plan.known.append(_outcome(found.for_version(dataset, label), digests))
    return plan


def run_digests(
    plan: DigestPlan,
    digests: BlockDigestsRecorder,
    *,
    jobs: int = JOBS,
    token: Callable[[str], str | None] | None = None,
) -> Iterator[DigestOutcome]:
    """Download the files of a plan, verify them with their keys, and record their block digests.

    Parameters
    ----------
    plan
        The plan.
    digests
        Computes and writes the digests.
    jobs
        Number of concurrent downloads.
    token
        Returns the token for a volume host, or None.

    Yields
    ------
    DigestOutcome
        An outcome per file, and one per URL with wrong bytes or without any.
    """
    with closing(open_url_sessions(token)) as sessions:
        versions = {file.key: (dataset, label) for dataset, label, file in plan.files}
        files = (file for _, _, file in plan.files)
        findings = check_urls(files, sessions, jobs=jobs, full=True, digests=digests)
        for found in findings:
            assert found.key is not None
            yield _outcome(found.for_version(*versions[found.key]), digests)


def planned_outcome(dataset: str, label: str, file: PinnedFile) -> DigestOutcome:
    """Return the outcome that a dry run reports for a file of a plan.

    Parameters
    ----------
    dataset, label
        The version.
    file
        The file.

    Returns
    -------
    DigestOutcome
        The outcome, without digests.
    """
    path, size = path_to_text(file.path), key_checksum(file.key).size
    of_version = (dataset, label, file.key, size)
    return DigestOutcome("digest", "ok", path, "would be read", *of_version)


def digest_clone(
    folder: Path, globs: Sequence[str], digests: BlockDigestsRecorder, *, jobs: int
) -> Iterator[DigestOutcome]:
    """Record the block digests of the content that is in a clone and its subdatasets.

    Parameters
    ----------
    folder
        A folder in the clone.
    globs
        Globs that select files; empty for all.
    digests
        Computes and writes the digests.
    jobs
        Number of files that are read in parallel.

    Yields
    ------
    DigestOutcome
        An outcome per file whose content is here; ``notneeded`` if its digests are recorded or it
        needs none.

    Raises
    ------
    NotADatasetError
        The folder is not a clone with a work tree.
    """
    selected = WatchedGlobs(globs)
    scope = VerifyScope(
        is_selected=lambda path: selected.matches(path_to_text(path)),
        reaches=lambda path: selected.reaches(path_to_text(path)),
        missing_status="notneeded",
    )
    with VerifiedRepository.at(folder) as clone:
        if clone.work_tree is None:
            raise NotADatasetError(f"{clone.git_dir} is a bare repository: it has no work tree")
        inspector = WorkTreeInspector(scope, jobs, digests)
        for found in walk(inspector, scope, clone, PinnedState(clone.head())):
            if isinstance(found, Finding) and (
                found.kind == "file" or (found.failed and found.kind in ("commit", "tree"))
            ):
                yield _outcome(found, digests)
    for found in _unmatched(selected):
        yield _outcome(found, digests)


def files_of_lock(lock: Lock, globs: Sequence[str]) -> Iterator[tuple[str, str, Item]]:
    """Yield the pinned files of a lock file, from the manifests beside it.

    Parameters
    ----------
    lock
        The lock file.
    globs
        Globs that select files; empty for all.

    Yields
    ------
    tuple of (str, str, Item)
        Dataset, label, and the file, or a finding about its manifest.
    """
    selected = WatchedGlobs(globs)
    for pin in lock.datasets:
        scope = VerifyScope(
            is_selected=lambda path, pin=pin: (  # type: ignore[misc]
                pin.matches(path) and selected.matches(path_to_text(path))
            ),
            reaches=lambda path, pin=pin: (  # type: ignore[misc]
                pin.reaches(path) and selected.reaches(path_to_text(path))
            ),
        )
        for item in walk_manifest(scope, PinnedState.of_pin(lock, pin), PinnedCounts()):
            yield pin.name, pin.resolved.version, item
    for finding in _unmatched(selected):
        yield "", "", finding


def files_of_version(
    store: Store, index: Index, row: VersionRow, globs: Sequence[str]
) -> Iterator[tuple[str, str, Item]]:
    """Yield the files of a version and its subdatasets, from the records of the store.

    Parameters
    ----------
    store
        The store.
    index
        Its index.
    row
        The version.
    globs
        Globs that select files; empty for all.

    Yields
    ------
    tuple of (str, str, Item)
        Dataset, label, and the file, or a finding about its record.
    """
    for _, item in files_by_dataset(store, index, row, globs):
        yield row.dataset_name, row.label, item


def files_by_dataset(
    store: Store, index: Index, row: VersionRow, globs: Sequence[str]
) -> Iterator[tuple[VersionRow, Item]]:
    """Yield the files of a version and its subdatasets, each with the version that has it itself.

    Parameters
    ----------
    store
        The store.
    index
        Its index.
    row
        The version.
    globs
        Globs that select files; empty for all.

    Yields
    ------
    tuple of (VersionRow, Item)
        The version of the dataset or subdataset, and the file, whose path starts at the outermost
        dataset, or a finding about its record.
    """
    selected = WatchedGlobs(globs)
    waiting = [(row, b"")]
    while waiting:
        one, below = waiting.pop()
        for line in stored_record_lines(store, one):
            placed = load_snapshot_entry(line)
            entry = manifest_entry(placed, one.mirror, "files")
            path = below + entry.path.encode()
            if not isinstance(entry, ListedSubdataset):
                if selected.matches(path.decode()):
                    item = manifest_item(entry, path)
                    if isinstance(item, PinnedFile):
                        etag, size = placed.record.digest("etag"), placed.record.part_size
                        if etag is not None and size is not None and "-" in etag.value:
                            item = item._replace(parts=MultipartEtag(etag.value, size))
                    yield one, item
            elif selected.reaches(path.decode()):
                waiting.append((index.versions.resolve(entry.name, entry.commit), path + b"/"))
    for finding in _unmatched(selected):
        yield row, finding


def _unmatched(globs: WatchedGlobs) -> Iterator[Finding]:
    for glob, message in globs.unmatched():
        yield Finding(status="error", path=glob, message=message)


def check_piece_size(text: str) -> int:
    """Return the piece size that a user specified, such as ``256KiB``.

    Parameters
    ----------
    text
        A size as for :func:`neuromirror.cache.parse_size`.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    ConfigurationError
        It is not the size of a piece.
    """
    from neuromirror.cache import parse_size
    from neuromirror.model.block_digests import LEAF_SIZE, MAX_PIECE_SIZE

    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if not LEAF_SIZE <= size <= MAX_PIECE_SIZE or size & (size - 1):
        raise ConfigurationError(
            f"{text[:40]!r} is not the size of a piece; choose a power of two from 16KiB to 64MiB"
        )
    return size


def _outcome(found: Finding, digests: BlockDigestsRecorder) -> DigestOutcome:
    known = None if found.failed or found.key is None else digests.find(found.key)
    fields = {name: getattr(found, name) for name in Outcome.__struct_fields__}
    if known is not None:
        fields |= {"sha256": known.sha256, "root": known.root.hex()}
        fields["piece_size"] = known.piece_size
    return DigestOutcome(**fields | {"action": "digest"})
