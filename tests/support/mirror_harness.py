"""A folder with mirrors and a store, with methods to sync and inspect it."""

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neuromirror.crawl import Mirror, Result, Sync, load_mirrors, open_recorder, parse_sync_requests
from neuromirror.crawl.takedown import take_down
from neuromirror.index import Index
from neuromirror.store import Store

T = TypeVar("T")


@dataclass
class MirrorHarness:
    """A folder with mirror files and a store."""

    mirrors: Path
    folder: Path
    open_mirror: Callable[[Mirror], Mirror] = lambda mirror: mirror

    @property
    def store(self) -> Store:
        return Store.open(self.folder, create=True)

    def sync(self, *names: str, deep: bool = False, history: bool = False) -> dict[str, Result]:
        mirrors = {
            name: self.open_mirror(mirror) for name, mirror in load_mirrors(self.mirrors).items()
        }
        store = self.store
        run = Sync(store, store.index_path, deep=deep, history=history)
        return {one.dataset: one for one in run.results(parse_sync_requests(names, mirrors))}

    def withdraw(self, name: str, reason: str = "a test") -> None:
        """Withdraw a dataset as ``neuromirror takedown`` does; superdatasets stay unchanged."""
        store = self.store
        with open_recorder(store, store.index_path) as recorder:
            list(take_down(store, recorder, name, reason, "me", {}))

    def index(self) -> Index:
        return Index.open_readonly(self.store.index_path)

    def pending_files(self, dataset: str) -> int:
        """Return how many files of a dataset were pending at its last visit."""
        mirror, _, local_id = dataset.partition(":")
        with self.index() as index:
            return index.crawl.last_visits(mirror)[local_id].pending

    def repository(self, dataset: str) -> Path:
        alias = dataset.replace(":", "--").replace("/", "--")
        return (self.folder / "alias" / alias).resolve()

    def refs(self) -> dict[str, str]:
        """Return all refs of all aliases: ``<alias> <ref>`` → commit."""
        return {
            f"{alias} {ref}": commit
            for alias, repository in self.store.repositories.aliases()
            for ref, commit in repository.refs().items()
        }

    def fsck(self, *, killed: bool = False) -> None:
        """Check all objects; none may be unused unless a sync was killed."""
        unused = "--no-dangling" if killed else "--dangling"
        for _, repository in self.store.repositories.aliases():
            done = run_git(repository.path, "fsck", "--strict", "--full", unused)
            assert done.strip() == "", done

    def entries(self, kind: type[T]) -> list[T]:
        """Return the journal's entries of a type."""
        return [one for _, one in self.store.journal.read(0) if isinstance(one, kind)]

    def file_digests(self) -> dict[str, str]:
        """Return the digest of each file of the store except the index, by path."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and "index.sqlite" not in path.name
        }


def run_git(repository: Path, *arguments: str) -> str:
    """Run git without hooks; return its stdout and stderr."""
    done = subprocess.run(
        ["git", "-C", str(repository), "-c", "core.hooksPath=/dev/null", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
