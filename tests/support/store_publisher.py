"""Publish states in a store, kill child processes at every step, and inspect repositories."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from neuromirror.annex import key_for
from neuromirror.mint import MintResult, ParentCommits, Snapshot, mint
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    Location,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
    VersionKind,
    VersionRef,
    dump_snapshot_entry,
)
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    Store,
)

FIRST_TIME = datetime(2022, 12, 13, 10, 11, 12, tzinfo=UTC)

_DISK_EVENTS = {
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.truncate",
    "os.mkdir",
    "os.chmod",
}


def dataset(number: int = 1) -> DatasetRef:
    """Return a dataset of the mirror ``demo``."""
    uri = f"https://api.example.org/api/dandisets/{number:06}/"
    return DatasetRef("demo", f"{number:06}", uri)


def git(repository: Path, *arguments: str, stdin: str = "", check: bool = True) -> str:
    """Run git without hooks; return stdout and stderr, or fail with git's stderr."""
    done = subprocess.run(
        ["git", "-C", str(repository), "-c", "core.hooksPath=/dev/null", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def git_refs(repository: Path) -> dict[str, str]:
    """Return all refs, as listed by git."""
    lines = git(repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def packed_objects(repository: Path) -> list[bytes]:
    """Return the ids of the objects in all packs, from the packs' indexes (version 2)."""
    ids = []
    for path in (repository / "objects" / "pack").glob("*.idx"):
        index, names = path.read_bytes(), 8 + 256 * 4
        count = int.from_bytes(index[names - 4 : names], "big")
        ids += [index[names + 20 * n : names + 20 * (n + 1)] for n in range(count)]
    return sorted(ids)


def commits(repository: Path, count: int) -> list[str]:
    """Create distinct commits of the empty tree."""
    tree = git(repository, "mktree").strip()
    return [git(repository, "commit-tree", tree, "-m", f"{n}").strip() for n in range(count)]


def bare_repository(path: Path) -> Repository:
    """Create a repository as in a store."""
    repository = Repository(path)
    repository.create()
    return repository


def placed_file(name: str, content: int) -> SnapshotEntry:
    """Return a file with the bytes of this number."""
    digest = hashlib.sha256(b"%d" % content).hexdigest()
    location = Location(f"https://s3.example.org/{content}?versionId=version-1", "s3", "version-1")
    record = FileRecord(name.encode(), content, (Digest("sha256", digest, "demo"),), (location,))
    return SnapshotEntry(name.encode(), key_for(record, name.encode()), record)


@dataclass
class Publisher:
    """Mints states of one dataset and publishes them like a visit."""

    store: Store
    dataset: DatasetRef = field(default_factory=dataset)
    minted: list[MintResult] = field(default_factory=list)

    @property
    def repository(self) -> Repository:
        return self.store.repositories.of(self.dataset)

    def header(
        self,
        label: str,
        kind: VersionKind,
        title: str,
        documents: tuple[Document, ...] = (),
        form: str = "files",
    ) -> SnapshotHeader:
        """Return the header of the next state."""
        moment = FIRST_TIME + timedelta(seconds=1000 * len(self.minted))
        upstream = label if kind is VersionKind.PUBLISHED else "draft"
        return SnapshotHeader(
            VersionRef(self.dataset, upstream, kind, moment),
            DatasetFacts(
                title=title,
                license=("spdx:CC0-1.0",),
                doi="10.1/x",
                attributes=(("subject", "m1"), ("subject", "m2")),
                inputs=("raw_1",),
            ),
            documents=documents,
            form=form,
            exceptions=(ExcludedEntry(b"z.zarr", "zarr", "is a folder", 5),),
        )

    def publish(
        self,
        label: str,
        files: dict[str, int],
        kind: VersionKind = VersionKind.OBSERVED,
        title: str = "A title",
        *,
        parts: Sequence[SnapshotEntry] = (),
        documents: tuple[Document, ...] = (),
        form: str = "files",
        within: str = "",
    ) -> MintResult:
        """Mint a state and publish it under a label."""
        own = [placed_file(name, content) for name, content in files.items()]
        listed = sorted([*own, *parts], key=lambda one: one.git_path)
        head = self.header(label, kind, title, documents, form)
        branch = MAIN_BRANCH if kind is VersionKind.OBSERVED else PUBLISHED_BRANCH
        self.repository.create()
        refs = self.repository.refs()
        with self.store.scratch() as scratch:
            minted = mint(
                Snapshot(head, lambda: iter(listed), within=within),
                self.repository.path,
                ParentCommits(refs.get(branch), refs.get(ANNEX_BRANCH)),
                lambda state: label,
                scratch,
            )
            self.store.add_manifest(minted.state, minted.manifest)
            lines = map(dump_snapshot_entry, listed)
            self.store.records.write(self.dataset.dataset_id, minted.commit, lines)
            for pack in minted.packs:
                self.repository.add_pack(pack)
            new = {
                branch: minted.commit,
                ANNEX_BRANCH: minted.annex_commit,
                TAG_PREFIX + label: minted.commit,
            }
            self.repository.publish({name: refs.get(name) for name in new}, new)
        self.store.repositories.alias(self.dataset)
        self.minted.append(minted)
        return minted


def subdataset_of(publisher: Publisher, path: str) -> SnapshotEntry:
    """Return the entry of a dataset's newest state in the listing of its superdataset."""
    one, newest = publisher.dataset, publisher.minted[-1]
    known = Subdataset(
        one.dataset_id, one.local_id, newest.commit, newest.state, newest.files, newest.bytes
    )
    return SnapshotEntry(path.encode(), "", FileRecord(path.encode(), None), known)


def fork_child(work: Callable[[], object]) -> int:
    """Start ``work`` in a child process; return its id. It exits with 1 if the work fails."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the child must not go on into pytest
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


def exit_code(child: int) -> int:
    """Wait for a child process; return its exit code, or the negative number of its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_in_child(work: Callable[[], object], kill_at: int = 0) -> bool:
    """Run ``work`` in a child process; return whether it was killed at a step on disk.

    Steps are the events of Python's audit hooks: files opened for writing, renames, links,
    removals, created folders. With ``kill_at`` 0 the child is not killed and must succeed.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if is_disk_step(event, arguments):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched() -> None:
        sys.addaudithook(hook)
        work()

    code = exit_code(fork_child(watched))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def is_disk_step(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether an audit event precedes a change on disk."""
    if event != "open":
        return event in _DISK_EVENTS
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def kill_steps(prepare: Callable[[int], Callable[[], object]]) -> Iterator[int]:
    """Kill the work at its first step, its second, …; yield after each kill until it finishes.

    ``prepare`` creates the conditions of a step and returns the work; the last yield follows work
    that was not interrupted.
    """
    step = 0
    killed = True
    while killed:
        step += 1
        killed = run_in_child(prepare(step), step)
        yield step


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder, by path."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read()
    return found
