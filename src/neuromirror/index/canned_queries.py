"""Canned SQL queries of the catalogue, in the form of Datasette's metadata."""

from __future__ import annotations

from collections.abc import Mapping

CANNED_QUERIES: Mapping[str, Mapping[str, str]] = {
    "newest_versions": {
        "title": "Versions recorded last",
        "sql": "SELECT m.name || ':' || d.local_id AS dataset, v.label, v.kind, "
        "nullif(v.time, '') AS time, v.files, v.bytes, v.recorded_at FROM versions v "
        "JOIN datasets d ON d.id = v.dataset JOIN mirrors m ON m.id = d.mirror "
        "WHERE d.withdrawn = '' ORDER BY v.id DESC LIMIT 100",
    },
    "version_files": {
        "title": "Files of a version of a dataset such as dandi:000027",
        "sql": "SELECT f.path, c.size, c.key, lower(hex(c.sha256)) AS sha256 FROM files f "
        "JOIN contents c ON c.id = f.content JOIN datasets d ON d.id = f.dataset "
        "JOIN mirrors m ON m.id = d.mirror JOIN versions v ON v.dataset = d.id "
        "WHERE m.name || ':' || d.local_id = :dataset AND v.label = :label AND f.since <= v.seq "
        "AND (f.until IS NULL OR f.until > v.seq) ORDER BY f.path LIMIT 1000",
    },
    "current_failures": {
        "title": "Failed tasks and visits not yet repeated successfully",
        "sql": "SELECT task, mirror, nullif(local_id, '') AS local_id, first_at, last_at "
        "FROM failures UNION ALL SELECT 'visit', m.name, d.local_id, t.started_at, t.ended_at "
        "FROM datasets d JOIN mirrors m ON m.id = d.mirror JOIN visits t ON t.id = d.last_visit "
        "WHERE t.status IN ('failed', 'partial') AND d.withdrawn = '' "
        "ORDER BY mirror, task, local_id LIMIT 1000",
    },
    "failed_locations": {
        "title": "Locations whose last probe failed",
        "sql": "SELECT url, kind, probe_result, probed_at FROM locations "
        "WHERE probe_result IS NOT NULL AND probe_result <> 'ok' "
        "ORDER BY probed_at DESC LIMIT 1000",
    },
}
