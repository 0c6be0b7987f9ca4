"""Repack a repository: consolidate packs, update the multi-pack index, delete retired packs.

git runs in a scratch folder that borrows the repository's objects, so that a killed process, or a
git that outlives it, leaves no incomplete file in the repository.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.git import try_git
from neuromirror.git.packs import PackIndex, PackSize, multi_pack_index_names, pack_size
from neuromirror.model import NeuromirrorError, parse_json
from neuromirror.store.durable_files import UMASK, fsync_path, write_atomically

RECORD_NAME = "housekeeping.json"
_FORMAT = 2


class PackRecord(Struct, frozen=True):
    """The packs of a repository that housekeeping has written, and those that it has retired.

    A retired pack was replaced by another, and stays for a while for clients that are reading it.
    ``consolidated_packs`` are the names (``pack-<40 hex>``) of the packs that it has written,
    ``retired_packs`` the times of retirement by name.
    """

    consolidated_packs: frozenset[str] = frozenset()
    retired_packs: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def load(cls, repository: Path) -> PackRecord:
        """Return a bare repository's record; an empty one where it is missing or unreadable."""
        try:
            content = parse_json((repository / RECORD_NAME).read_bytes(), RECORD_NAME)
            if content["format"] != _FORMAT:
                return cls()
            retired_packs = {
                name: datetime.fromisoformat(at) for name, at in content["retired"].items()
            }
            if any(at.tzinfo is None for at in retired_packs.values()):
                return cls()
            return cls(frozenset(map(str, content["consolidated"])), retired_packs)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, repository: Path) -> None:
        """Write the record; the old one is replaced in one step."""
        content = {
            "format": _FORMAT,
            "consolidated": sorted(self.consolidated_packs),
            "retired": {name: at.isoformat() for name, at in sorted(self.retired_packs.items())},
        }
        write_atomically(repository / RECORD_NAME, json.dumps(content, indent=1).encode() + b"\n")


def pack_names(repository: Path) -> list[str]:
    """Return the names of all packs with an index in a bare repository, sorted."""
    folder = repository / "objects" / "pack"
    return sorted(
        path.stem for path in folder.glob("pack-*.idx") if path.with_suffix(".pack").exists()
    )


def active_pack_names(repository: Path) -> list[str]:
    """Return the names of the packs in use: all but the retired ones."""
    retired = PackRecord.load(repository).retired_packs
    return [name for name in pack_names(repository) if name not in retired]


def _listed_packs(repository: Path) -> list[str]:
    try:
        lines = (repository / "objects" / "info" / "packs").read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    return sorted(line.removeprefix("P ").removesuffix(".pack") for line in lines if line)


def missing_packs(repository: Path) -> list[str]:
    """Return the names of the packs in ``objects/info/packs`` that a bare repository lacks.

    A pack is added before it is listed, and deleted after it was taken from the list.
    """
    return sorted({*_listed_packs(repository)} - {*pack_names(repository)})


def is_pack_list_current(repository: Path) -> bool:
    """Return whether ``objects/info/packs`` lists exactly the packs in use."""
    return _listed_packs(repository) == active_pack_names(repository)


def write_pack_list(repository: Path) -> None:
    """Write the list of packs for clients of plain HTTP (gitrepository-layout(5))."""
    lines = "".join(f"P {name}.pack\n" for name in active_pack_names(repository))
    write_atomically(repository / "objects" / "info" / "packs", f"{lines}\n".encode())


PACK_SUFFIXES = (".idx", ".rev", ".bitmap", ".pack")
"""Suffixes of a pack's files, in the order of deletion: git ignores a pack without an index."""
MULTI_PACK_INDEX = "multi-pack-index"

# The objects of a single mint have no delta bases; searching for them would double the time.
_PACKS_OF_ONE_MINT = 2

# These override the user's configuration; the first two reduce the memory that git maps.
_GIT_OPTIONS = (
    *("-c", "core.packedGitLimit=64m", "-c", "core.packedGitWindowSize=8m"),
    *("-c", "pack.packSizeLimit=0", "-c", "pack.writeReverseIndex=false"),
    *("-c", "pack.compression=6", "-c", "core.multiPackIndex=true"),
)


class RepackError(NeuromirrorError):
    """git failed to repack a repository, or wrote a pack that lacks objects.

    The old packs are kept.
    """


class HousekeepingPolicy(Struct, frozen=True):
    """When packs are consolidated, and how long retired packs stay.

    Attributes
    ----------
    grace_period
        How long a retired pack stays.
    max_packs, max_bytes
        New packs are not consolidated while there are at most ``max_packs`` of them, with fewer
        than ``max_bytes`` bytes in total.
    min_bitmap_objects
        Number of objects from which a repository gets a multi-pack index with a bitmap, which
        speeds up clones from a git server.
    threads
        Threads of ``git pack-objects``.
    """

    grace_period: timedelta = timedelta(days=1)
    max_packs: int = 10
    max_bytes: int = 1 << 20
    min_bitmap_objects: int = 10_000
    threads: int = 2


def consolidate(
    repository: Path,
    scratch: Path,
    names: Sequence[str],
    record: PackRecord,
    policy: HousekeepingPolicy,
    now: datetime,
) -> PackRecord:
    """Write one pack with the objects of several, verify it, and retire the old packs.

    Parameters
    ----------
    repository
        The bare repository, whose lock the caller holds.
    scratch
        A scratch folder on the same disk.
    names
        The names of the packs.
    record
        The present record of packs, which a new one replaces.
    policy
        The number of threads.
    now
        The time of retirement.

    Returns
    -------
    PackRecord
        The new record.

    Raises
    ------
    RepackError
        git failed, or the new pack lacks an object; nothing was changed.
    """
    target = repository / "objects" / "pack"
    with _borrowed_objects(repository, scratch / "repack", None) as folder:
        name = _write_pack(repository, folder, names, policy)
        _run_git(repository, folder, ("verify-pack", f"{folder / name}.idx"))
        _check_contains(folder / f"{name}.idx", [target / f"{one}.idx" for one in names])
        for suffix in (".pack", ".idx"):
            written = folder / f"{name}{suffix}"
            written.chmod(0o444)
            fsync_path(written)
            os.replace(written, target / written.name)
    fsync_path(target)
    existing = set(pack_names(repository))
    record = PackRecord(
        (record.consolidated_packs | {name}) & existing,
        {
            one: at
            for one, at in (record.retired_packs | dict.fromkeys(names, now)).items()
            if one != name
        },
    )
    record.save(repository)
    return record


def delete_packs(repository: Path, names: Sequence[str], record: PackRecord) -> None:
    """Delete the retired packs with the given names.

    A pack is kept if it again holds the only copy of an object, because another program removed the
    pack that replaced it.

    Parameters
    ----------
    repository
        The bare repository.
    names
        The names of the packs.
    record
        The packs that housekeeping has written or retired.
    """
    if not names:
        return
    folder = repository / "objects" / "pack"
    existing = pack_names(repository)
    others = [folder / f"{name}.idx" for name in existing if name not in record.retired_packs]
    deleted = [
        name
        for name in names
        if name not in existing or _first_missing(folder / f"{name}.idx", others) is None
    ]
    for name in deleted:
        # the index first: without it neither git nor the next run sees the pack
        for suffix in PACK_SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    fsync_path(folder)
    rest = {name: at for name, at in record.retired_packs.items() if name not in names}
    replace(record, retired_packs=rest).save(repository)
    if len(deleted) < len(names):
        write_pack_list(repository)


def update_multi_pack_index(
    repository: Path, scratch: Path, record: PackRecord, policy: HousekeepingPolicy
) -> None:
    """Rewrite the multi-pack index if it is stale; remove it from a small repository.

    Parameters
    ----------
    repository
        The bare repository.
    scratch
        A scratch folder on the same disk.
    record
        The packs that housekeeping has written or retired.
    policy
        From how many objects on a repository has an index.
    """
    target = repository / "objects" / "pack"
    names = [name for name in pack_names(repository) if name not in record.retired_packs]
    packs = [pack_size(target, name) for name in names]
    if not is_multi_pack_index_stale(target, packs, record.consolidated_packs, policy):
        return
    if sum(pack.objects for pack in packs) < policy.min_bitmap_objects:
        _replace_multi_pack_index(target, None)
        return
    with _borrowed_objects(repository, scratch / "index", names) as folder:
        try:
            _run_git(repository, folder, (MULTI_PACK_INDEX, "write", "--bitmap", "--no-progress"))
        except RepackError:
            # an older git, or an incomplete repository: the bitmap is only an optimization
            for path in folder.glob(f"{MULTI_PACK_INDEX}*"):
                path.unlink()
            _run_git(repository, folder, (MULTI_PACK_INDEX, "write", "--no-progress"))
        _replace_multi_pack_index(target, folder)


def is_multi_pack_index_stale(
    folder: Path,
    in_use: Sequence[PackSize],
    consolidated: frozenset[str],
    policy: HousekeepingPolicy,
) -> bool:
    """Return whether the multi-pack index must be rewritten.

    It must list all consolidated packs in use, and only packs in use; git finds newer packs without
    it. A small repository must not have one.

    Parameters
    ----------
    folder
        The folder ``objects/pack``.
    in_use
        The packs that are not retired.
    consolidated
        The names of the packs that housekeeping has written.
    policy
        From how many objects on a repository has an index.
    """
    indexed = multi_pack_index_names(folder / MULTI_PACK_INDEX)
    names = {pack.name for pack in in_use}
    if sum(pack.objects for pack in in_use) < policy.min_bitmap_objects:
        return indexed is not None
    if indexed is None:
        return bool(consolidated & names)
    return not consolidated & names <= indexed <= names


def _replace_multi_pack_index(target: Path, folder: Path | None) -> None:
    """Replace the multi-pack index and the files beside it; None removes it."""
    # reversed, so that the index comes after its bitmap
    written = [] if folder is None else sorted(folder.glob(f"{MULTI_PACK_INDEX}*"), reverse=True)
    for path in written:
        path.chmod(0o444)
        fsync_path(path)
        os.replace(path, target / path.name)
    if folder is None:
        (target / MULTI_PACK_INDEX).unlink(missing_ok=True)
    for path in target.glob(f"{MULTI_PACK_INDEX}-*"):
        if path.name not in {one.name for one in written}:
            path.unlink()
    fsync_path(target)


def _write_pack(
    repository: Path, folder: Path, names: Sequence[str], policy: HousekeepingPolicy
) -> str:
    window = 0 if len(names) <= _PACKS_OF_ONE_MINT else 10
    command = (
        *("pack-objects", "--stdin-packs", "-q", "--delta-base-offset", "--window-memory=64m"),
        # --no-reuse-object: reused entries would stay uncompressed
        *("--no-reuse-object", f"--threads={policy.threads}"),
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
    """Create an object store that borrows a repository's objects; yield its pack folder.

    With ``packs`` it has symlinks to only these packs, which git treats as the store's own; with
    None an alternate gives it all objects. It is removed at the end of the block.
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
    """Return the output of a git command that writes to the object store of ``folder``."""
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
            f"'git {command[0]}' failed for {repository}: {message}. Nothing was changed. If it "
            f"fails again, check the repository with 'git -C {repository} fsck'."
        )
    return done.stdout


def _check_contains(index: Path, others: Sequence[Path]) -> None:
    """Raise RepackError unless a pack index has every object of the others."""
    for path in others:
        if lacking := _first_missing(path, [index]):
            raise RepackError(
                f"the new pack lacks object {lacking.hex()} of {path}; nothing was changed"
            )


def _first_missing(index: Path, others: Sequence[Path]) -> bytes | None:
    """Return an object of a pack index that none of the others has; None without such an object."""
    with ExitStack() as stack:
        one, *rest = (stack.enter_context(PackIndex(path)) for path in (index, *others))
        for first in range(256):
            ids = one.ids_starting_with(first)
            for other in rest:
                ids -= other.ids_starting_with(first)
            if ids:
                return min(ids)
    return None
