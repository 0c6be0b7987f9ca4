"""Datasets: lists, names, tombstones and links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from neuromirror.index.connection import UnknownAttributeError
from neuromirror.index.contents import short_hash
from neuromirror.index.reader import CURRENT, HAS_ROWS, VERSION_TABLES, Queries, Reader
from neuromirror.index.rows import DatasetRow, Tombstone
from neuromirror.index.schema import LAST_COMPONENT
from neuromirror.index.search_terms import MAX_BLOCKS, MAX_QUERY_LENGTH, TermQueries
from neuromirror.index.versions import VersionQueries
from neuromirror.model.records import plain_url

_DATASETS = f"""
SELECT m.name, d.local_id, coalesce(d.source_uri, ''), d.id, coalesce(d.dataset_id, ''), d.title,
    c.license, c.doi, (SELECT count(*) FROM versions v WHERE v.dataset = d.id), c.label, n.label,
    CASE WHEN c.kind = 'published' THEN c.label END,
    nullif(c.time, ''), coalesce(c.files, 0), coalesce(c.bytes, 0), t.ended_at, t.status,
    d.last_full_visit,
    (SELECT count(*) FROM holds h WHERE h.dataset = d.id AND h.outcome IS NULL), d.within
FROM datasets d JOIN mirrors m ON m.id = d.mirror
LEFT JOIN versions n ON n.id = d.newest_version LEFT JOIN versions c ON c.id = {CURRENT}
LEFT JOIN visits t ON t.id = d.last_visit
"""


class DatasetQueries(Queries):
    """Datasets of all mirrors."""

    def __init__(self, db: Reader, terms: TermQueries) -> None:
        super().__init__(db)
        self._terms = terms

    def select(
        self,
        mirror: str | None = None,
        *,
        where: Sequence[tuple[str, str]] = (),
        text: str | None = None,
        subdatasets: bool = True,
        after: str = "",
    ) -> Iterator[DatasetRow]:
        """Yield datasets, of one mirror or of all, sorted by name.

        Parameters
        ----------
        mirror : str, optional
            The mirror.
        where : sequence of (str, str)
            Names and values of attributes that the current version must all have, ignoring case; a
            value that ends with ``*`` is a prefix.
        text : str, optional
            Search terms, as in :meth:`SearchQueries.datasets`.
        subdatasets : bool
            Whether to include subdatasets.
        after : str
            Yield only datasets with a greater name.

        Raises
        ------
        UnknownMirrorError, UnknownAttributeError, MalformedQueryError
        """
        clauses = ["d.withdrawn = ''"]
        given: list[int | str] = []
        if mirror is not None:
            clauses.append("d.mirror = ?")
            given.append(self._db.mirror_number(mirror))
        if not subdatasets:
            clauses.append("d.within = ''")
        if after:
            mirror_name, _, local_id = after.partition(":")
            clauses.append("(m.name, d.local_id) > (?, ?)")
            given += [mirror_name, local_id]
        for name, value in where:
            clause, values = self._attribute_condition(name, value)
            clauses.append(clause)
            given.extend(values)
        if text is not None:
            clauses.append("d.id IN (SELECT value FROM json_each(?))")
            given.append(json.dumps(self._terms.dataset_ids(text, MAX_BLOCKS)))
        return self.where(
            f"WHERE {' AND '.join(clauses)} ORDER BY m.name, d.local_id", tuple(given)
        )

    def _attribute_condition(self, name: str, value: str) -> tuple[str, tuple[Any, ...]]:
        """Return the SQL condition that a dataset has an attribute, and its parameters."""
        if self._db.row("SELECT 1 FROM attributes WHERE name = ? LIMIT 1", (name,)) is None:
            names = [row[0] for row in self._db.rows("SELECT DISTINCT name FROM attributes")]
            known = f"existing: {', '.join(names)}" if names else "no dataset has any yet"
            raise UnknownAttributeError(f"no dataset has an attribute {name!r}; {known}")
        folded = value.casefold()
        matches = "casefolded = ?"
        values: tuple[Any, ...] = (name, folded)
        if folded.endswith("*"):
            matches = "casefolded >= ? AND substr(casefolded, 1, ?) = ?"
            values = (name, folded[:-1], len(folded) - 1, folded[:-1])
        return f"d.id IN (SELECT dataset FROM attributes WHERE name = ? AND {matches})", values

    def get(self, name: str) -> DatasetRow:
        """Return a dataset.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        DatasetRow
            The dataset.

        Raises
        ------
        UnknownMirrorError
            The index has no such mirror.
        UnknownDatasetError
            The index has no such dataset.
        """
        return next(self.where("WHERE d.id = ?", (self._db.dataset_number(name),)))

    def where(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[DatasetRow]:
        """Yield the datasets that an SQL clause selects."""
        for row in self._db.rows(_DATASETS + clause, parameters):
            values: list[Any] = [*row]
            values[6] = json.loads(values[6] or "[]")
            yield DatasetRow(*values)

    def tombstones(self, mirror: str | None = None) -> list[Tombstone]:
        """Return the withdrawn datasets, by name, including their exclusive subdatasets.

        Parameters
        ----------
        mirror
            The name of a mirror; None for all.

        Returns
        -------
        list[Tombstone]
            The tombstones.
        """
        rows = self._db.rows(
            "SELECT m.name || ':' || d.local_id, d.withdrawn FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror "
            "WHERE d.withdrawn <> '' AND (? IS NULL OR m.name = ?) ORDER BY m.name, d.local_id",
            (mirror, mirror),
        )
        return [Tombstone(name, **json.loads(document)) for name, document in rows]

    def tombstone(self, name: str) -> Tombstone | None:
        """Return the tombstone of a withdrawn dataset; None for any other.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        Tombstone | None
            The tombstone.
        """
        document = self._column_of("d.withdrawn", name)
        return Tombstone(name, **json.loads(document)) if document else None

    def has_only_version_ids(self, name: str) -> bool:
        """Return whether the index has nothing of a dataset but the ids of its versions."""
        return not self._column_of(HAS_ROWS, name)

    def exclusive_subdatasets(self, name: str) -> list[str]:
        """Return the local ids of subdatasets of any version that no other dataset ever had."""
        number = self._db.dataset_number(name)
        rows = self._db.rows(
            "SELECT p.local_id, max(p.dataset = ?1), max(p.dataset <> ?1) FROM subdatasets p "
            "JOIN datasets h ON h.id = p.dataset AND h.withdrawn = '' "
            "JOIN datasets d ON d.id = ?1 AND d.mirror = h.mirror "
            "GROUP BY p.local_id ORDER BY p.local_id",
            (number,),
        )
        return [local_id for local_id, own, others in rows if own and not others]

    def links(self, name: str) -> list[tuple[str, str]]:
        """Return (kind, URL) of the web pages of a dataset, sorted; empty if unknown.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        list[tuple[str, str]]
            The links.
        """
        links = self._column_of("d.links", name)
        return [(kind, address) for kind, address in json.loads(links or "[]")]

    def _column_of(self, column: str, name: str) -> Any:
        """Return a value of a dataset, which may be withdrawn; None for an unknown dataset."""
        mirror, _, local_id = name.partition(":")
        row = self._db.row(
            f"SELECT {column} FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return None if row is None else row[0]

    def names_in_other_mirrors(self, mirror: str) -> dict[str, str]:
        """Return the names of datasets with versions in other mirrors, by source URI."""
        rows = self._db.rows(
            "SELECT d.source_uri, m.name || ':' || d.local_id FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror WHERE m.name <> ? AND d.newest_version IS NOT NULL",
            (mirror,),
        )
        return dict(rows)

    def local_ids_with_versions(self, mirror: str, dataset_ids: Sequence[str]) -> dict[str, str]:
        """Return the local id that has versions, by dataset id; the oldest if several have some."""
        rows = self._db.rows(
            "SELECT d.dataset_id, d.local_id FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE d.dataset_id IN (SELECT value FROM json_each(?)) AND m.name = ? "
            "AND d.newest_version IS NOT NULL ORDER BY d.id DESC",
            (json.dumps(list(dataset_ids)), mirror),
        )
        return dict(rows)

    def superdatasets(self, name: str) -> list[str]:
        """Return the names of the datasets whose newest version has this one as a subdataset.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        list[str]
            The names.
        """
        rows = self._db.rows(
            "SELECT DISTINCT m.name || ':' || h.local_id FROM datasets d "
            "JOIN subdatasets p ON p.local_id = d.local_id AND p.until IS NULL "
            "JOIN datasets h ON h.id = p.dataset AND h.mirror = d.mirror "
            "JOIN mirrors m ON m.id = h.mirror "
            "WHERE d.id = ? ORDER BY 1",
            (self._db.dataset_number(name),),
        )
        return [holder for (holder,) in rows]

    def count_top_level(self) -> int:
        """Return the number of datasets that are not subdatasets."""
        row = self._db.row("SELECT count(*) FROM datasets WHERE withdrawn = '' AND within = ''")
        assert row is not None
        return int(row[0])

    def top_level(
        self, first: int, limit: int, *, after: int = 0
    ) -> list[tuple[int, str, str | None]]:
        """Return datasets that are not subdatasets: id, name, and time of the newest version.

        The datasets are in order of registration, so that new ones come last; ``first`` counts
        from 0, in those whose id is larger than ``after``.
        """
        rows = self._db.rows(
            "SELECT d.id, m.name || ':' || d.local_id, n.recorded_at FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror LEFT JOIN versions n ON n.id = d.newest_version "
            "WHERE d.withdrawn = '' AND d.within = '' AND d.id > ? ORDER BY d.id LIMIT ? OFFSET ?",
            (after, limit, first),
        )
        return [(number, name, recorded_at) for number, name, recorded_at in rows]


_COMMIT = re.compile(r"(?:swh:1:rev:)?([0-9a-f]{40}|[0-9a-f]{64})\Z")


_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,39}\Z")


_TREE = re.compile(r"swh:1:dir:([0-9a-f]{40})\Z")


_STATE = re.compile(r"(?:state:)?(?:sha256:)?([0-9a-f]{64})\Z")


_STATE_PREFIX = re.compile(r"\Astate:?\s+(?=sha256:)", re.IGNORECASE)


_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)\Z", re.IGNORECASE)


class NameMatch(Struct, frozen=True):
    """The object that a name identifies.

    Attributes
    ----------
    dataset
        The name of the dataset.
    label
        The label of a version; empty for a dataset or a content.
    key
        The annex key of a content; empty for a dataset or a version.
    """

    dataset: str
    label: str = ""
    key: str = ""


class NameQueries(Queries):
    """Resolve what a user entered (a name, an id, a URL) to one object."""

    def __init__(self, db: Reader, versions: VersionQueries) -> None:
        super().__init__(db)
        self._versions = versions

    def match(self, text: str) -> NameMatch | None:
        """Return the one object that a text identifies; None for search terms and ambiguous names.

        The text may be a commit id or SWHID, a state digest (``sha256:…``), a DOI, upstream's URL
        of a dataset, version or file, or a dataset's name with or without version:
        ``dandi:000027``, ``000027``, ``DANDI:000027/0.210831.2033``, ``000027@draft``.

        Parameters
        ----------
        text
            The text.

        Returns
        -------
        NameMatch | None
            The object.
        """
        text = _STATE_PREFIX.sub("", text.strip())
        if not text or len(text) > MAX_QUERY_LENGTH * 4 or any(sign.isspace() for sign in text):
            return None
        text = text.encode("utf-8", "replace").decode().replace("\0", "")
        return (
            self._by_id(text) or self.match_doi(text) or self._by_url(text) or self._by_name(text)
        )

    def _by_id(self, text: str) -> NameMatch | None:
        lowered = text.lower()
        for form, column, start in (
            (_COMMIT, "commit_id", ""),
            (_TREE, "tree_id", ""),
            (_STATE, "state", "sha256:"),
        ):
            found = form.match(lowered)
            if found and (match := self._match_version(f"v.{column} = ?", f"{start}{found[1]}")):
                return match
        if _COMMIT_PREFIX.match(lowered):
            # "g" sorts after all hex digits
            return self._match_version(
                "v.commit_id >= ? AND v.commit_id < ?", lowered, f"{lowered}g"
            )
        return None

    def _match_version(self, condition: str, *values: str) -> NameMatch | None:
        """Return the one matching version; of a repeated state, the one recorded last."""
        rows = self._db.all(
            f"SELECT m.name || ':' || d.local_id, v.label FROM {VERSION_TABLES} "
            f"WHERE {condition} AND d.withdrawn = '' ORDER BY v.id DESC",
            values,
        )
        return NameMatch(*rows[0]) if len({name for name, _ in rows}) == 1 else None

    def match_doi(self, text: str) -> NameMatch | None:
        """Return the dataset or version that has a DOI; None without one, or if several have it.

        Parameters
        ----------
        text
            The DOI or its URL; any other text has no match.

        Returns
        -------
        NameMatch | None
            The dataset or version.
        """
        form = _DOI.match(text)
        if form is None:
            return None
        doi = form[1].rstrip("/.").lower()
        rows = self._db.all(
            "SELECT m.name || ':' || d.local_id, v.label, lower(v.doi) FROM dataset_text t "
            "JOIN datasets d ON d.id = t.rowid JOIN mirrors m ON m.id = d.mirror "
            "JOIN versions v ON v.dataset = d.id "
            "WHERE dataset_text MATCH ? AND d.withdrawn = '' AND v.doi IS NOT NULL "
            "ORDER BY v.id DESC",
            ('doi : "{}"'.format(doi.replace('"', '""')),),
        )
        exact = {name: label for name, label, known in reversed(rows) if known == doi}
        # a dataset's own DOI is a prefix of those of its versions
        names = exact or {name: "" for name, _, known in rows if known.startswith(f"{doi}/")}
        return NameMatch(*next(iter(names.items()))) if len(names) == 1 else None

    def _by_url(self, text: str) -> NameMatch | None:
        if "://" not in text:
            return None
        row = self._db.row(
            "SELECT c.key FROM locations l JOIN contents c ON c.id = l.content "
            "WHERE l.url_hash = ? AND (l.url = ? OR ? NOT LIKE '%versionId=%') "
            "ORDER BY l.last_version DESC, l.id DESC LIMIT 1",
            (short_hash(plain_url(text)), text, text),
        )
        if row is not None:
            return NameMatch("", key=row[0])
        try:
            address = urlsplit(text)
        except ValueError:
            return None
        # pages with client-side routes have their path after the #
        pieces = [one for one in unquote(f"{address.path}/{address.fragment}").split("/") if one]
        fits = {
            (name, number)
            for piece in pieces[:16]
            for name, number, uri in self._datasets_by_tail(piece)
            if uri and _is_same_archive(address.netloc, pieces, uri)
        }
        if len(fits) != 1:
            return None
        name, number = fits.pop()
        for piece in reversed(pieces[:16]):
            if label := self._find_label(number, piece):
                return NameMatch(name, label)
        return NameMatch(name)

    def _by_name(self, text: str) -> NameMatch | None:
        name, at, label = text.partition("@")
        mirror, colon, local_id = name.rpartition(":")
        known = self._find_datasets(mirror if colon else None, local_id)
        if not at and not known and "/" in local_id:
            # the notation of archives: DANDI:000027/0.210831.2033
            local_id, _, label = local_id.rpartition("/")
            known = self._find_datasets(mirror if colon else None, local_id)
        if len(known) != 1:
            return None
        number, found = known[0]
        if not label:
            return NameMatch(found)
        version_label = self._find_label(number, label)
        return NameMatch(found, version_label) if version_label else None

    def _find_datasets(self, mirror: str | None, local_id: str) -> list[tuple[int, str]]:
        """Return ids and names of datasets by local id, or by its last component if it has digits.

        Without digits, the last component of an id may be a word of a title.
        """
        whole = self._db.all(
            "SELECT d.id, m.name || ':' || d.local_id FROM mirrors m "
            "JOIN datasets d ON d.mirror = m.id WHERE d.local_id = ?1 "
            "AND (?2 IS NULL OR lower(m.name) = lower(?2) OR m.source = lower(?2)) "
            "AND d.withdrawn = ''",
            (local_id, mirror),
        )
        if whole or not any(sign.isdigit() for sign in local_id):
            return [(number, name) for number, name in whole]
        return [
            (number, name)
            for name, number, _ in self._datasets_by_tail(local_id)
            if mirror is None or name.lower().startswith(f"{mirror.lower()}:")
        ]

    def _datasets_by_tail(self, tail: str) -> list[tuple[Any, ...]]:
        """Return name, id and source URI of the datasets whose id has this last component."""
        return self._db.all(
            "SELECT m.name || ':' || d.local_id, d.id, coalesce(d.source_uri, '') "
            "FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            f"WHERE {LAST_COMPONENT.format('d.local_id')} = ? AND d.withdrawn = ''",
            (tail,),
        )

    def _find_label(self, dataset: int, label: str) -> str:
        """Return the label of the version with this label, upstream label or time of observation.

        Empty if missing.
        """
        row = self._db.row(
            "SELECT label FROM versions WHERE dataset = ?1 AND (label = ?2 OR upstream = ?2) "
            "ORDER BY label = ?2 DESC, seq DESC LIMIT 1",
            (dataset, label),
        )
        if row:
            return str(row[0])
        observed = self._versions.observed_at(dataset, label)
        return "" if observed is None else observed.label


def _is_same_archive(host: str, pieces: list[str], uri: str) -> bool:
    """Return whether a URL may belong to the archive that has the dataset at ``uri``.

    Web pages and API of an archive have hosts of one domain; a bucket is the host of s3://, or part
    of the host or path of https://.
    """
    try:
        known = urlsplit(uri)
    except ValueError:
        return False
    names, archive = host.lower().split("."), known.netloc.lower()
    if known.scheme == "s3":
        return archive in (names[0], host.lower(), pieces[0].lower())
    return names[-2:] == archive.split(".")[-2:]
