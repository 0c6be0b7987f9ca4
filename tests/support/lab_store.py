"""A store whose versions are minted again by tests."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from neuromirror.config.mirror_files import find_mirror
from neuromirror.crawl import load_mirrors
from neuromirror.lab import Reproduction, reproduce
from support.mirror_harness import MirrorHarness, run_git


@dataclass
class LabStore:
    """A store, and a folder for the newly minted versions."""

    mirror_harness: MirrorHarness
    folder: Path

    def reproduce(self, name: str) -> Reproduction:
        """Mint a version again; the files of the store must stay unchanged."""
        dataset, _, label = name.partition("@")
        mirrors = load_mirrors(self.mirror_harness.mirrors)
        scratch = self.folder / f"again-{secrets.token_hex(4)}"
        before = self.file_states()
        with self.mirror_harness.index() as index:
            row = index.versions.resolve(dataset, label or "latest")
            mirror = self.mirror_harness.open_mirror(find_mirror(mirrors, row.mirror))
            found = reproduce(row, self.mirror_harness.store, index, mirror, scratch)
        changed = before.items() ^ self.file_states().items()
        assert changed == set(), changed
        assert (found.name, found.exit_code) == (row.name, 0 if found.status == "ok" else 1)
        return found

    def file_states(self) -> dict[str, object]:
        """Return size and time of change of each file, without the files beside an open index."""
        found: dict[str, object] = {}
        for path in self.mirror_harness.folder.rglob("*"):
            status = path.lstat()
            found[str(path.relative_to(self.mirror_harness.folder))] = (
                "folder" if path.is_dir() else (status.st_ino, status.st_size, status.st_ctime_ns)
            )
        return {name: one for name, one in found.items() if not name.endswith(("-shm", "-wal"))}

    def labels(self, dataset: str, kind: str = "published") -> list[str]:
        with self.mirror_harness.index() as index:
            return [one.label for one in index.versions.of(dataset) if one.kind == kind]

    def rewrite(self, dataset: str, label: str, old: str, new: str) -> str:
        """Replace a text in the commit object of a version; return the id of the new commit."""
        repository = self.mirror_harness.repository(dataset)
        content = run_git(repository, "cat-file", "commit", label)
        assert old in content
        draft = self.folder / "commit"
        draft.write_text(content.replace(old, new))
        commit = run_git(repository, "hash-object", "-t", "commit", "-w", str(draft)).strip()
        run_git(repository, "update-ref", f"refs/tags/{label}", commit)
        return commit
