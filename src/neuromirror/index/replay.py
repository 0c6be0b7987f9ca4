"""Apply journal entries to the tables.

Rows must depend on the entry, the version's records and the existing rows, and on nothing else
(I8): no clock, no random id, no order of a set.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict, replace

from neuromirror.index.connection import JournalDamagedError
from neuromirror.index.contents import record_block_digests, short_hash
from neuromirror.index.dataset_text import mark_stale, write_attributes
from neuromirror.index.file_writer import (
    RecordCounts,
    record_changes,
    record_files,
    record_subdatasets,
    update_records,
)
from neuromirror.index.reader import CURRENT
from neuromirror.model import (
    UNREADABLE,
    AnnexBranchMoved,
    ContentsDigested,
    DatasetRef,
    DatasetReinstated,
    DatasetWithdrawn,
    EventRaised,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    JournalEntry,
    LinksFound,
    LocationsChecked,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    TaskFailed,
    TaskRecovered,
    VersionMinted,
    VisitEnded,
    dump_snapshot_entry,
)
from neuromirror.model.errors import escape_surrogates
from neuromirror.model.records import plain_url

if TYPE_CHECKING:
    from neuromirror.store import Store

INDEX_TASK: Final = "index"
"""The task of a failure that names a version missing from the index."""


def apply_entry(connection: sqlite3.Connection, entry: JournalEntry, store: Store) -> None:
    """Write the effects of a journal entry to the tables of the index.

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    entry
        The entry.
    store
        The store, for the records of a version.
    """
    match entry:
        case MirrorSeen():
            connection.execute(
                "INSERT INTO mirrors (name, source, uri, last_seen) VALUES (?,?,?,?) "
                "ON CONFLICT (name) DO UPDATE SET source = excluded.source, uri = excluded.uri, "
                "last_seen = excluded.last_seen",
                (entry.mirror, entry.source, entry.uri, entry.at),
            )
        case MirrorProbed():
            connection.execute(
                "UPDATE mirrors SET capabilities = ? WHERE id = ?",
                (_compact_json(entry.capabilities), _mirror_number(connection, entry.mirror)),
            )
        case VersionMinted():
            _apply_version(connection, entry, store)
        case AnnexBranchMoved():
            _apply_new_records(connection, entry, store)
        case VisitEnded():
            _apply_visit(connection, entry)
        case LinksFound():
            dataset = _dataset_number(connection, entry.mirror, entry.local_id, entry.source_uri)
            connection.execute(
                "UPDATE datasets SET links = ? WHERE id = ?", (_compact_json(entry.links), dataset)
            )
            mark_stale(connection, dataset)
        case HoldPlaced():
            _apply_hold(connection, entry)
        case HoldReleased():
            connection.execute(
                "UPDATE holds SET outcome = 'released', ended_at = ?, released_by = ?, "
                "visit_at_release = "
                "(SELECT d.last_visit FROM datasets d WHERE d.id = holds.dataset) "
                "WHERE hold = ? AND outcome IS NULL",
                (entry.at, entry.by, entry.hold),
            )
        case HoldLapsed():
            connection.execute(
                "UPDATE holds SET outcome = 'lapsed', ended_at = ? "
                "WHERE hold = ? AND outcome IS NULL",
                (entry.at, entry.hold),
            )
        case EventRaised():
            _apply_event(connection, entry)
        case LocationsChecked():
            for result, urls in sorted(entry.found.items()):
                for url in urls:
                    _record_probe(connection, url, result, entry.at)
        case ContentsDigested():
            record_block_digests(connection, entry)
        case DatasetWithdrawn() | DatasetReinstated():
            _apply_withdrawal(connection, entry)
        case TaskFailed():
            _apply_failure(connection, entry)
        case TaskRecovered():
            _apply_recovery(connection, entry)


def record_skipped_version(
    connection: sqlite3.Connection,
    entry: VersionMinted | AnnexBranchMoved,
    error: NeuromirrorError | ValueError,
) -> None:
    """Record as a failed task that records are not in the index because they are damaged.

    The failure is removed when the journal has the version again, which the next visit of its
    dataset ensures, or when the index is rebuilt.

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    entry
        The journal entry of the version, or of its later records.
    error
        The error of reading its records.
    """
    named = (
        f"version {entry.label} (commit {entry.commit})"
        if isinstance(entry, VersionMinted)
        else f"what the archive stated later about commit {entry.commit}"
    )
    message = (
        f"{named} is not in the index: {error}. Run "
        "'neuromirror rebuild-index', which reads missing records from git"
    )
    _apply_failure(
        connection, TaskFailed(INDEX_TASK, entry.mirror, entry.local_id, message, entry.at)
    )


def _apply_failure(connection: sqlite3.Connection, entry: TaskFailed) -> None:
    message = escape_surrogates(entry.message)
    connection.execute(
        "INSERT INTO failures VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE "
        "SET message = excluded.message, last_at = excluded.last_at",
        (entry.task, entry.mirror, entry.local_id, message, entry.at, entry.at),
    )


def _apply_recovery(connection: sqlite3.Connection, entry: TaskRecovered) -> None:
    """End a failure; that of a mirror as a whole leaves an event with its begin and end."""
    failure = connection.execute(
        "DELETE FROM failures WHERE task = ? AND mirror = ? AND local_id = ? "
        "RETURNING first_at, message",
        (entry.task, entry.mirror, entry.local_id),
    ).fetchone()
    if failure is not None and entry.mirror and not entry.local_id:
        since, message = failure
        text = f"{entry.task} failed from {since} to {entry.at}: {message}"
        data = {"task": entry.task, "begin": since, "end": entry.at}
        _apply_event(connection, EventRaised(entry.mirror, "", "outage", text, entry.at, data))


def _apply_version(connection: sqlite3.Connection, entry: VersionMinted, store: Store) -> None:
    dataset = _dataset_number(connection, entry.mirror, entry.local_id, entry.source_uri)
    if UNREADABLE in entry.attributes:
        entry = _complete_from_last(connection, dataset, entry)
    title = escape_surrogates(entry.title)
    attributes = {
        escape_surrogates(name): sorted(set(map(escape_surrogates, values)))
        for name, values in entry.attributes.items()
    }
    mark_stale(connection, dataset)
    # a writer killed after appending an entry appends it again
    if connection.execute(
        "SELECT 1 FROM versions WHERE dataset = ? AND commit_id = ?", (dataset, entry.commit)
    ).fetchone():
        return
    last = connection.execute(
        "SELECT seq, records, files, indexed FROM versions WHERE dataset = ? "
        "ORDER BY seq DESC LIMIT 1",
        (dataset,),
    ).fetchone()
    seq = 1 if last is None else last[0] + 1
    version = _insert_version(connection, dataset, seq, entry, title, attributes)
    connection.executemany(
        "INSERT INTO inputs VALUES (?,?)",
        [(version, name) for name in sorted(set(map(escape_surrogates, entry.inputs)))],
    )
    recorded = _write_files(connection, dataset, version, seq, last, entry, store)
    connection.execute(
        "DELETE FROM failures WHERE task = ? AND mirror = ? AND local_id = ? "
        "AND instr(message, ?) > 0",
        (INDEX_TASK, entry.mirror, entry.local_id, entry.commit),
    )
    connection.execute(
        "UPDATE datasets SET newest_version = ?, within = ? WHERE id = ?",
        (version, entry.within, dataset),
    )
    if _is_current(connection, dataset, version):
        connection.execute(
            "UPDATE datasets SET title = ? WHERE id = ? AND ? <> ''", (title, dataset, title)
        )
        write_attributes(connection, dataset, attributes)
    connection.execute(
        "UPDATE mirrors SET first_contents = first_contents + ? WHERE name = ?",
        (recorded.contents, entry.mirror),
    )


def _insert_version(
    connection: sqlite3.Connection,
    dataset: int,
    seq: int,
    entry: VersionMinted,
    title: str,
    attributes: dict[str, list[str]],
) -> int:
    """Insert the row of a version and return its number."""
    values = asdict(entry) | {
        "dataset": dataset,
        "seq": seq,
        "time": entry.time or "",
        "exception_count": len(entry.exceptions),
        "exceptions": _compact_json(entry.exceptions),
        "evidence": _compact_json(entry.evidence),
        "title": title,
        "license": _compact_json([escape_surrogates(name) for name in entry.license]),
        "doi": None if entry.doi is None else escape_surrogates(entry.doi),
        "attributes": _compact_json(attributes),
        "inline": _compact_json(entry.inline),
    }
    version = connection.execute(
        "INSERT INTO versions (dataset, seq, label, upstream, kind, state, commit_id, tree_id, "
        "annex_commit_id, time, files, bytes, exception_count, exceptions, evidence, title, "
        "license, doi, metadata_only, recorded_at, metadata_digest, attributes, form, "
        "manifest_only_files, manifest_only_bytes, inline_components, indexed, records) "
        "VALUES (:dataset, :seq, :label, :upstream, :kind, :state, :commit, :tree, "
        ":annex_commit, :time, :files, :bytes, :exception_count, :exceptions, :evidence, :title, "
        ":license, :doi, :metadata_only, :at, :metadata, :attributes, :form, "
        ":manifest_only_files, :manifest_only_bytes, :inline, :indexed, :commit)",
        values,
    ).lastrowid
    assert version is not None
    return version


def _complete_from_last(
    connection: sqlite3.Connection, dataset: int, entry: VersionMinted
) -> VersionMinted:
    """Return an entry with the metadata of the version before where a sidecar is unreadable.

    The attributes of that version were completed in the same way, so they are the last readable
    ones.
    """
    last = connection.execute(
        "SELECT id, kind, title, license, attributes FROM versions WHERE dataset = ? "
        "ORDER BY kind <> ?, seq DESC LIMIT 1",
        (dataset, entry.kind),
    ).fetchone()
    if last is None:
        return entry
    version, _, title, license_, attributes = last
    inputs = connection.execute("SELECT name FROM inputs WHERE version = ?", (version,))
    known: dict[str, list[str]] = json.loads(attributes)
    known.pop(UNREADABLE, None)
    return replace(
        entry,
        title=title or entry.title,
        license=entry.license or json.loads(license_),
        inputs=entry.inputs or [name for (name,) in inputs],
        attributes=known | entry.attributes,
    )


def _write_files(
    connection: sqlite3.Connection,
    dataset: int,
    version: int,
    seq: int,
    last: tuple[int, str, int, int] | None,
    entry: VersionMinted,
    store: Store,
) -> RecordCounts:
    """Write the version's files and subdatasets.

    ``last`` is the version before: seq, name of its records, files, indexed.

    If the version is not indexed, write its subdatasets only; without any, its records are not
    read.
    """
    reference = entry.dataset_ref
    where = f"{reference.name}@{entry.label} (commit {entry.commit})"
    if not entry.indexed and entry.in_subdatasets == 0:
        return record_subdatasets(connection, dataset, seq, (), where)
    changes = store.records.changes(reference.dataset_id, entry.commit)
    if not entry.indexed:
        lines = store.records.lines(reference.dataset_id, entry.commit)
        recorded = record_subdatasets(connection, dataset, seq, lines, where)
    elif changes is not None and last is not None and changes[0] == last[1] and last[3]:
        recorded = record_changes(
            connection,
            dataset,
            version,
            seq,
            last[2],
            changes[1],
            where,
            index_terms=not entry.within,
        )
    else:
        lines = store.records.lines(reference.dataset_id, entry.commit)
        recorded = record_files(
            connection, dataset, version, seq, lines, where, index_terms=not entry.within
        )
    if recorded.files != entry.files:
        # fewer records than files would turn a damaged file into deletions
        raise JournalDamagedError(
            f"the records of {where} have {recorded.files} files, the journal {entry.files}; "
            "the store is damaged: run `neuromirror fsck`"
        )
    return recorded


def _apply_new_records(
    connection: sqlite3.Connection, entry: AnnexBranchMoved, store: Store
) -> None:
    """Write what upstream states about the files of a version since it was recorded."""
    dataset = _dataset_number(connection, entry.mirror, entry.local_id, entry.source_uri)
    found = connection.execute(
        "SELECT id, seq, indexed, records FROM versions WHERE dataset = ? AND commit_id = ? "
        "AND records <> ?",
        (dataset, entry.commit, entry.records),
    ).fetchone()
    if not entry.records or found is None:
        return  # only the git-annex branch changed, or the entry was appended twice
    version, seq, indexed, current = found
    if indexed:
        reference = entry.dataset_ref
        where = f"{reference.name} (commit {entry.commit})"
        changes = store.records.changes(reference.dataset_id, entry.records)
        if changes is None or changes[0] != current:
            lines = store.records.lines(reference.dataset_id, entry.records)
        else:
            lines = (dump_snapshot_entry(new) for _, new in changes[1] if new is not None)
        update_records(connection, dataset, version, seq, lines, where)
    connection.execute(
        "UPDATE versions SET records = ?, annex_commit_id = ? WHERE id = ?",
        (entry.records, entry.annex_commit, version),
    )


def _apply_visit(connection: sqlite3.Connection, entry: VisitEnded) -> None:
    dataset = _dataset_number(connection, entry.mirror, entry.local_id, entry.source_uri)
    title = escape_surrogates(entry.title)
    visit = connection.execute(
        "INSERT INTO visits (dataset, visit, started_at, ended_at, status, fingerprint, pending, "
        "message, traffic) VALUES (:dataset, :visit, :started, :ended, :status, :fingerprint, "
        ":pending, :message, :traffic)",
        asdict(entry) | {"dataset": dataset, "traffic": _compact_json(entry.traffic)},
    ).lastrowid
    connection.execute(
        "UPDATE datasets SET last_visit = ?, "
        "last_full_visit = CASE WHEN ? = 'full' THEN ? ELSE last_full_visit END, "
        # the title of a version has precedence over that in a listing of datasets
        "title = CASE WHEN newest_version IS NULL AND ? <> '' THEN ? ELSE title END WHERE id = ?",
        (visit, entry.status, entry.ended, title, title, dataset),
    )
    if connection.execute(
        "SELECT 1 FROM datasets WHERE id = ? AND newest_version IS NULL", (dataset,)
    ).fetchone():
        mark_stale(connection, dataset)


def _apply_hold(connection: sqlite3.Connection, entry: HoldPlaced) -> None:
    dataset = _dataset_number(connection, entry.mirror, entry.local_id)
    connection.execute(
        "INSERT INTO holds (hold, dataset, upstream, state, reason, files_removed, files_before, "
        "placed_at) SELECT :hold, :dataset, :upstream, :state, :reason, :removed, :before, :at "
        "WHERE NOT EXISTS (SELECT 1 FROM holds WHERE hold = :hold AND outcome IS NULL)",
        asdict(entry) | {"dataset": dataset},
    )


def _apply_event(connection: sqlite3.Connection, entry: EventRaised) -> None:
    mirror = _mirror_number(connection, entry.mirror)
    dataset = _dataset_number(connection, entry.mirror, entry.local_id) if entry.local_id else None
    connection.execute(
        "INSERT INTO events (mirror, dataset, kind, message, at, data) VALUES (?,?,?,?,?,?)",
        (mirror, dataset, entry.kind, entry.message, entry.at, _compact_json(entry.data)),
    )
    url, result = entry.data.get("url"), entry.data.get("result")
    if isinstance(url, str) and isinstance(result, str):
        _record_probe(connection, url, result, entry.at)


def _apply_withdrawal(
    connection: sqlite3.Connection, entry: DatasetWithdrawn | DatasetReinstated
) -> None:
    dataset = _dataset_number(connection, entry.mirror, entry.local_id, entry.source_uri)
    withdrawn = ""
    if isinstance(entry, DatasetWithdrawn):
        withdrawn = _compact_json({"at": entry.at, "reason": entry.reason, "within": entry.within})
        message = f"withdrawn by {entry.by}: {entry.reason}"
    else:
        message = f"reinstated by {entry.by}"
    connection.execute("UPDATE datasets SET withdrawn = ? WHERE id = ?", (withdrawn, dataset))
    mark_stale(connection, dataset)
    connection.execute(
        "INSERT INTO events (mirror, dataset, kind, message, at, data) VALUES (?,?,?,?,?,?)",
        (_mirror_number(connection, entry.mirror), dataset, "takedown", message, entry.at, "{}"),
    )


def _record_probe(connection: sqlite3.Connection, url: str, result: str, at: str) -> None:
    connection.execute(
        "UPDATE locations SET probed_at = ?, probe_result = ? WHERE url_hash = ? AND url = ?",
        (at, result, short_hash(plain_url(url)), url),
    )


def _mirror_number(connection: sqlite3.Connection, name: str) -> int:
    connection.execute(
        "INSERT INTO mirrors (name, source, uri) VALUES (?, '', '') ON CONFLICT DO NOTHING", (name,)
    )
    (number,) = connection.execute("SELECT id FROM mirrors WHERE name = ?", (name,)).fetchone()
    return int(number)


def _dataset_number(
    connection: sqlite3.Connection, mirror: str, local_id: str, source_uri: str | None = None
) -> int:
    """Return the id of a dataset; insert it on first mention, and update its source URI."""
    number = _mirror_number(connection, mirror)
    found = connection.execute(
        "SELECT id, source_uri FROM datasets WHERE mirror = ? AND local_id = ?", (number, local_id)
    ).fetchone()
    if found is None:
        row = connection.execute(
            "INSERT INTO datasets (mirror, local_id) VALUES (?, ?)", (number, local_id)
        ).lastrowid
        found = (row, None)
        assert row is not None
        mark_stale(connection, row)
    if source_uri and source_uri != found[1]:
        dataset_id = DatasetRef(mirror, local_id, source_uri).dataset_id
        connection.execute(
            "UPDATE datasets SET source_uri = ?, dataset_id = ? WHERE id = ?",
            (source_uri, dataset_id, found[0]),
        )
    return int(found[0])


def _is_current(connection: sqlite3.Connection, dataset: int, version: int) -> bool:
    """Return whether a version is the one that its dataset's name stands for."""
    (current,) = connection.execute(
        f"SELECT {CURRENT} FROM datasets d WHERE d.id = ?", (dataset,)
    ).fetchone()
    return bool(current == version)


def _compact_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def is_indexed(version: VersionMinted, index_entries: int) -> bool:
    """Return whether a version's files are in the index, by the setting of its mirror.

    Parameters
    ----------
    version
        The journal entry of the version.
    index_entries
        The setting of the mirror: the largest number of files of a component whose files are
        indexed.

    Returns
    -------
    bool
        Whether the index has a row per file.
    """
    return not version.within or version.files <= index_entries


def effective_entries(store: Store, position: int = 0) -> Iterator[tuple[int, JournalEntry]]:
    """Yield the journal's entries as modified by later entries, with the positions of their ends.

    For each mirror, the last setting after ``position`` applies to all versions from there up to
    it; for each dataset, the last withdrawal or reinstatement after ``position`` applies.

    Parameters
    ----------
    store
        The store.
    position
        The byte position at which to start.

    Yields
    ------
    tuple[int, JournalEntry]
        The position of the entry's end in bytes, and the entry.
    """
    last: dict[str, tuple[int, int]] = {}
    withdrawn: set[tuple[str, str]] = set()
    for end, entry in store.journal.read(position):
        if isinstance(entry, MirrorSeen) and entry.index_entries is not None:
            last[entry.mirror] = end, entry.index_entries
        elif isinstance(entry, DatasetWithdrawn):
            withdrawn.add((entry.mirror, entry.local_id))
        elif isinstance(entry, DatasetReinstated):
            withdrawn.discard((entry.mirror, entry.local_id))
    for end, entry in store.journal.read(position):
        if isinstance(entry, _DATASET_ENTRIES) and (entry.mirror, entry.local_id) in withdrawn:
            bare = _strip_entry(entry)
            if bare is not None:
                yield end, bare
        elif isinstance(entry, VersionMinted) and end < last.get(entry.mirror, (0, 0))[0]:
            yield end, replace(entry, indexed=is_indexed(entry, last[entry.mirror][1]))
        else:
            yield end, entry


_DATASET_ENTRIES = (
    VersionMinted,
    AnnexBranchMoved,
    VisitEnded,
    LinksFound,
    HoldPlaced,
    EventRaised,
    LocationsChecked,
)


def _strip_entry(entry: JournalEntry) -> JournalEntry | None:
    """Return the part of a withdrawn dataset's entry that is indexed; None if nothing is."""
    if isinstance(entry, VisitEnded):
        return replace(entry, title="", message="")
    if not isinstance(entry, VersionMinted):
        return None
    return replace(
        entry,
        exceptions=[],
        evidence={},
        title="",
        license=[],
        doi=None,
        attributes={},
        inputs=[],
        inline=[],
        indexed=False,
        in_subdatasets=0,
    )
