"""Count the files of a state for its ``.neuromirror/dataset.json``."""

from __future__ import annotations

from typing import Any, Self

from msgspec import Struct, field

from neuromirror.model import FileTotals, SnapshotEntry, Subdataset, is_in_git, path_to_text


class StateCounts(Struct):
    """Counts of a state's files, without those in subdatasets.

    Attributes
    ----------
    form
        The dataset's form, ``files`` or ``manifest``.
    files, bytes
        Number and size of all files, in git or not.
    evidence
        Number of files by evidence.
    escaped_paths
        Upstream's path by path in git, where the two differ.
    subdatasets
        The JSON objects of the subdatasets by path in git.
    manifest_only_files, manifest_only_bytes
        Number and size of the files that are in the manifest but not in git.
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
        """Return the counts in a state's parsed ``.neuromirror/dataset.json``."""
        # the first commits of spec 1 lack these fields
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
        """Count a file or subdataset: ``sign`` is 1 to add it, -1 to remove it."""
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
        """Number and size of the files that are not in git."""
        return FileTotals(self.manifest_only_files, self.manifest_only_bytes)

    @property
    def in_subdatasets(self) -> FileTotals:
        """Number and size of the files in the subdatasets."""
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
