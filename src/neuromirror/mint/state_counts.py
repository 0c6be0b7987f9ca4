"""What a state's own document counts, taken together file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from neuromirror.model import FileTotals, SnapshotEntry, Subdataset, is_in_git, path_to_text


@dataclass(slots=True)
class StateCounts:
    """Counts of a state's own files; ``form`` is SnapshotHeader's.

    ``files`` and ``bytes`` are of all files, in git or not, but for those in sub-datasets;
    ``manifest_only_files`` and ``manifest_only_bytes`` of those that are in the manifest only.
    ``escaped`` maps paths
    in git to upstream's names; ``parts`` are the sub-datasets by git path.
    """

    form: str
    files: int = 0
    bytes: int = 0
    evidence: dict[str, int] = field(default_factory=dict)
    escaped_paths: dict[str, str] = field(default_factory=dict)
    subdatasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifest_only_files: int = 0
    manifest_only_bytes: int = 0

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """The counts that a state's own document tells."""
        # the first commits of spec 1 do not tell of forms and parts
        only = description.get("manifest-only", {"files": 0, "bytes": 0})
        return cls(
            form=description.get("form", "files"),
            files=description["files"],
            bytes=description["bytes"],
            evidence=description["evidence"],
            escaped_paths=description["escaped"],
            subdatasets=description.get("parts", {}),
            manifest_only_files=only["files"],
            manifest_only_bytes=only["bytes"],
        )

    def count(self, placed: SnapshotEntry, sign: int) -> None:
        """Takes a file or a sub-dataset in (``sign`` 1) or out (-1)."""
        record, path, part = placed.record, placed.git_path, placed.subdataset
        if part is not None:
            if sign > 0:
                self.subdatasets[path.decode()] = _subdataset_json(part)
            else:
                del self.subdatasets[path.decode()]
        else:
            size = sign * (record.size or 0)
            self.files += sign
            self.bytes += size
            evidence = record.evidence.value
            left = self.evidence.get(evidence, 0) + sign
            if left:
                self.evidence[evidence] = left
            else:
                del self.evidence[evidence]
            if self.form != "files" and not is_in_git(placed, self.form):
                self.manifest_only_files += sign
                self.manifest_only_bytes += size
                return
        if record.path != path:
            if sign > 0:
                self.escaped_paths[path.decode()] = path_to_text(record.path)
            else:
                del self.escaped_paths[path.decode()]

    @property
    def manifest_only(self) -> FileTotals:
        """The files that have no place in git."""
        return FileTotals(self.manifest_only_files, self.manifest_only_bytes)

    @property
    def in_subdatasets(self) -> FileTotals:
        """How many files and bytes are in the sub-datasets."""
        subdatasets = self.subdatasets.values()
        return FileTotals(
            sum(one["files"] for one in subdatasets), sum(one["bytes"] for one in subdatasets)
        )


def _subdataset_json(part: Subdataset) -> dict[str, Any]:
    return {
        "id": part.dataset_id,
        "local-id": part.local_id,
        "state": part.state,
        "files": part.files,
        "bytes": part.bytes,
    }
