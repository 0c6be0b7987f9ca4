"""Questions in SQL that people may start from, in the form of Datasette's metadata."""

from __future__ import annotations

from collections.abc import Mapping

CANNED_QUERIES: Mapping[str, Mapping[str, str]] = {
    "newest_versions": {
        "title": "Versions that were recorded last",
        "sql": "SELECT m.name || ':' || d.local_id AS dataset, v.label, v.kind, "
        "nullif(v.time, '') AS time, v.files, v.bytes, v.minted FROM versions v "
        "JOIN datasets d ON d.id = v.dataset JOIN mirrors m ON m.id = d.mirror "
        "WHERE d.withheld = '' ORDER BY v.id DESC LIMIT 100",
    },
    "files_of_a_version": {
        "title": "Files of a version, of a dataset such as dandi:000027",
        "sql": "SELECT f.path, c.size, c.key, lower(hex(c.sha256)) AS sha256 FROM files f "
        "JOIN contents c ON c.id = f.content JOIN datasets d ON d.id = f.dataset "
        "JOIN mirrors m ON m.id = d.mirror JOIN versions v ON v.dataset = d.id "
        "WHERE m.name || ':' || d.local_id = :dataset AND v.label = :label AND f.since <= v.seq "
        "AND (f.until IS NULL OR f.until > v.seq) ORDER BY f.path LIMIT 1000",
    },
    "places_that_failed": {
        "title": "Places that did not give what they should when they were asked last",
        "sql": "SELECT url, kind, result, checked_at FROM locations "
        "WHERE result IS NOT NULL AND result <> 'ok' ORDER BY checked_at DESC LIMIT 1000",
    },
}
