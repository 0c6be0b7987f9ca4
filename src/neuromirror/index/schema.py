"""The tables, as sqlite-utils migrations.

``PRAGMA application_id`` says that a file is ours and ``PRAGMA user_version`` counts the
migrations it has had; both are set in the migrations' own transactions, so a half-made index
does not exist. To change the schema add a migration, raise :data:`SCHEMA`, and note that all
rows must stay a function of the journal alone (no clocks, no random ids).
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from neuromirror.index import path_terms

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x6E6D6978  # "nmix"
SCHEMA = 9

_FIRST = """
CREATE TABLE progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL  -- bytes of the journal applied
) STRICT;
INSERT INTO progress VALUES (1, 0);

CREATE TABLE mirrors (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    uri TEXT NOT NULL,
    seen TEXT,
    contents INTEGER NOT NULL DEFAULT 0  -- distinct contents that this mirror was first to bring
) STRICT;

CREATE TABLE datasets (
    id INTEGER PRIMARY KEY,
    mirror INTEGER NOT NULL REFERENCES mirrors (id),
    local_id TEXT NOT NULL,
    source_uri TEXT,  -- unknown while only a hold or an event has named the dataset
    dataset_id TEXT,  -- DataLad's
    title TEXT NOT NULL DEFAULT '',
    newest INTEGER REFERENCES versions (id),
    last_visit INTEGER REFERENCES visits (id),
    last_full TEXT,  -- when the last full visit ended
    UNIQUE (mirror, local_id)
) STRICT;
CREATE INDEX datasets_dataset_id ON datasets (dataset_id);

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
    time TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    exceptions INTEGER NOT NULL,
    exceptions_json TEXT NOT NULL,
    evidence TEXT NOT NULL,  -- JSON: files by word
    title TEXT NOT NULL,
    license TEXT NOT NULL,  -- JSON: list of names
    doi TEXT,
    metadata_only INTEGER NOT NULL,
    minted TEXT NOT NULL,
    UNIQUE (dataset, seq),
    UNIQUE (dataset, commit_id)
) STRICT;
CREATE INDEX versions_commit ON versions (commit_id);

CREATE TABLE claimants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- One row a distinct content, which is a git-annex key. Random values (hashes) are indexed by
-- their first eight bytes only: the indexes are then a third of the size, and a look-up compares
-- the whole value in the row it finds. That a key stands once is seen to by the one writer.
-- Most keys are named by a digest, which is found by key_hash: the indexes of digests hold the
-- other ones only.
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    key_hash BLOB NOT NULL,  -- urls.key_hash: eight bytes of the digest in it, or of its blake2b
    size INTEGER,
    sha256 BLOB CHECK (length(sha256) = 32),
    md5 BLOB CHECK (length(md5) = 16),
    etag BLOB CHECK (length(etag) = 16),  -- md5 of the joined part md5s
    parts INTEGER,
    part_size INTEGER,
    checked INTEGER NOT NULL DEFAULT 0,  -- bits: 1 sha256, 2 md5, 4 etag was hashed here
    sha256_by INTEGER REFERENCES claimants (id),
    md5_by INTEGER REFERENCES claimants (id),
    etag_by INTEGER REFERENCES claimants (id),
    retention INTEGER NOT NULL  -- the strongest promise made: see rows.RETENTION
) STRICT;
CREATE INDEX contents_key ON contents (key_hash);
CREATE INDEX contents_sha256 ON contents (substr(sha256, 1, 8))
    WHERE substr(sha256, 1, 8) <> key_hash;
CREATE INDEX contents_md5 ON contents (substr(md5, 1, 8))
    WHERE substr(md5, 1, 8) <> key_hash;
CREATE INDEX contents_etag ON contents (substr(etag, 1, 8))
    WHERE substr(etag, 1, 8) <> key_hash;

-- Digests that do not fit beside the first of their algorithm: the same bytes uploaded with
-- another part size, a claim that contradicts, an algorithm without a column.
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

-- Present in version n: since <= n and (until is null or n < until), where n is indexed.
CREATE TABLE files (
    dataset INTEGER NOT NULL,
    path TEXT NOT NULL,  -- in the git tree
    since INTEGER NOT NULL,
    until INTEGER,
    content INTEGER NOT NULL REFERENCES contents (id),
    source_path BLOB,  -- upstream's name where it is not the path
    record INTEGER NOT NULL,  -- blake2b-64 of the record's line as last seen: same line, no work
    PRIMARY KEY (dataset, path, since),
    FOREIGN KEY (dataset, since) REFERENCES versions (dataset, seq),
    FOREIGN KEY (dataset, until) REFERENCES versions (dataset, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_content ON files (content);

CREATE TABLE locations (
    id INTEGER PRIMARY KEY,
    content INTEGER NOT NULL REFERENCES contents (id),
    rank INTEGER NOT NULL,  -- 0 exact, 1 an object that may be overwritten, 2 another address
    url TEXT NOT NULL,
    kind TEXT NOT NULL,
    version_id TEXT,  -- only where the URL's own versionId does not say it
    plain_hash INTEGER NOT NULL,  -- blake2b-64 of the URL without its versionId
    learned INTEGER NOT NULL REFERENCES versions (id),  -- which last brought a file from here
    checked_at TEXT,
    result TEXT
) STRICT;
CREATE INDEX locations_content ON locations (content, rank);
CREATE INDEX locations_plain ON locations (plain_hash);

CREATE TABLE visits (
    id INTEGER PRIMARY KEY,
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    visit TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT NOT NULL,
    status TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    pending INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX visits_dataset ON visits (dataset);

-- An id may come back: a listing held, lapsed, and held again is two rows, one of them open.
CREATE TABLE holds (
    id INTEGER PRIMARY KEY,
    hold TEXT NOT NULL,
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    upstream TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    removed INTEGER NOT NULL,
    files_before INTEGER NOT NULL,
    placed TEXT NOT NULL,
    outcome TEXT CHECK (outcome IN ('released', 'lapsed')),  -- null: open
    ended TEXT,
    released_by TEXT
) STRICT;
CREATE INDEX holds_hold ON holds (hold);
CREATE INDEX holds_dataset ON holds (dataset);

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    mirror INTEGER NOT NULL REFERENCES mirrors (id),
    dataset INTEGER REFERENCES datasets (id),
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    at TEXT NOT NULL,
    data TEXT NOT NULL  -- JSON
) STRICT;
CREATE INDEX events_dataset ON events (dataset);
CREATE INDEX events_kind ON events (kind, mirror);

CREATE VIRTUAL TABLE dataset_text USING fts5 (
    name, title, license, doi, tokenize = 'unicode61 remove_diacritics 2'
);
"""

# The last component of a local id is found by the index of it: SQLite has no function for that,
# so what is left when everything but slashes is trimmed off the end is cut off.
LAST_COMPONENT = "substr({0}, length(rtrim({0}, replace({0}, '/', ''))) + 1)"

_SECOND = f"""
ALTER TABLE mirrors ADD COLUMN capabilities TEXT NOT NULL DEFAULT '{{}}';  -- JSON: word by name
ALTER TABLE datasets ADD COLUMN within TEXT NOT NULL DEFAULT '';  -- local id of the whole
ALTER TABLE versions ADD COLUMN metadata TEXT NOT NULL DEFAULT '';  -- metadata digest
ALTER TABLE versions ADD COLUMN attributes TEXT NOT NULL DEFAULT '{{}}';  -- JSON: values by name

CREATE INDEX datasets_tail ON datasets ({LAST_COMPONENT.format("local_id")});

-- Of the version that each dataset's name means.
CREATE TABLE attributes (
    dataset INTEGER NOT NULL REFERENCES datasets (id),
    name TEXT NOT NULL COLLATE NOCASE,
    value TEXT NOT NULL,
    folded TEXT NOT NULL,  -- the value as it is searched, whatever its case
    PRIMARY KEY (dataset, name, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX attributes_value ON attributes (name, folded);

-- What a version was derived from; the dataset that a name stands for is looked up when asked,
-- since it may be mirrored later than what was made of it.
CREATE TABLE inputs (
    version INTEGER NOT NULL REFERENCES versions (id),
    name TEXT NOT NULL,  -- upstream's
    PRIMARY KEY (version, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX inputs_name ON inputs (name);

-- Sub-datasets that stand in a version's tree; present as files are.
CREATE TABLE parts (
    dataset INTEGER NOT NULL,
    path TEXT NOT NULL,  -- in the git tree
    since INTEGER NOT NULL,
    until INTEGER,
    dataset_id TEXT NOT NULL,  -- DataLad's, of the part
    local_id TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    state TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    source_path BLOB,  -- upstream's name where it is not the path
    PRIMARY KEY (dataset, path, since),
    FOREIGN KEY (dataset, since) REFERENCES versions (dataset, seq),
    FOREIGN KEY (dataset, until) REFERENCES versions (dataset, seq)
) STRICT, WITHOUT ROWID;
"""

_THIRD = """
ALTER TABLE versions ADD COLUMN form TEXT NOT NULL DEFAULT '';  -- files | manifest, '' not told
ALTER TABLE versions ADD COLUMN only_files INTEGER NOT NULL DEFAULT 0;  -- that have no place in git
ALTER TABLE versions ADD COLUMN only_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN inline TEXT NOT NULL DEFAULT '[]';  -- JSON: folders that are parts
"""

_FOURTH = """
ALTER TABLE versions ADD COLUMN indexed INTEGER NOT NULL DEFAULT 1;  -- 0: files has no row of it
CREATE INDEX versions_not_indexed ON versions (dataset, files, indexed) WHERE NOT indexed;
ALTER TABLE visits ADD COLUMN traffic TEXT NOT NULL DEFAULT '{}';  -- JSON: counts by host
ALTER TABLE datasets ADD COLUMN links TEXT NOT NULL DEFAULT '[]';  -- JSON: [kind, address] pairs
"""

_FIFTH = """
ALTER TABLE datasets ADD COLUMN withheld TEXT NOT NULL DEFAULT '';  -- JSON: at, reason; '': shown
CREATE INDEX locations_checked ON locations (checked_at);  -- those asked longest ago, never first
CREATE INDEX locations_ailing ON locations (result) WHERE result <> 'ok';
"""

# Paths that versions brought, without those of parts, in blocks: see path_terms. A dataset that is
# a part is one for good. The text is of words alone and gives none back.
_SIXTH = """
CREATE TABLE path_blocks (
    id INTEGER PRIMARY KEY,  -- version << 20 | place of the block
    first TEXT NOT NULL,  -- path
    last TEXT NOT NULL
) STRICT;
CREATE VIRTUAL TABLE path_text USING fts5 (
    words, content = '', detail = none,
    tokenize = "unicode61 remove_diacritics 2 tokenchars '-'"
);
"""

_SEVENTH = """
-- Tasks that failed and have not succeeded since; a failed visit is in visits.
CREATE TABLE failures (
    task TEXT NOT NULL,
    mirror TEXT NOT NULL,  -- name; '': the store
    local_id TEXT NOT NULL,  -- '': the whole mirror
    message TEXT NOT NULL,
    since TEXT NOT NULL,
    at TEXT NOT NULL,  -- when it last failed with another message than before
    PRIMARY KEY (task, mirror, local_id)
) STRICT, WITHOUT ROWID;
ALTER TABLE holds ADD COLUMN after_visit INTEGER;  -- the dataset's last visit when it was released
UPDATE holds SET after_visit = (SELECT max(t.id) FROM visits t
    WHERE t.dataset = holds.dataset AND t.ended <= holds.ended) WHERE outcome = 'released';
"""

_NINTH = """
-- the strongest promise that the dataset's own upstream made for the file: see rows.RETENTION
ALTER TABLE files ADD COLUMN retention INTEGER NOT NULL DEFAULT 0;
UPDATE files SET retention = (SELECT c.retention FROM contents c WHERE c.id = files.content);
ALTER TABLE contents DROP COLUMN retention;
"""

_TEXT = """
CREATE VIRTUAL TABLE dataset_text USING fts5 (
    name, title, license, doi, attributes, tokenize = 'unicode61 remove_diacritics 2'
);
"""


def split_statements(script: str) -> list[str]:
    """The script's statements one by one: ``executescript`` would commit the migration early."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


@contextmanager
def _hide_packages(*names: str) -> Iterator[None]:
    """Hides packages that something else takes in where it finds them.

    sqlite_utils names column types by them, which nobody asks for here; it takes half a second.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an empty or older index to :data:`SCHEMA`; safe to kill and repeat."""
    with _hide_packages("numpy", "pandas"):
        from sqlite_utils import Database, Migrations

    migrations = Migrations("neuromirror.index")

    @migrations()
    def first(db: Database) -> None:
        for statement in split_statements(_FIRST):
            db.conn.execute(statement)
        db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.conn.execute("PRAGMA user_version = 1")

    @migrations()
    def second(db: Database) -> None:
        for statement in split_statements(_SECOND):
            db.conn.execute(statement)
        # a table of full-text search takes no further column: it is made anew
        rows = db.conn.execute(
            "SELECT rowid, name, title, license, doi FROM dataset_text ORDER BY rowid"
        ).fetchall()
        db.conn.execute("DROP TABLE dataset_text")
        for statement in split_statements(_TEXT):
            db.conn.execute(statement)
        db.conn.executemany(
            "INSERT INTO dataset_text (rowid, name, title, license, doi, attributes) "
            "VALUES (?,?,?,?,?,'')",
            rows,
        )
        db.conn.execute("PRAGMA user_version = 2")

    @migrations()
    def third(db: Database) -> None:
        for statement in split_statements(_THIRD):
            db.conn.execute(statement)
        db.conn.execute("PRAGMA user_version = 3")

    @migrations()
    def fourth(db: Database) -> None:
        for statement in split_statements(_FOURTH):
            db.conn.execute(statement)
        db.conn.execute("PRAGMA user_version = 4")

    @migrations()
    def fifth(db: Database) -> None:
        for statement in split_statements(_FIFTH):
            db.conn.execute(statement)
        db.conn.execute("PRAGMA user_version = 5")

    @migrations()
    def sixth(db: Database) -> None:
        for statement in split_statements(_SIXTH):
            db.conn.execute(statement)
        path_terms.write_all_blocks(db.conn)
        db.conn.execute("PRAGMA user_version = 6")

    @migrations()
    def seventh(db: Database) -> None:
        for statement in split_statements(_SEVENTH):
            db.conn.execute(statement)
        db.conn.execute("PRAGMA user_version = 7")

    @migrations()
    def eighth(db: Database) -> None:
        from neuromirror.index.replay import update_published_datasets

        update_published_datasets(db.conn)
        db.conn.execute("PRAGMA user_version = 8")

    @migrations()
    def ninth(db: Database) -> None:
        for statement in split_statements(_NINTH):
            db.conn.execute(statement)
        db.conn.execute("PRAGMA user_version = 9")

    migrations.apply(Database(connection, execute_plugins=False, recursive_triggers=False))
    # the time of a migration is all that two indexes of one journal would differ in (I8)
    with connection:
        connection.execute("UPDATE _sqlite_migrations SET applied_at = ''")
