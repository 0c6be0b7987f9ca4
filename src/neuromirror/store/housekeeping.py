"""Housekeeping: consolidate and compress the packs of the store's repositories.

A mint writes one or two uncompressed packs per version. Housekeeping replaces them by fewer and
smaller packs. Refs and object ids stay, and no object is dropped, reachable or not. Packs are
retired (:mod:`neuromirror.store.repack`) only after a check that the new pack has all their
objects, so a retired pack can be deleted at any later time, whatever was minted in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from neuromirror.git.packs import PackSize, pack_bytes, pack_size
from neuromirror.model import NeuromirrorError
from neuromirror.store.errors import StoreBusyError, StoreDamagedError
from neuromirror.store.repack import (
    MULTI_PACK_INDEX,
    PACK_SUFFIXES,
    HousekeepingPolicy,
    PackRecord,
    consolidate,
    delete_packs,
    is_multi_pack_index_stale,
    is_pack_list_current,
    pack_names,
    update_multi_pack_index,
    write_pack_list,
)
from neuromirror.store.repository import Repository
from neuromirror.store.store import Store

_FOREIGN_SUFFIXES = (".keep", ".promisor", ".mtimes")


class HousekeepingResult(Struct, frozen=True):
    """The result for one repository, as in a DataLad result record.

    Attributes
    ----------
    alias
        The dataset's alias.
    status
        ``ok``, ``notneeded``, ``impossible`` (the dataset is being visited) or ``error``.
    message
        A sentence for the user.
    packs_before, packs_after
        Number of packs in use.
    bytes_before, bytes_after
        Bytes of these packs and their indexes.
    retired_bytes
        Bytes of the retired packs.
    deleted
        Number of deleted packs.
    """

    alias: str
    status: str
    message: str
    packs_before: int = 0
    packs_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    retired_bytes: int = 0
    deleted: int = 0


class _RepackPlan(Struct, frozen=True):
    """The work to do in a repository: packs to consolidate, packs and files to delete.

    ``is_list_stale`` and ``is_index_stale``: the list of packs for plain HTTP, or the multi-pack
    index, does not match the packs in use, since a run was killed or a visit added packs.
    """

    in_use: list[PackSize]
    retired_bytes: int
    packs_to_join: list[PackSize]
    expired_packs: list[str]
    stale_files: list[Path]
    is_list_stale: bool
    is_index_stale: bool
    record: PackRecord

    def __bool__(self) -> bool:
        files = self.packs_to_join or self.expired_packs or self.stale_files
        return bool(files or self.is_list_stale or self.is_index_stale)


def run_housekeeping(
    store: Store,
    aliases: Iterable[str] | None = None,
    policy: HousekeepingPolicy | None = None,
    *,
    dry_run: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[HousekeepingResult]:
    """Consolidate the packs of repositories one by one; yield the result for each.

    A dataset that is being visited is skipped. A failure changes nothing in its repository, and
    the next one follows.

    Parameters
    ----------
    store
        The store.
    aliases
        The aliases of the datasets; None for all.
    policy
        When packs are consolidated and deleted.
    dry_run
        Report the work without doing it.
    clock
        Returns the current time.

    Yields
    ------
    HousekeepingResult
        The result for a repository.
    """
    selected = None if aliases is None else set(aliases)
    done: set[Path] = set()
    with ExitStack() as stack:
        # creating it also removes the scratch folder of a killed run
        scratch = None if dry_run else stack.enter_context(store.scratch())
        for alias, repository in store.repositories.aliases():
            if repository.path in done or (selected is not None and alias not in selected):
                continue
            done.add(repository.path)
            try:
                yield _maintain(
                    store, alias, repository, policy or HousekeepingPolicy(), clock(), scratch
                )
            except (NeuromirrorError, OSError) as error:
                yield HousekeepingResult(alias, "error", f"{alias}: {error}")


def _maintain(
    store: Store,
    alias: str,
    repository: Repository,
    policy: HousekeepingPolicy,
    now: datetime,
    scratch: Path | None,
) -> HousekeepingResult:
    """Do the work for one repository; without a scratch folder only report it."""
    if not repository.exists():
        raise StoreDamagedError(
            f"{repository.path} is not a repository; restore it from a backup, or remove the alias"
        )
    try:
        work = _plan(repository.path, policy, now)
    except FileNotFoundError as error:
        return HousekeepingResult(
            alias, "impossible", f"busy: {error.filename} was removed meanwhile"
        )
    if scratch is None or not work:
        return _result(alias, work, work, dry_run=scratch is None)
    name = repository.path.parent.name + repository.path.name
    with ExitStack() as stack:
        try:
            stack.enter_context(store.lock(name, alias))
        except StoreBusyError as error:
            return HousekeepingResult(alias, "impossible", f"busy: {error}")
        # a visit may have changed the repository before the lock was taken
        work = _plan(repository.path, policy, now)
        repository.remove_stale_files()
        # before repacking: the new pack may get the name of an incomplete leftover
        for path in work.stale_files:
            path.unlink(missing_ok=True)
        record = work.record
        if work.packs_to_join:
            names = [pack.name for pack in work.packs_to_join]
            record = consolidate(repository.path, scratch, names, record, policy, now)
        if not is_pack_list_current(repository.path):
            write_pack_list(repository.path)
        update_multi_pack_index(repository.path, scratch, record, policy)
        delete_packs(
            repository.path,
            [name for name in work.expired_packs if name in record.retired_packs],
            record,
        )
    return _result(alias, work, _plan(repository.path, policy, now), dry_run=False)


def _result(
    alias: str, before: _RepackPlan, after: _RepackPlan, *, dry_run: bool
) -> HousekeepingResult:
    parts = []
    if before.packs_to_join:
        size = sum(pack.bytes for pack in before.in_use)
        smaller = "" if dry_run else f", {size:,} bytes to {sum(p.bytes for p in after.in_use):,}"
        count = f"{len(before.in_use)} packs"
        parts.append(
            f"{len(before.packs_to_join)} of {count} would become one"
            if dry_run
            else f"{count} became {len(after.in_use)}{smaller}"
        )
    if before.expired_packs:
        parts.append(
            f"{len(before.expired_packs)} retired packs {'to delete' * dry_run or 'deleted'}"
        )
    if before.stale_files:
        parts.append(f"{len(before.stale_files)} leftovers {'to delete' * dry_run or 'deleted'}")
    if not parts and (before.is_list_stale or before.is_index_stale):
        parts.append(f"lists of packs {'to write' * dry_run or 'written'}")
    return HousekeepingResult(
        alias,
        "ok" if before else "notneeded",
        "; ".join(parts) or "nothing to do",
        len(before.in_use),
        len(after.in_use),
        sum(pack.bytes for pack in before.in_use),
        sum(pack.bytes for pack in after.in_use),
        after.retired_bytes,
        0 if dry_run else len(before.expired_packs),
    )


def _plan(repository: Path, policy: HousekeepingPolicy, now: datetime) -> _RepackPlan:
    """Return the work to do, from names and sizes of files alone."""
    folder = repository / "objects" / "pack"
    record = PackRecord.load(repository)
    names = pack_names(repository)
    in_use = [pack_size(folder, name) for name in names if name not in record.retired_packs]
    expired = [name for name, at in record.retired_packs.items() if now - at >= policy.grace_period]
    paired = {f"{name}{suffix}" for name in names for suffix in PACK_SUFFIXES}
    old = (now - policy.grace_period).timestamp()
    stale_files = [
        path
        for path in sorted((*folder.glob("*"), *repository.glob("objects/info/*")))
        if path.name.startswith(("tmp_", ".new-", f"{MULTI_PACK_INDEX}.lock"))
        or (path.suffix in (".pack", ".idx", ".rev") and path.name not in paired)
        if _modified_at(path) <= old
    ]
    retired_bytes = sum(pack_bytes(folder, name) for name in names if name in record.retired_packs)
    movable = [
        pack
        for pack in in_use
        if not any((folder / f"{pack.name}{suffix}").exists() for suffix in _FOREIGN_SUFFIXES)
    ]
    return _RepackPlan(
        in_use,
        retired_bytes,
        _select_packs(movable, record.consolidated_packs, policy),
        expired,
        stale_files,
        not is_pack_list_current(repository),
        is_multi_pack_index_stale(folder, in_use, record.consolidated_packs, policy),
        record,
    )


def _modified_at(path: Path) -> float:
    """Return a file's mtime in seconds; infinity where the file is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _select_packs(
    packs: list[PackSize], consolidated: frozenset[str], policy: HousekeepingPolicy
) -> list[PackSize]:
    """Return the packs to consolidate: all new ones, if they are large enough, and small old ones.

    A consolidated pack is included while it has less than twice the objects of the packs before it.
    So sizes stay in a geometric progression, and an object is repacked only a few times.
    """
    join = [pack for pack in packs if pack.name not in consolidated]
    if len(join) <= policy.max_packs and sum(pack.bytes for pack in join) < policy.max_bytes:
        return []
    objects = sum(pack.objects for pack in join)
    for pack in sorted((p for p in packs if p.name in consolidated), key=lambda p: p.objects):
        if pack.objects >= 2 * objects:
            break
        join.append(pack)
        objects += pack.objects
    return join
