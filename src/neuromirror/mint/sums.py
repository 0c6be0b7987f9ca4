"""What a state's own document counts, taken together file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from neuromirror.model import PlacedFile, Subdataset, Summary, in_git, text


@dataclass(slots=True)
class Sums:
    """Counts of a state's own files; ``form`` is SnapshotHeader's.

    ``files`` and ``bytes`` are of all files, in git or not, but for those in sub-datasets;
    ``only_files`` and ``only_bytes`` of those that are in the manifest only. ``escaped`` maps paths
    in git to upstream's names; ``parts`` are the sub-datasets by git path.
    """

    form: str
    files: int = 0
    bytes: int = 0
    evidence: dict[str, int] = field(default_factory=dict)
    escaped: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    only_files: int = 0
    only_bytes: int = 0

    @classmethod
    def of(cls, described: dict[str, Any]) -> Self:
        """The counts that a state's own document tells."""
        # the first commits of spec 1 do not tell of forms and parts
        only = described.get("manifest-only", {"files": 0, "bytes": 0})
        return cls(
            form=described.get("form", "files"),
            files=described["files"],
            bytes=described["bytes"],
            evidence=described["evidence"],
            escaped=described["escaped"],
            parts=described.get("parts", {}),
            only_files=only["files"],
            only_bytes=only["bytes"],
        )

    def count(self, placed: PlacedFile, sign: int) -> None:
        """Takes a file or a sub-dataset in (``sign`` 1) or out (-1)."""
        record, path, part = placed.record, placed.git_path, placed.part
        if part is not None:
            if sign > 0:
                self.parts[path.decode()] = _described(part)
            else:
                del self.parts[path.decode()]
        else:
            size = sign * (record.size or 0)
            self.files += sign
            self.bytes += size
            word = record.evidence.value
            left = self.evidence.get(word, 0) + sign
            if left:
                self.evidence[word] = left
            else:
                del self.evidence[word]
            if self.form != "files" and not in_git(placed, self.form):
                self.only_files += sign
                self.only_bytes += size
                return
        if record.path != path:
            if sign > 0:
                self.escaped[path.decode()] = text(record.path)
            else:
                del self.escaped[path.decode()]

    @property
    def manifest_only(self) -> Summary:
        """The files that have no place in git."""
        return Summary(self.only_files, self.only_bytes)

    @property
    def in_parts(self) -> Summary:
        """How many files and bytes are in the sub-datasets."""
        parts = self.parts.values()
        return Summary(sum(one["files"] for one in parts), sum(one["bytes"] for one in parts))


def _described(part: Subdataset) -> dict[str, Any]:
    return {
        "id": part.dataset_id,
        "local-id": part.local_id,
        "state": part.state,
        "files": part.files,
        "bytes": part.bytes,
    }
