"""What the catalogue tells of things, the same to people and to programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from neuromirror.index import (
    DatasetRow,
    EventRow,
    FileRow,
    FoundFile,
    LevelRow,
    MirrorStatus,
    VersionRow,
)


def told_dataset(row: DatasetRow) -> dict[str, Any]:
    """A dataset: name, title, where it is from, newest state."""
    return {
        "name": row.name,
        "mirror": row.mirror,
        "title": row.title,
        "license": list(row.license),
        "doi": row.doi,
        "source": row.source_uri,
        "dataset_id": row.dataset_id,
        "versions": row.versions,
        "newest": row.newest,
        "published": row.published,
        "time": row.time,
        "files": row.files,
        "bytes": row.bytes,
        "last_visit": row.last_visit,
        "status": row.status,
        "held": bool(row.open_holds),
        "gone": row.gone,
        "part": bool(row.within),
    }


def told_version(row: VersionRow) -> dict[str, Any]:
    """A version: its ids, counts and evidence."""
    return {
        "name": row.name,
        "dataset": row.dataset_name,
        "version": row.label,
        "kind": row.kind,
        "upstream": row.upstream,
        "time": row.time,
        "commit": row.commit,
        "tree": row.tree,
        "swhid": f"swh:1:rev:{row.commit}",
        "state": row.state,
        "files": row.files,
        "bytes": row.bytes,
        "exceptions": row.exceptions,
        "evidence": row.evidence,
        "title": row.title,
        "license": list(row.license),
        "doi": row.doi,
        "metadata_only": row.metadata_only,
    }


def told_file(row: FileRow) -> dict[str, Any]:
    """A file: size, key, digests, evidence."""
    return {
        "path": row.path,
        "size": row.size,
        "key": row.key,
        "digests": {one.algorithm: one.value for one in row.digests},
        "evidence": row.evidence.value,
        "checked": row.checked,
        "retention": row.retention.value,
    }


def told_level(row: LevelRow) -> dict[str, Any]:
    """What stands in a folder."""
    if row.file is not None:
        return {"type": "file", **told_file(row.file)}
    return {"type": "folder", "path": row.path, "files": row.files, "bytes": row.bytes}


def told_found(row: FoundFile) -> dict[str, Any]:
    """A place of some bytes."""
    told = asdict(row)
    told["digests"] = {one.algorithm: one.value for one in row.digests}
    told["evidence"], told["retention"] = row.evidence.value, row.retention.value
    return told


def told_event(row: EventRow) -> dict[str, Any]:
    """An event."""
    return {
        "id": row.id,
        "mirror": row.mirror,
        "dataset": row.dataset,
        "kind": row.kind,
        "message": row.message,
        "at": row.at,
    }


def told_mirror(row: MirrorStatus) -> dict[str, Any]:
    """A mirror at a glance."""
    return asdict(row)
