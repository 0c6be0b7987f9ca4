"""Find what a repository of the store lost, and mint lost commits again from the records.

The new commits are written to a scratch repository that borrows the intact packs. Only if all ids
are equal are its packs added to the repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path

from msgspec import Struct

from neuromirror.annex import WEB_UUID, parse_remote_log
from neuromirror.git import ObjectReader, parse_commit, try_git
from neuromirror.mint import REMOTE_LOG, ParentCommits, Snapshot, mint
from neuromirror.mint.annex_branch import TRUST_LOG
from neuromirror.mint.transaction import CanonicalManifestWriter
from neuromirror.model import (
    DESCRIPTION_PATH,
    AnnexBranchMoved,
    DatasetFacts,
    Document,
    ExcludedEntry,
    InlineComponent,
    SnapshotHeader,
    SpecialRemote,
    VersionKind,
    VersionMinted,
    VersionRef,
    WebRemote,
    entry_line,
    parse_description,
    text_to_path,
    time_of_commit,
)
from neuromirror.store.durable_files import CONFIG, CORE_SETTINGS, fsync_path, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.mint_inputs import MintInput, mint_inputs_of, read_mint_input
from neuromirror.store.records import manifest_lines
from neuromirror.store.repository import HEADS, RIA_VERSION, Repository
from neuromirror.store.store import Store
from neuromirror.store.superdatasets import SuperdatasetCommit, remint_superdataset

_REF_LINE = re.compile(rb"#.*|\^[0-9a-f]{40}|[0-9a-f]{40} refs/[^ ]+")
_REF = re.compile(rb"[0-9a-f]{40}\n?|ref: refs/.*\n?")
_STALE_SECONDS = 600.0
"""Age of a lock of git from which it is stale; git holds them for seconds."""


# --- files of a repository


def broken_files(repository: Path) -> list[str]:
    """Return the names of missing or damaged files of a bare repository, except its objects."""
    expected = {"HEAD": HEADS, "ria-layout-version": {RIA_VERSION}}
    broken = [name for name, texts in expected.items() if _text(repository / name) not in texts]
    if CORE_SETTINGS not in _text(repository / "config"):
        broken.append("config")
    broken += [name for name in ("objects/pack", "refs") if not (repository / name).is_dir()]
    with suppress(FileNotFoundError):
        lines = (repository / "packed-refs").read_bytes().splitlines()
        if not all(map(_REF_LINE.fullmatch, lines)):
            broken.append("packed-refs")
    for path in (repository / "refs").rglob("*"):
        if path.is_file() and path.suffix != ".lock" and not _REF.fullmatch(path.read_bytes()):
            broken.append(path.relative_to(repository).as_posix())
    return broken


def _text(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def restore_files(repository: Path, names: Iterable[str], quarantine: Path) -> None:
    """Write broken files again; damaged ones go to quarantine, and refs are left out."""
    fresh = {"HEAD": min(HEADS), "ria-layout-version": RIA_VERSION, "config": CONFIG}
    for name in names:
        path = repository / name
        if path.is_file():
            move(path, quarantine / name)
        if name in fresh:
            write_atomically(path, fresh[name].encode())
        elif "." not in name and name in ("objects/pack", "refs"):
            path.mkdir(parents=True, exist_ok=True)


def stale_locks(repository: Path) -> list[Path]:
    """Return locks of git that no process will remove: its git was killed.

    They are older than ten minutes, and no process of this machine has them open.
    """
    now = time.time()
    locks = [one for one in repository.rglob("*.lock") if _age(one, now) > _STALE_SECONDS]
    opened = set(_open_files()) if locks else set()
    return [lock for lock in locks if str(lock.resolve()) not in opened]


def _age(path: Path, now: float) -> float:
    with suppress(FileNotFoundError):
        return now - path.stat().st_mtime
    return 0.0


def _open_files() -> Iterator[str]:
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            yield os.readlink(handle)


def move(path: Path, target: Path) -> None:
    """Move a file to quarantine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    fsync_path(target.parent)
    fsync_path(path.parent)


# --- objects


def are_connected(repository: Path, commits: Iterable[str], known: Iterable[str] = ()) -> bool:
    """Return whether all objects that commits reach exist, except those that ``known`` reach."""
    lines = [*commits, *(f"^{one}" for one in known)]
    done = try_git(
        *(repository, "rev-list", "--objects", "--quiet", "--stdin"),
        stdin="".join(f"{line}\n" for line in lines),
    )
    return done.returncode == 0


def borrow_intact_objects(repository: Path, target: Path) -> list[Path]:
    """Link the intact packs and objects of a repository into another; return the other files."""
    damaged: list[Path] = []
    packs = {
        path.stem
        for path in repository.glob("objects/pack/pack-*.idx")
        if path.with_suffix(".pack").exists()
        and not try_git(target, "verify-pack", str(path.resolve())).returncode
    }
    for path in sorted((repository / "objects").rglob("*")):
        folder = path.parent.name
        if not path.is_file() or folder == "info":
            continue
        # other files beside packs are derived from them
        is_packed = path.suffix in (".pack", ".idx") and path.stem in packs
        if is_packed if folder == "pack" else _is_intact_object(path):
            link = target / "objects" / folder / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.resolve())
        else:
            damaged.append(path)
    return damaged


def _is_intact_object(path: Path) -> bool:
    try:
        content = zlib.decompress(path.read_bytes())
    except zlib.error:
        return False
    return hashlib.sha1(content, usedforsecurity=False).hexdigest() == path.parent.name + path.name


def replace_objects(repository: Repository, work: Path, damaged: list[Path], folder: Path) -> None:
    """Move the new packs of a scratch repository to a repository, and its damaged files out."""
    target = repository.path / "objects" / "pack"
    for suffix in (".pack", ".idx"):
        for path in (work / "objects" / "pack").glob(f"pack-*{suffix}"):
            if not path.is_symlink():
                os.replace(path, target / path.name)
                damaged = [one for one in damaged if one.name != path.name]
    fsync_path(target)
    for path in damaged:
        move(path, folder / path.relative_to(repository.path))


class MintedAgain(Struct):
    """The number of commits that were minted again, and messages about what is lost."""

    count: int = 0
    lost: list[str] = []


def remint_dataset(
    store: Store, dataset_id: str, work: Repository, needed: Iterable[str], scratch: Path
) -> MintedAgain:
    """Mint the needed commits of a dataset again that a scratch repository lacks."""
    result, inputs = MintedAgain(), _Inputs(store, dataset_id)
    known: list[str] = []
    for name in inputs.order(needed):
        try:
            mint_input = read_mint_input(store.records, dataset_id, name)
        except StoreDamagedError as error:
            if not are_connected(work.path, [name], known):
                result.lost.append(f"commit {name}: {error}")
            continue
        commits = [mint_input.commit, mint_input.annex_commit]
        if not are_connected(work.path, commits, known):
            if message := mint_again(store, dataset_id, mint_input, work, scratch):
                result.lost.append(message)
                continue
            result.count += 1
        known += commits
    return result


def mint_again(
    store: Store, dataset_id: str, mint_input: MintInput, work: Repository, scratch: Path
) -> str:
    """Mint a version again in a scratch repository; return what is wrong, empty if it is equal."""
    spool = scratch / "records.jsonl"
    try:
        with spool.open("wb") as file:
            for line in store.records.lines(dataset_id, mint_input.records):
                file.write(line + b"\n")
        snapshot = Snapshot.from_records(mint_input.header, spool, mint_input.within)
        minted = mint(
            snapshot, work.path, mint_input.parents, lambda _state: mint_input.label, scratch
        )
    except (StoreDamagedError, ValueError) as error:
        return f"commit {mint_input.commit} ({mint_input.label}): {error}"
    minted.manifest.unlink()
    for pack in minted.packs:
        work.add_pack(pack)
    if mint_input.matches(minted):
        return ""
    return (
        f"commit {mint_input.commit} ({mint_input.label}) became {minted.commit} when it was "
        f"minted again from the records {mint_input.records}"
    )


class _Inputs:
    """What a dataset's versions were minted from, by the commits that they give."""

    def __init__(self, store: Store, dataset_id: str) -> None:
        self._names: dict[str, str] = {}
        self._parents: dict[str, ParentCommits] = {}
        for one in mint_inputs_of(store.records, dataset_id):
            self._parents[one.name] = one.parents
            if one.parents.annex != one.annex_commit:
                self._names.setdefault(one.annex_commit, one.name)
            self._names[one.name] = one.name

    def order(self, needed: Iterable[str]) -> Iterator[str]:
        """Yield the inputs of commits and of their ancestors, parents first.

        A commit without an input is yielded itself.
        """
        graph: dict[str, set[str]] = {}
        pending = [self._names.get(one, one) for one in needed]
        while pending:
            name = pending.pop()
            if name in graph:
                continue
            parents = self._parents.get(name, ParentCommits())
            commits = {one for one in (parents.branch, parents.annex) if one is not None}
            graph[name] = {self._names.get(commit, commit) for commit in commits} - {name}
            pending += graph[name]
        return iter(list(TopologicalSorter(graph).static_order()))


def check_manifest(path: Path) -> None:
    """Raise StoreDamagedError unless a manifest can be read and matches its name."""
    for _ in manifest_lines(path):
        pass


def write_manifest(store: Store, dataset_id: str, records: str, state: str) -> None:
    """Write the manifest of a state again, from the records of a version that has it."""
    with store.scratch() as scratch, CanonicalManifestWriter(scratch) as manifest:
        for placed in store.records.read(dataset_id, records):
            manifest.add(entry_line(placed))
        if manifest.state() != state:
            raise StoreDamagedError(f"the records {records} do not have the state {state}")
        store.add_manifest(state, manifest.finish())


def remint_commits_of_log(
    store: Store, alias: str, work: Repository, commits: Sequence[SuperdatasetCommit]
) -> MintedAgain:
    """Write the commits of a superdataset again."""
    wrong = list(remint_superdataset(store, work, alias, commits))
    lost = [f"commit {one.commit} cannot be written again from the log" for one in wrong]
    return MintedAgain(len(commits), lost)


def input_from_git(
    store: Store,
    repository: Repository,
    version: VersionMinted,
    moved: AnnexBranchMoved | None = None,
) -> MintInput:
    """Return what a version was minted from, from its commits; the caller proves it by minting.

    Raises ObjectMissingError, ValueError or KeyError if git does not have it.
    """
    annex_commit = version.annex_commit if moved is None else moved.annex_commit
    with ObjectReader(repository.path) as reader:
        commit, annex = (parse_commit(reader.read(one)) for one in (version.commit, annex_commit))
        description = parse_description(
            reader.read(f"{version.commit}:{DESCRIPTION_PATH}"), DESCRIPTION_PATH
        )
        annex_tree = reader.read_tree(bytes.fromhex(annex.tree))
        remotes, trust = (
            reader.read(annex_tree[name.encode()][1].hex()) if name.encode() in annex_tree else b""
            for name in (REMOTE_LOG, TRUST_LOG)
        )
        documents = tuple(
            Document(text_to_path(path), reader.read(f"{version.commit}:{path}"))
            for path in description["documents"]
        )
    dataset = version.dataset_ref
    is_own = annex.subject == commit.subject or moved is not None
    observed = version.kind == VersionKind.OBSERVED.value
    branch = next(iter(commit.parents), None)
    header = SnapshotHeader(
        VersionRef(
            dataset,
            description["version"],
            VersionKind(version.kind),
            time_of_commit((commit if moved is None else annex).committed_at),
        ),
        DatasetFacts(
            title=description["title"],
            license=tuple(description["license"]),
            doi=description["doi"],
            landing_page=description["landing-page"],
            attributes=tuple(
                (name, value)
                for name, values in description["attributes"].items()
                for value in values
            ),
            inputs=tuple(description["inputs"]),
        ),
        documents,
        tuple(
            ExcludedEntry(text_to_path(one["path"]), one["reason"], one["detail"], one["size"])
            for one in description["exceptions"]
        ),
        None,
        *_remotes_from_log(remotes),
        form=description["form"],
        unversioned=f"{WEB_UUID} 0 ".encode() in trust,
        inline=tuple(
            InlineComponent(
                *(text_to_path(path), one["source"], one["checksum"], one["files"], one["bytes"])
            )
            for path, one in sorted(description["inline"].items(), key=lambda x: text_to_path(x[0]))
        ),
    )
    return MintInput(
        version.commit if moved is None else annex_commit,
        header,
        annex.subject.removeprefix(f"{dataset.name} ") if is_own else version.label,
        version.within,
        version.commit if moved is None else moved.records or version.commit,
        ParentCommits(
            version.commit if moved is not None and observed and not version.within else branch,
            next(iter(annex.parents), None) if is_own else annex_commit,
        ),
        version.commit,
        annex_commit,
    )


def _remotes_from_log(content: bytes) -> tuple[tuple[WebRemote, ...], tuple[SpecialRemote, ...]]:
    web: list[WebRemote] = []
    special: list[SpecialRemote] = []
    for uuid, config in parse_remote_log(content).items():
        if config["type"] == "external":
            special.append(SpecialRemote(config["name"], config["externaltype"], uuid))
        elif config["name"] != "unversioned":
            globs = config["urlinclude"], int(config["cost"]), config.get("urlexclude")
            web.append(WebRemote(config["name"], *globs))
    return tuple(web), tuple(special)
