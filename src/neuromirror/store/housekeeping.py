"""Packs consolidated and compressed, off the hot path.

A mint writes its packs in stored blocks, one or two a version. Here git makes fewer and smaller
ones of them, and nothing else changes: no ref, no object id, and no object ever goes, reachable or
not. The new pack is shown to hold every object of the packs it stands for before they are retired
(:mod:`neuromirror.store.retired_packs`), so that each retired pack can go at any later time,
whatever
was minted in between.

Git does its work in a scratch folder that borrows the repository's objects: a process that dies,
or a git that outlives it, leaves nothing half done in the repository.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from neuromirror.git import try_git
from neuromirror.git.pack_indexes import (
    PackIndex,
    PackSize,
    multi_pack_index_names,
    pack_bytes,
    pack_size,
)
from neuromirror.model import NeuromirrorError
from neuromirror.store.durable_files import UMASK, fsync_path
from neuromirror.store.errors import StoreBusyError, StoreDamagedError
from neuromirror.store.repository import Repository
from neuromirror.store.retired_packs import (
    PackRecord,
    is_pack_list_current,
    pack_names,
    write_pack_list,
)
from neuromirror.store.store import Store

_FOREIGN_SUFFIXES = (".keep", ".promisor", ".mtimes")
_PACK_SUFFIXES = (".idx", ".rev", ".bitmap", ".pack")
_MIDX = "multi-pack-index"
# What one mint writes has nothing to be a delta of: looking for it doubles the time for nothing.
_PACKS_OF_ONE_MINT = 2

# Whatever the person's own configuration says. Less memory is mapped at a time than git would.
_GIT_OPTIONS = (
    *("-c", "core.packedGitLimit=64m", "-c", "core.packedGitWindowSize=8m"),
    *("-c", "pack.packSizeLimit=0", "-c", "pack.writeReverseIndex=false"),
    *("-c", "pack.compression=6", "-c", "core.multiPackIndex=true"),
)


class RepackError(NeuromirrorError):
    """Git could not make a pack of a repository's packs, or made one that lacks something."""


@dataclass(frozen=True, slots=True)
class HousekeepingPolicy:
    """When packs are worth the work, and how long a retired one stays.

    Packs that housekeeping has not made yet are left alone while they are at most ``packs`` and
    hold less than ``bytes``. ``min_bitmap_objects`` is from how many objects on a repository gets a
    multi-pack index with a bitmap, which a smart server counts objects by.
    """

    grace_period: timedelta = timedelta(days=1)
    max_packs: int = 10
    max_bytes: int = 1 << 20
    min_bitmap_objects: int = 10_000
    threads: int = 2


@dataclass(frozen=True, slots=True)
class HousekeepingResult:
    """How one repository fared, in DataLad's words.

    ``status`` is ok | notneeded | impossible (busy) | error. Packs and bytes are of packs and
    their indexes: in use, and ``retired_bytes`` of those that wait for their end.
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


@dataclass(frozen=True, slots=True)
class _RepackPlan:
    """What there is to do: packs to make one of, retired packs and leftovers to delete.

    ``unlisted`` and ``unindexed`` say that the list for plain HTTP, or the multi-pack index, is not
    of the packs in use: a run was killed before it came to that, or a visit came after it.
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
    rules: HousekeepingPolicy | None = None,
    *,
    dry_run: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[HousekeepingResult]:
    """Consolidates the repositories behind ``aliases`` (None: all), one after the other.

    Yields how each fared. A dataset that is visited just now is passed over, and one that fails
    keeps all it has; the others go on. ``dry_run`` says what would be done, and writes nothing.
    """
    selected = None if aliases is None else set(aliases)
    done: set[Path] = set()
    with ExitStack() as stack:
        # this removes, too, what a killed run left there
        scratch = None if dry_run else stack.enter_context(store.scratch())
        for alias, repository in store.aliases():
            if repository.path in done or (selected is not None and alias not in selected):
                continue
            done.add(repository.path)
            try:
                yield _maintain(
                    store, alias, repository, rules or HousekeepingPolicy(), clock(), scratch
                )
            except (NeuromirrorError, OSError) as error:
                yield HousekeepingResult(alias, "error", f"{alias}: {error}")


def _maintain(
    store: Store,
    alias: str,
    repository: Repository,
    rules: HousekeepingPolicy,
    now: datetime,
    scratch: Path | None,
) -> HousekeepingResult:
    """Does what there is to do for one repository; without a scratch folder only says it."""
    if not repository.exists():
        raise StoreDamagedError(
            f"{repository.path} is no repository; restore it from a backup, or remove the alias"
        )
    try:
        work = _plan(repository.path, rules, now)
    except FileNotFoundError as error:
        return HousekeepingResult(
            alias, "impossible", f"busy: {error.filename} went away meanwhile"
        )
    if scratch is None or not work:
        return _result(alias, work, work, dry_run=scratch is None)
    name = repository.path.parent.name + repository.path.name
    with ExitStack() as stack:
        try:
            stack.enter_context(store.lock(name, alias))
        except StoreBusyError as error:
            return HousekeepingResult(alias, "impossible", f"busy: {error}")
        # what was seen without the lock may be another visit's past
        work = _plan(repository.path, rules, now)
        repository.remove_stale_files()
        # now, and not later: the new pack may get the name of one that was left half in place
        for path in work.stale_files:
            path.unlink(missing_ok=True)
        record = work.record
        if work.packs_to_join:
            record = _consolidate(repository.path, scratch, work, rules, now)
        if not is_pack_list_current(repository.path):
            write_pack_list(repository.path)
        _update_multi_pack_index(repository.path, scratch, record, rules)
        _delete_packs(
            repository.path,
            [name for name in work.expired_packs if name in record.retired_packs],
            record,
        )
    return _result(alias, work, _plan(repository.path, rules, now), dry_run=False)


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


def _plan(repository: Path, rules: HousekeepingPolicy, now: datetime) -> _RepackPlan:
    """What there is to do, by names and sizes of files alone."""
    folder = repository / "objects" / "pack"
    record = PackRecord.load(repository)
    names = pack_names(repository)
    in_use = [pack_size(folder, name) for name in names if name not in record.retired_packs]
    expired = [name for name, at in record.retired_packs.items() if now - at >= rules.grace_period]
    paired = {f"{name}{suffix}" for name in names for suffix in _PACK_SUFFIXES}
    old = (now - rules.grace_period).timestamp()
    stale_files = [
        path
        for path in sorted((*folder.glob("*"), *repository.glob("objects/info/*")))
        if path.name.startswith(("tmp_", ".new-", f"{_MIDX}.lock"))
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
        _select_packs(movable, record.consolidated_packs, rules),
        expired,
        stale_files,
        not is_pack_list_current(repository),
        _is_multi_pack_index_stale(folder, in_use, record.consolidated_packs, rules),
        record,
    )


def _modified_at(path: Path) -> float:
    """When a file was written, in seconds; never, where it has gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _select_packs(
    packs: list[PackSize], made: frozenset[str], rules: HousekeepingPolicy
) -> list[PackSize]:
    """All packs that a mint wrote, if there is enough in them, and older ones by size.

    Those that were made here join while they hold less than twice what is before them, so that
    sizes stay in a geometric progression and an object is packed anew a few times in its life.
    """
    join = [pack for pack in packs if pack.name not in made]
    if len(join) <= rules.max_packs and sum(pack.bytes for pack in join) < rules.max_bytes:
        return []
    objects = sum(pack.objects for pack in join)
    for pack in sorted((p for p in packs if p.name in made), key=lambda p: p.objects):
        if pack.objects >= 2 * objects:
            break
        join.append(pack)
        objects += pack.objects
    return join


def _consolidate(
    repository: Path, scratch: Path, work: _RepackPlan, rules: HousekeepingPolicy, now: datetime
) -> PackRecord:
    """Makes one pack of many, shows that it holds what they hold, and retires them."""
    target = repository / "objects" / "pack"
    old = [pack.name for pack in work.packs_to_join]
    with _borrowed_objects(repository, scratch / "repack", None) as folder:
        name = _write_pack(repository, folder, old, rules)
        _run_git(repository, folder, ("verify-pack", f"{folder / name}.idx"))
        _check_contains(folder / f"{name}.idx", [target / f"{one}.idx" for one in old])
        for suffix in (".pack", ".idx"):
            made = folder / f"{name}{suffix}"
            made.chmod(0o444)
            fsync_path(made)
            os.replace(made, target / made.name)
    fsync_path(target)
    there = set(pack_names(repository))
    record = PackRecord(
        (work.record.consolidated_packs | {name}) & there,
        {
            one: at
            for one, at in (work.record.retired_packs | dict.fromkeys(old, now)).items()
            if one != name
        },
    )
    record.save(repository)
    return record


def _write_pack(
    repository: Path, folder: Path, names: Sequence[str], rules: HousekeepingPolicy
) -> str:
    window = 0 if len(names) <= _PACKS_OF_ONE_MINT else 10
    command = (
        *("pack-objects", "--stdin-packs", "-q", "--delta-base-offset", "--window-memory=64m"),
        # entries that are taken as they are would stay stored: all are compressed anew
        *("--no-reuse-object", f"--threads={rules.threads}"),
        *(f"--window={window}", "--depth=10", str(folder / "pack")),
    )
    printed = _run_git(repository, folder, command, "".join(f"{name}.pack\n" for name in names))
    name = f"pack-{printed.strip()}"
    if not (folder / f"{name}.idx").exists():
        raise RepackError(f"git pack-objects wrote no pack for {repository}; nothing was changed")
    return name


@contextmanager
def _borrowed_objects(
    repository: Path, directory: Path, packs: Iterable[str] | None
) -> Iterator[Path]:
    """The pack folder of a new object store, with the repository's objects to read.

    Those are all of it, or only the ``packs`` named, which then look like the folder's own.
    """
    folder = directory / "pack"
    folder.mkdir(parents=True)
    source = (repository / "objects").absolute()
    if packs is None:
        (directory / "info").mkdir()
        (directory / "info" / "alternates").write_bytes(os.fsencode(source) + b"\n")
    for name in packs or ():
        for suffix in (".pack", ".idx"):
            (folder / f"{name}{suffix}").symlink_to(source / "pack" / f"{name}{suffix}")
    try:
        yield folder
    finally:
        shutil.rmtree(directory)


def _run_git(repository: Path, folder: Path, command: Sequence[str], lines: str = "") -> str:
    """What a git command printed that writes to the object store of ``folder``."""
    done = try_git(
        repository,
        *_GIT_OPTIONS,
        *command,
        stdin=lines,
        environment={"GIT_OBJECT_DIRECTORY": str(folder.parent)},
        umask=UMASK,
    )
    if done.returncode:
        message = done.stderr.strip() or f"exit code {done.returncode}"
        raise RepackError(
            f"'git {command[0]}' failed for {repository}: {message}. Nothing was changed; if this "
            f"stays so, check the repository with 'git -C {repository} fsck'"
        )
    return done.stdout


def _check_contains(index: Path, others: Sequence[Path]) -> None:
    """Raises RepackError unless a pack index names every object that the others name."""
    for path in others:
        if lacking := _first_missing(path, [index]):
            raise RepackError(
                f"git left object {lacking.hex()} of {path} out of its new pack; nothing changed"
            )


def _first_missing(index: Path, others: Sequence[Path]) -> bytes | None:
    """An object that a pack index names and none of the others; None without one."""
    with ExitStack() as stack:
        one, *rest = (stack.enter_context(PackIndex(path)) for path in (index, *others))
        for first in range(256):
            ids = one.ids_starting_with(first)
            for other in rest:
                ids -= other.ids_starting_with(first)
            if ids:
                return min(ids)
    return None


def _update_multi_pack_index(
    repository: Path, scratch: Path, record: PackRecord, rules: HousekeepingPolicy
) -> None:
    """Brings the multi-pack index in line with the packs in use, where it names other ones."""
    target = repository / "objects" / "pack"
    names = [name for name in pack_names(repository) if name not in record.retired_packs]
    packs = [pack_size(target, name) for name in names]
    if not _is_multi_pack_index_stale(target, packs, record.consolidated_packs, rules):
        return
    if sum(pack.objects for pack in packs) < rules.min_bitmap_objects:
        _replace_multi_pack_index(target, None)
        return
    with _borrowed_objects(repository, scratch / "index", names) as folder:
        try:
            _run_git(repository, folder, (_MIDX, "write", "--bitmap", "--no-progress"))
        except RepackError:
            # an older git, or a repository that is not whole: a bitmap is no more than speed
            for path in folder.glob(f"{_MIDX}*"):
                path.unlink()
            _run_git(repository, folder, (_MIDX, "write", "--no-progress"))
        _replace_multi_pack_index(target, folder)


def _replace_multi_pack_index(target: Path, folder: Path | None) -> None:
    """Moves a new multi-pack index, and what is beside it, into the place of the old."""
    # reversed, so that the index comes last, when its bitmap is there
    made = [] if folder is None else sorted(folder.glob(f"{_MIDX}*"), reverse=True)
    for path in made:
        path.chmod(0o444)
        fsync_path(path)
        os.replace(path, target / path.name)
    if folder is None:
        (target / _MIDX).unlink(missing_ok=True)
    for path in target.glob(f"{_MIDX}-*"):
        if path.name not in {one.name for one in made}:
            path.unlink()
    fsync_path(target)


def _is_multi_pack_index_stale(
    folder: Path, in_use: Sequence[PackSize], made: frozenset[str], rules: HousekeepingPolicy
) -> bool:
    """Whether the multi-pack index is not what it should be.

    It names all packs in use that were made here, and none that is not in use; those that came
    since are found without it. A small repository has none.
    """
    indexed = multi_pack_index_names(folder / _MIDX)
    names = {pack.name for pack in in_use}
    if sum(pack.objects for pack in in_use) < rules.min_bitmap_objects:
        return indexed is not None
    if indexed is None:
        return bool(made & names)
    return not made & names <= indexed <= names


def _delete_packs(repository: Path, names: Sequence[str], record: PackRecord) -> None:
    """Deletes retired packs.

    One that by now holds something alone is in use again: somebody else removed the pack that it
    was retired for.
    """
    if not names:
        return
    folder = repository / "objects" / "pack"
    there = pack_names(repository)
    others = [folder / f"{name}.idx" for name in there if name not in record.retired_packs]
    deleted = [
        name
        for name in names
        if name not in there or _first_missing(folder / f"{name}.idx", others) is None
    ]
    for name in deleted:
        # the index first: without one a pack is none, for git and for the next run
        for suffix in _PACK_SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    fsync_path(folder)
    rest = {name: at for name, at in record.retired_packs.items() if name not in names}
    replace(record, retired_packs=rest).save(repository)
    if len(deleted) < len(names):
        write_pack_list(repository)
