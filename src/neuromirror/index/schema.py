"""The tables of the index, created in one transaction.

``PRAGMA application_id`` identifies the file and ``PRAGMA user_version`` is the version of its
schema. There are no migrations: an index with another version is rebuilt from the store. To change
a table, change its definition here and raise :data:`SCHEMA`. sqlite-utils creates the plain tables;
those with ``WITHOUT ROWID``, ``CHECK``, compound or circular references, indexes of expressions and
full-text tables of their own are in SQL, because sqlite-utils has none of these.

All rows must stay a function of the journal and the records alone: no clocks, no random ids (I8).
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.db import Table

APPLICATION_ID = 0x6E6D6978  # "nmix"
SCHEMA = 18

LAST_COMPONENT = "substr({0}, length(rtrim({0}, replace({0}, '/', ''))) + 1)"
"""SQL of the last component of a path or local id.

SQLite has no function for it: trimming everything but slashes off the end leaves the folder.
"""

_DATASETS = f"""
CREATE TABLE datasets (
    id INTEGER PRIMARY KEY,
    mirror INTEGER NOT NULL REFERENCES mirrors (id),
    local_id TEXT NOT NULL,
    source_uri TEXT,  -- null while only a hold or an event has named the dataset
    dataset_id TEXT,  -- DataLad's
    title TEXT NOT NULL DEFAULT '',
    newest_version INTEGER REFERENCES versions (id),
    last_visit INTEGER REFERENCES visits (id),
    last_full_visit TEXT,  -- time at which the last full visit ended
    within TEXT NOT NULL DEFAULT '',  -- local id of the superdataset
    links TEXT NOT NULL DEFAULT '[]',  -- JSON: [kind, URL] pairs
    withdrawn TEXT NOT NULL DEFAULT '',  -- JSON: at, reason, within; '' unless withdrawn
    UNIQUE (mirror, local_id)
) STRICT;
CREATE INDEX datasets_dataset_id ON datasets (dataset_id);
CREATE INDEX datasets_tail ON datasets ({LAST_COMPONENT.format("local_id")});

CREATE TABLE versions (
    id INTEGER PRIMARY KEY,
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    seq INTEGER NOT NULL,  -- 1, 2, 3 ... in the journal's order
    label TEXT NOT NULL,
    upstream TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('published', 'observed')),
    state TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    tree_id TEXT NOT NULL,
    annex_commit_id TEXT NOT NULL,
    time TEXT NOT NULL,  -- upstream's; '' where it has none
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    exception_count INTEGER NOT NULL,
    exceptions TEXT NOT NULL,  -- JSON
    evidence TEXT NOT NULL,  -- JSON: number of files by evidence
    title TEXT NOT NULL,
    license TEXT NOT NULL,  -- JSON: list of names
    doi TEXT,
    metadata_only INTEGER NOT NULL,
    recorded_at TEXT NOT NULL,
    metadata_digest TEXT NOT NULL,
    attributes TEXT NOT NULL,  -- JSON: values by name
    form TEXT NOT NULL,  -- files | manifest, '' if unspecified
    manifest_only_files INTEGER NOT NULL,  -- those that are not in git
    manifest_only_bytes INTEGER NOT NULL,
    inline_components TEXT NOT NULL,  -- JSON: folders that are components
    indexed INTEGER NOT NULL,  -- 0: the table files has no rows of this version
    records TEXT NOT NULL,  -- name in the store: the commit, or <commit>.<number> if they changed
    UNIQUE (dataset, seq),
    UNIQUE (dataset, commit_id)
) STRICT;
CREATE INDEX versions_commit ON versions (commit_id);
CREATE INDEX versions_not_indexed ON versions (dataset, files, indexed) WHERE NOT indexed;

-- Attributes of the current version of each dataset.
CREATE TABLE attributes (
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    name TEXT NOT NULL COLLATE NOCASE,
    value TEXT NOT NULL,
    casefolded TEXT NOT NULL,  -- the value, for searches that ignore case
    PRIMARY KEY (dataset, name, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX attributes_value ON attributes (name, casefolded);

-- Inputs from which a version was derived. Each query resolves the names to datasets, because an
-- input may be mirrored later than the dataset that was derived from it.
CREATE TABLE inputs (
    version INTEGER NOT NULL REFERENCES versions (id),
    name TEXT NOT NULL,  -- upstream's
    PRIMARY KEY (version, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX inputs_name ON inputs (name);

CREATE TABLE facets (
    facet TEXT NOT NULL,
    value TEXT NOT NULL,
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    PRIMARY KEY (facet, value, dataset)
) STRICT, WITHOUT ROWID;
CREATE INDEX facets_dataset ON facets (dataset);
CREATE TABLE data_types (  -- kinds of files of any version
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    type TEXT NOT NULL,
    PRIMARY KEY (dataset, type)
) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE dataset_text USING fts5 (
    name, title, keywords, species, anatomy, techniques, variables, people, institutions, funders,
    attributes, other, description, readme, license, doi,
    tokenize = 'porter unicode61 remove_diacritics 2'
);
-- The words themselves, not their stems: for prefixes.
CREATE VIRTUAL TABLE dataset_text_tokens USING fts5 (
    tokens, content = '', detail = none, tokenize = 'unicode61 remove_diacritics 2'
);
"""

_FILES = """
-- One row per distinct content, that is per git-annex key. Digests are indexed by their first eight
-- bytes only, which makes the indexes a third of the size; a lookup compares the whole value in
-- the row. The single writer keeps keys unique. Most keys contain a digest, which key_hash finds:
-- the indexes of the digest columns hold the other digests only.
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    key_hash BLOB NOT NULL,  -- urls.key_hash: eight bytes of the digest in the key, or its blake2b
    size INTEGER,
    sha256 BLOB CHECK (length(sha256) = 32),
    md5 BLOB CHECK (length(md5) = 16),
    etag BLOB CHECK (length(etag) = 16),  -- md5 of the concatenated md5s of the parts
    parts INTEGER,
    part_size INTEGER,
    checked INTEGER NOT NULL DEFAULT 0,  -- bits of digests computed here: 1 sha256, 2 md5, 4 etag
    sha256_by INTEGER REFERENCES claimants (id),
    md5_by INTEGER REFERENCES claimants (id),
    etag_by INTEGER REFERENCES claimants (id)
) STRICT;
CREATE INDEX contents_key ON contents (key_hash);
CREATE INDEX contents_sha256 ON contents (substr(sha256, 1, 8))
    WHERE substr(sha256, 1, 8) <> key_hash;
CREATE INDEX contents_md5 ON contents (substr(md5, 1, 8))
    WHERE substr(md5, 1, 8) <> key_hash;
CREATE INDEX contents_etag ON contents (substr(etag, 1, 8))
    WHERE substr(etag, 1, 8) <> key_hash;

-- Further digests of a content: the same bytes uploaded with another part size, a contradicting
-- claim, an algorithm without a column.
CREATE TABLE other_digests (
    content INTEGER NOT NULL REFERENCES contents (id),
    algorithm TEXT NOT NULL,
    value TEXT NOT NULL,
    part_size INTEGER NOT NULL,  -- 0: none
    claimant INTEGER NOT NULL REFERENCES claimants (id),
    checked INTEGER NOT NULL,
    PRIMARY KEY (content, algorithm, value, part_size)
) STRICT, WITHOUT ROWID;
CREATE INDEX other_digests_value ON other_digests (value);

-- Contents whose block digests are in the store, and what the same pass over the bytes computed.
CREATE TABLE block_digests (
    content INTEGER PRIMARY KEY REFERENCES contents (id),
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    piece_size INTEGER NOT NULL,
    root BLOB NOT NULL CHECK (length(root) = 32)  -- BEP 52: pieces root
) STRICT;
CREATE INDEX block_digests_sha256 ON block_digests (sha256);
CREATE INDEX block_digests_root ON block_digests (root);

-- Present in version n: since <= n and (until is null or n < until), where n is indexed.
CREATE TABLE files (
    dataset INTEGER NOT NULL,
    path TEXT NOT NULL,  -- in the git tree
    since INTEGER NOT NULL,
    until INTEGER,
    content INTEGER NOT NULL REFERENCES contents (id),
    source_path BLOB,  -- upstream's path where it differs
    record_hash INTEGER NOT NULL,  -- blake2b-64 of the latest record line; if equal, unchanged
    retention INTEGER NOT NULL,  -- the strongest of the dataset's upstream: see rows.RETENTION
    PRIMARY KEY (dataset, path, since),
    FOREIGN KEY (dataset, since) REFERENCES versions (dataset, seq),
    FOREIGN KEY (dataset, until) REFERENCES versions (dataset, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_content ON files (content);

-- Subdatasets in a version's tree; since and until as in files.
CREATE TABLE subdatasets (
    dataset INTEGER NOT NULL,
    path TEXT NOT NULL,  -- in the git tree
    since INTEGER NOT NULL,
    until INTEGER,
    dataset_id TEXT NOT NULL,  -- DataLad's, of the subdataset
    local_id TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    state TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    source_path BLOB,  -- upstream's path where it differs
    PRIMARY KEY (dataset, path, since),
    FOREIGN KEY (dataset, since) REFERENCES versions (dataset, seq),
    FOREIGN KEY (dataset, until) REFERENCES versions (dataset, seq)
) STRICT, WITHOUT ROWID;

-- Terms of the paths in path_blocks; it cannot return text.
CREATE VIRTUAL TABLE path_text USING fts5 (
    terms, content = '', detail = none,
    tokenize = "unicode61 remove_diacritics 2 tokenchars '-'"
);
"""

_CRAWL = """
CREATE TABLE progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL  -- bytes of the journal applied
) STRICT;
INSERT INTO progress VALUES (1, 0);

-- Ids repeat: a listing that was held, lapsed and held again has two rows, of which one is open.
CREATE TABLE holds (
    id INTEGER PRIMARY KEY,
    hold TEXT NOT NULL,
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    upstream TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    files_removed INTEGER NOT NULL,
    files_before INTEGER NOT NULL,
    placed_at TEXT NOT NULL,
    outcome TEXT CHECK (outcome IN ('released', 'lapsed')),  -- null: open
    ended_at TEXT,
    released_by TEXT,
    visit_at_release INTEGER  -- the dataset's last visit when the hold was released
) STRICT;
CREATE INDEX holds_hold ON holds (hold);
CREATE INDEX holds_dataset ON holds (dataset);

-- Tasks that failed and have not succeeded since; failed visits are in visits.
CREATE TABLE failures (
    task TEXT NOT NULL,
    mirror TEXT NOT NULL,  -- name; '': the store
    local_id TEXT NOT NULL,  -- '': the whole mirror
    message TEXT NOT NULL,
    first_at TEXT NOT NULL,
    last_at TEXT NOT NULL,  -- time at which it last failed with another message than before
    PRIMARY KEY (task, mirror, local_id)
) STRICT, WITHOUT ROWID;
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty database, in one transaction.

    ``connection`` is in autocommit mode (``isolation_level=None``), without an open transaction;
    after an error, closing it rolls back.
    """
    connection.executescript(f"BEGIN IMMEDIATE; {_CRAWL} {_DATASETS} {_FILES}")
    database = _import_sqlite_utils()
    _create_plain_tables(database(connection, recursive_triggers=False, execute_plugins=False))
    for statement in (
        "CREATE INDEX locations_failing ON locations (probe_result) WHERE probe_result <> 'ok'",
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {SCHEMA}",
        "COMMIT",
    ):
        connection.execute(statement)


def _import_sqlite_utils() -> type[Database]:
    """Import sqlite-utils, which is not needed to read an index, without pandas and numpy.

    It imports them, if they are installed, to know types that no table here has: half a second.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in ("numpy", "pandas") if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        from sqlite_utils import Database
    finally:
        for name in hidden:
            del modules[name]
    return Database


def _create_plain_tables(db: Database) -> None:
    """Create the tables that sqlite-utils can express, with an integer as primary key."""

    def create(
        name: str,
        /,
        null: str = "",
        refer: str = "",
        defaults: dict[str, Any] | None = None,
        **columns: type,
    ) -> Table:
        key, *others = columns
        return db.create_table(
            name,
            columns,
            pk=key,
            not_null=set(others) - set(null.split()),
            defaults=defaults,
            # a column has the name of one row of the table that it refers to
            foreign_keys=[(column, f"{column.split('_')[-1]}s", "id") for column in refer.split()],
            strict=True,
        )

    create(
        "mirrors",
        null="last_seen",
        defaults={"first_contents": 0, "capabilities": "{}"},
        id=int,
        name=str,
        source=str,
        uri=str,
        last_seen=str,
        first_contents=int,  # distinct contents first recorded by this mirror
        capabilities=str,  # JSON: value by name
    ).create_index(["name"], unique=True)

    create("claimants", id=int, name=str).create_index(["name"], unique=True)

    # What searches for datasets read; see dataset_text. Rows of withdrawn datasets are removed.
    create(
        "listed_datasets",
        refer="dataset",
        dataset=int,
        is_subdataset=int,
        time=str,  # of the current version
        bytes=int,
        title=str,  # casefolded
    )
    # Datasets to write into these tables; empty between transactions.
    create("stale_text", refer="dataset", dataset=int)

    locations = create(
        "locations",
        null="version_id probed_at probe_result",
        refer="content last_version",
        id=int,
        content=int,
        rank=int,  # 0 object version, 1 object that may be overwritten, 2 other URL
        url=str,
        kind=str,
        version_id=str,  # only where the URL has no versionId
        url_hash=int,  # blake2b-64 of the URL without its versionId
        last_version=int,  # the last that added a file from here
        probed_at=str,
        probe_result=str,
    )
    locations.create_index(["content", "rank"], "locations_content")
    locations.create_index(["url_hash"], "locations_url")
    locations.create_index(["probed_at"], "locations_probed")

    # Paths added by versions of datasets other than subdatasets, in blocks: see dataset_text.
    create(
        "path_blocks",
        id=int,  # version << 20 | position of the block
        first=str,  # path
        last=str,
    )

    create(
        "visits",
        refer="dataset",
        id=int,
        dataset=int,
        visit=str,
        started_at=str,
        ended_at=str,
        status=str,
        fingerprint=str,
        pending=int,
        message=str,
        traffic=str,  # JSON: counts by host
    ).create_index(["dataset"], "visits_dataset")

    events = create(
        "events",
        null="dataset",
        refer="mirror dataset",
        id=int,
        mirror=int,
        dataset=int,
        kind=str,
        message=str,
        at=str,
        data=str,  # JSON
    )
    events.create_index(["dataset"], "events_dataset")
    events.create_index(["kind", "mirror"], "events_kind")
