"""A store whose versions are minted again, and what tests do to it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from crawl_place import Place, git

from neuromirror.crawl import find_mirror, load_mirrors
from neuromirror.lab import Reproduction, reproduce


@dataclass
class Lab:
    """A store in its place, and a folder for what is minted again."""

    place: Place
    folder: Path

    def reproduce(self, name: str) -> Reproduction:
        """Mints a version again; the store must be the same afterwards, byte for byte."""
        dataset, _, label = name.partition("@")
        mirrors = load_mirrors(self.place.mirrors)
        scratch = self.folder / f"again-{secrets.token_hex(4)}"
        before = self.everything()
        with self.place.index() as index:
            row = index.resolve(dataset, label or "latest")
            mirror = self.place.open_mirror(find_mirror(mirrors, row.mirror))
            found = reproduce(row, self.place.store, index, mirror, scratch)
        assert self.everything() == before
        assert (found.name, found.exit_code) == (row.name, 0 if found.status == "ok" else 1)
        return found

    def everything(self) -> dict[str, str]:
        """All that the store holds, but what stands beside an open index."""
        return {
            str(path.relative_to(self.place.folder)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            )
            for path in self.place.folder.rglob("*")
            if not path.name.endswith(("-shm", "-wal"))
        }

    def labels(self, dataset: str, kind: str = "published") -> list[str]:
        with self.place.index() as index:
            return [one.label for one in index.versions(dataset) if one.kind == kind]

    def rewrite(self, dataset: str, label: str, old: str, new: str) -> str:
        """Puts another text into a version's commit object; gives the new commit."""
        repository = self.place.repository(dataset)
        content = git(repository, "cat-file", "commit", label)
        assert old in content
        draft = self.folder / "commit"
        draft.write_text(content.replace(old, new))
        commit = git(repository, "hash-object", "-t", "commit", "-w", str(draft)).strip()
        git(repository, "update-ref", f"refs/tags/{label}", commit)
        return commit
