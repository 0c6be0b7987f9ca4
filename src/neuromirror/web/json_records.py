"""Conversion of index rows into the JSON shapes that pages and the API share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Literal, cast

from neuromirror.index import (
    ContentSpanRow,
    DatasetRow,
    EventRow,
    FailureRow,
    FileRow,
    FolderEntryRow,
    FoundDataset,
    FoundFile,
    HoldRow,
    Index,
    LocationRow,
    MirrorStatus,
    RelatedVersion,
    SubdatasetRow,
    Tombstone,
    VersionRow,
)
from neuromirror.lab.diff import FileChange
from neuromirror.sources.volumes import SCHEMES
from neuromirror.volume import VolumeDescription
from neuromirror.web import shapes, volume_shapes


def dataset_json(row: DatasetRow) -> shapes.DatasetJson:
    """Return a dataset with the version that its name refers to."""
    return {
        "name": row.name,
        "mirror": row.mirror,
        "title": row.title,
        "license": list(row.license),
        "doi": row.doi,
        "source": row.source_uri,
        "dataset_id": row.dataset_id,
        "versions": row.versions,
        "version": row.version,
        "newest": row.newest,
        "published": row.published,
        "time": row.time,
        "files": row.files,
        "bytes": row.bytes,
        "last_visit": row.last_visit,
        "status": row.status,
        "has_open_holds": bool(row.open_holds),
        "removed_upstream": row.is_removed_upstream,
        "is_subdataset": bool(row.within),
    }


def match_json(row: FoundDataset) -> shapes.MatchJson:
    """Return a search result: a dataset, and where its terms were found."""
    return {
        "dataset": dataset_json(row.dataset),
        "matched": [{"name": name, "value": value} for name, value in row.matched],
        "version": row.version,
        "path": row.path,
    }


def version_json(row: VersionRow) -> shapes.VersionJson:
    """Return a version: its ids, counts and evidence."""
    return {
        "name": row.name,
        "dataset": row.dataset_name,
        "version": row.label,
        "kind": cast("Literal['published', 'observed']", row.kind),
        "upstream": row.upstream,
        "time": row.upstream_time,
        "observed_at": row.recorded_at,
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


def file_json(row: FileRow) -> shapes.FileJson:
    """Return a file: size, key, digests and evidence."""
    return {
        "path": row.path,
        "size": row.size,
        "key": row.key,
        "digests": {one.algorithm: one.value for one in row.digests},
        "evidence": row.evidence.value,
        "checked": row.checked,
        "retention": row.retention.value,
    }


def folder_entry_json(row: FolderEntryRow) -> shapes.FolderFileJson | shapes.SubfolderJson:
    """Return an entry of a folder: a file or a subfolder."""
    if row.file is not None:
        return {"type": "file", **file_json(row.file)}
    return {"type": "folder", "path": row.path, "files": row.files, "bytes": row.bytes}


def occurrence_json(row: FoundFile) -> shapes.OccurrenceJson:
    """Return an occurrence of a content: a dataset, a path and a range of versions."""
    return {
        "dataset": row.dataset,
        "path": row.path,
        "first": row.first,
        "last": row.last,
        "current": row.current,
        "size": row.size,
        "key": row.key,
        "digests": {one.algorithm: one.value for one in row.digests},
        "evidence": row.evidence.value,
        "checked": row.checked,
        "retention": row.retention.value,
        "urls": list(row.urls),
    }


def event_json(row: EventRow) -> shapes.EventJson:
    """Return an event."""
    return {
        "id": row.id,
        "mirror": row.mirror,
        "dataset": row.dataset,
        "kind": row.kind,
        "message": row.message,
        "at": row.at,
    }


def mirror_json(row: MirrorStatus) -> shapes.MirrorJson:
    """Return the status of a mirror."""
    return {
        "mirror": row.mirror,
        "source": row.source,
        "uri": row.uri,
        "datasets": row.datasets,
        "mirrored": row.mirrored,
        "subdatasets": row.subdatasets,
        "versions": row.versions,
        "files": row.files,
        "bytes": row.bytes,
        "contents": row.contents,
        "last_visit": row.last_visit,
        "last_full_visit": row.last_full_visit,
        "failing": row.failing,
        "settling": row.settling,
        "unreadable_sidecars": row.unreadable_sidecars,
        "removed_upstream": row.removed_upstream,
        "open_holds": row.open_holds,
        "incidents": row.incidents,
        "capabilities": row.capabilities,
    }


def failure_json(row: FailureRow) -> shapes.FailureJson:
    """Return a failure without its message, which may contain private URLs or paths."""
    return {"task": row.task, "mirror": row.mirror, "dataset": row.dataset, "since": row.since}


def hold_json(row: HoldRow) -> shapes.HoldJson:
    """Return an open hold."""
    return {
        "hold": row.hold,
        "dataset": row.dataset,
        "upstream": row.upstream,
        "state": row.state,
        "reason": row.reason,
        "files_removed": row.files_removed,
        "files_before": row.files_before,
        "placed_at": row.placed_at,
    }


def tombstone_json(row: Tombstone) -> shapes.TombstoneJson:
    """Return the tombstone of a withdrawn dataset."""
    return {"dataset": row.dataset, "at": row.at, "reason": row.reason, "within": row.within}


def location_json(row: LocationRow) -> shapes.LocationJson:
    """Return a location and its last probe."""
    return {
        "url": row.url,
        "kind": row.kind,
        "version_id": row.version_id,
        "checked_at": row.checked_at,
        "result": row.result,
    }


def span_json(row: ContentSpanRow) -> shapes.SpanJson:
    """Return the content of a path over a range of versions."""
    return {
        "first": row.first,
        "last": row.last,
        "current": row.current,
        "size": row.size,
        "key": row.key,
    }


def subdataset_json(row: SubdatasetRow) -> shapes.SubdatasetJson:
    """Return a subdataset."""
    return {
        "path": row.path,
        "dataset": row.dataset,
        "version": row.label,
        "commit": row.commit,
        "state": row.state,
        "files": row.files,
        "bytes": row.bytes,
    }


def relative_json(row: RelatedVersion) -> shapes.EdgeJson:
    """Return an edge of the ancestry and, recursively, its further relatives."""
    return {
        "name": row.edge.name,
        "dataset": row.edge.dataset,
        "version": row.edge.label,
        "own_version": row.edge.own_label,
        "relatives": [relative_json(one) for one in row.relatives],
        "is_truncated": row.is_truncated,
    }


def other_occurrences_json(
    index: Index, row: VersionRow, file: FileRow, limit: int
) -> tuple[list[shapes.OccurrenceJson], bool]:
    """Return other occurrences of a file's content, and whether there are more than ``limit``."""
    # occurrences at the same dataset and path are its history
    others = (
        occurrence_json(one)
        for one in index.find(file.key)
        if (one.dataset, one.path) != (row.dataset_name, file.path)
    )
    found = list(islice(others, limit + 1))
    return found[:limit], len(found) > limit


def change_json(change: FileChange) -> shapes.ChangeJson:
    """Return the change of a file between two versions."""
    return {
        "kind": change.kind,
        "path": change.path,
        "before": change.before,
        "old_digest": change.old_digest,
        "new_digest": change.new_digest,
        "old_size": change.old_size,
        "new_size": change.new_size,
        "files": change.files,
        "message": change.message,
    }


def is_volume(source: str, links: Iterable[tuple[str, str]]) -> bool:
    """Whether a dataset is a volume: a channel with a cutout service, or a precomputed layer."""
    return source.partition("://")[0] in SCHEMES or any(kind == "precomputed" for kind, _ in links)


def volume_json(found: VolumeDescription) -> volume_shapes.VolumeJson:
    """Return a volume with its levels from the finest on; triples are x, y, z."""
    volume = found.volume
    times = volume.times
    frame, about = found.frame
    samples = 1 if times is None else len(times)
    return {
        "version": found.version,
        "kind": "annotation" if volume.labels else "image",
        "format": found.format,
        "data_type": volume.dtype,
        "unit": volume.unit,
        "frame": {"name": frame, "description": about} if frame else None,
        "times": None
        if times is None
        else {
            "first": times[0],
            "last": times[-1],
            "step": volume.time_step,
            "unit": volume.time_unit,
        },
        "levels": [
            {
                "level": level.name,
                "folder": stored.folder,
                "start": list(level.start),
                "stop": list(level.stop),
                "extent": list(level.extent),
                "voxel_size": list(level.voxel),
                "block": list(level.chunk),
                "block_bytes": volume.chunk_bytes(level),
                "blocks": samples * math.prod(level.grid),
                "bytes": samples * math.prod(level.extent) * volume.item_size,
                "encoding": stored.encoding,
                "unreadable_reason": stored.unreadable_reason or None,
            }
            for level, stored in zip(volume.levels, found.storage, strict=True)
        ],
    }
