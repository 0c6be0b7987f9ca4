"""Queries on datasets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from neuromirror.index.contents import short_hash
from neuromirror.index.errors import (
    AmbiguousNameError,
    UnknownAttributeError,
    UnknownVersionError,
)
from neuromirror.index.query_base import (
    CURRENT,
    HAS_ROWS,
    VERSION_COLUMNS,
    VERSION_TABLES,
    version_row,
)
from neuromirror.index.rows import DatasetRow, SubdatasetRow, Tombstone, VersionRow
from neuromirror.index.schema import LAST_COMPONENT
from neuromirror.index.search_terms import MAX_BLOCKS, MAX_QUERY_LENGTH, TermQueries
from neuromirror.model import parse_time_label
from neuromirror.model.records import plain_url

_COMMIT_LABEL = re.compile(r"[0-9a-f]{7,64}\Z")
_STATE_LABEL = re.compile(r"state:(?:sha256:)?([0-9a-f]{7,64})\Z")

_SUBDATASETS = """
SELECT p.path, p.source_path, m.name || ':' || p.local_id, p.dataset_id,
    (SELECT v.label FROM versions v JOIN datasets e ON e.id = v.dataset
     WHERE e.mirror = d.mirror AND e.local_id = p.local_id AND v.commit_id = p.commit_id),
    p.commit_id, p.state, p.files, p.bytes, p.since
FROM subdatasets p JOIN datasets d ON d.id = p.dataset JOIN mirrors m ON m.id = d.mirror
WHERE p.dataset = ? AND p.since <= ? AND (p.until IS NULL OR p.until > ?) ORDER BY p.path
"""


class VersionQueries(TermQueries):
    """Queries on versions: by name, and the exceptions, subdatasets and counts of a version.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def versions(self, name: str, after: int = 0, limit: int | None = None) -> Iterator[VersionRow]:
        """Yield the versions of a dataset in the order in which they were recorded.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        after
            The ordinal of the last version of the previous page.
        limit
            The length of a page; None for all.

        Returns
        -------
        Iterator[VersionRow]
            A version.
        """
        return self._versions(
            "WHERE v.dataset = ? AND v.seq > ? ORDER BY v.seq LIMIT ?",
            (self._dataset_number(name), after, -1 if limit is None else limit),
        )

    def last_version(self, name: str, kind: str | None = None) -> VersionRow | None:
        """Return the version recorded last, of one kind or of any.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        kind
            ``published`` or ``observed``; None for any.

        Returns
        -------
        VersionRow | None
            The version; None without versions, or if the dataset is unknown.
        """
        return self._last(name, "AND (? IS NULL OR v.kind = ?)", (kind, kind))

    def published_version(self, name: str, upstream: str) -> VersionRow | None:
        """Return the published version with upstream's label, or None.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        upstream
            Upstream's label of the version.

        Returns
        -------
        VersionRow | None
            The version.
        """
        return self._last(name, "AND v.kind = 'published' AND v.upstream = ?", (upstream,))

    def exceptions(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the exceptions of a version, as in the journal.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        list[dict[str, Any]]
            One object per item that upstream lists and that is not mirrored.
        """
        return list(self._json_column("exceptions", version))

    def inline_components(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the components of a version stored as folders of files, as in the journal.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        list[dict[str, Any]]
            One object per component.
        """
        return list(self._json_column("inline_components", version))

    def attributes(self, version: VersionRow) -> dict[str, list[str]]:
        """Return the attributes of a version, values by name, both sorted.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        dict[str, list[str]]
            Values by name.
        """
        return dict(self._json_column("attributes", version))

    def _json_column(self, column: str, version: VersionRow) -> Any:
        """Return a list or object of a version; empty if the version is not in the index."""
        row = self._row(f"SELECT {column} FROM versions WHERE id = ?", (version.id,))
        return json.loads(row[0]) if row else ()

    def subdatasets(self, version: VersionRow) -> Iterator[SubdatasetRow]:
        """Yield the subdatasets in a version's tree, by path.

        Parameters
        ----------
        version
            The version.

        Yields
        ------
        SubdatasetRow
            A subdataset.
        """
        for path, source_path, *rest in self._rows(
            _SUBDATASETS, (version.dataset, version.seq, version.seq)
        ):
            yield SubdatasetRow(path, path.encode() if source_path is None else source_path, *rest)

    def resolve(self, name: str, label: str = "latest") -> VersionRow:
        """Return the version that a label stands for.

        Parameters
        ----------
        name : str
            The dataset.
        label : str
            A version's label, ``latest`` (the newest published, else the newest observed),
            ``draft`` (as last observed), at least 7 digits of a commit id, or ``state:<7 or more
            digits of the state digest>``. A state without an upstream time also has the time at
            which this store observed it as a label: ``2026-11-22T072636Z``.

        Raises
        ------
        UnknownMirrorError, UnknownDatasetError, UnknownVersionError, AmbiguousNameError
        """
        dataset = self._dataset_number(name)
        found = (
            self._by_label(dataset, label)
            or self._observed_at(dataset, label)
            or self._by_digest(name, dataset, label.lower())
        )
        if found is None:
            raise UnknownVersionError(
                f"{name} has no version {label!r}; {self._describe_newest(dataset)}"
            )
        return found

    def _by_label(self, dataset: int, label: str) -> VersionRow | None:
        if label == "latest":
            order = "ORDER BY v.kind = 'published' DESC, v.seq DESC LIMIT 1"
            return next(self._versions(f"WHERE v.dataset = ? {order}", (dataset,)), None)
        condition = "upstream = ? AND v.kind = 'observed'" if label == "draft" else "label = ?"
        return next(
            self._versions(
                f"WHERE v.dataset = ? AND v.{condition} ORDER BY v.seq DESC LIMIT 1",
                (dataset, label),
            ),
            None,
        )

    def _observed_at(self, dataset: int, label: str) -> VersionRow | None:
        """Return the state without an upstream time that was observed at the time in a label."""
        moment = parse_time_label(label)
        if moment is None:
            return None
        rows = self._versions(
            "WHERE v.dataset = ? AND v.recorded_at = ? AND v.time = '' ORDER BY v.seq DESC LIMIT 1",
            (dataset, moment.isoformat(timespec="seconds")),
        )
        return next(rows, None)

    def _by_digest(self, name: str, dataset: int, label: str) -> VersionRow | None:
        if _COMMIT_LABEL.match(label):
            column, low = "commit_id", label
        elif form := _STATE_LABEL.match(label):
            column, low = "state", f"sha256:{form[1]}"
        else:
            return None
        # "g" sorts after all hex digits; of versions with one state, prefer the newest published
        found = list(
            self._versions(
                f"WHERE v.dataset = ? AND v.{column} >= ? AND v.{column} < ? "
                "ORDER BY v.kind = 'published' DESC, v.seq DESC",
                (dataset, low, f"{low}g"),
            )
        )
        values = sorted({row.commit if column == "commit_id" else row.state for row in found})
        if len(values) > 1:
            raise AmbiguousNameError(
                f"{label!r} matches {len(values)} versions of {name}: {', '.join(values[:5])}"
                f"{', …' if len(values) > 5 else ''}; give more digits"
            )
        return found[0] if found else None

    def _describe_newest(self, dataset: int) -> str:
        found = [
            row[0]
            for row in self._rows(
                "SELECT label FROM versions WHERE dataset = ? ORDER BY seq DESC LIMIT 5", (dataset,)
            )
        ]
        if len(found) == 1:
            return f"its only version is {found[0]}"
        return f"the newest are {', '.join(found)}" if found else "it has no version yet"

    def _last(self, name: str, clause: str, parameters: tuple[Any, ...]) -> VersionRow | None:
        mirror, _, local_id = name.partition(":")
        return next(
            self._versions(
                f"WHERE m.name = ? AND d.local_id = ? {clause} ORDER BY v.seq DESC LIMIT 1",
                (mirror, local_id, *parameters),
            ),
            None,
        )

    def _versions(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[VersionRow]:
        sql = f"SELECT {VERSION_COLUMNS} FROM {VERSION_TABLES} {clause}"
        return map(version_row, self._rows(sql, parameters))


_DATASETS = f"""
SELECT d.id, m.name, d.local_id, coalesce(d.source_uri, ''), coalesce(d.dataset_id, ''), d.title,
    c.license, c.doi, (SELECT count(*) FROM versions v WHERE v.dataset = d.id), c.label, n.label,
    CASE WHEN c.kind = 'published' THEN c.label END,
    nullif(c.time, ''), coalesce(c.files, 0), coalesce(c.bytes, 0), t.ended_at, t.status,
    d.last_full_visit,
    (SELECT count(*) FROM holds h WHERE h.dataset = d.id AND h.outcome IS NULL), d.within
FROM datasets d JOIN mirrors m ON m.id = d.mirror
LEFT JOIN versions n ON n.id = d.newest_version LEFT JOIN versions c ON c.id = {CURRENT}
LEFT JOIN visits t ON t.id = d.last_visit
"""


class DatasetQueries(VersionQueries):
    """Queries on datasets: by name, by mirror, and their subdatasets.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def datasets(
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
            Search terms, as in :meth:`SearchQueries.find_datasets`.
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
            given.append(self._mirror_number(mirror))
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
            given.append(json.dumps(self._dataset_ids(text, MAX_BLOCKS)))
        return self._datasets(
            f"WHERE {' AND '.join(clauses)} ORDER BY m.name, d.local_id", tuple(given)
        )

    def _attribute_condition(self, name: str, value: str) -> tuple[str, tuple[Any, ...]]:
        """Return the SQL condition that a dataset has an attribute, and its parameters."""
        if self._row("SELECT 1 FROM attributes WHERE name = ? LIMIT 1", (name,)) is None:
            names = [row[0] for row in self._rows("SELECT DISTINCT name FROM attributes")]
            known = f"existing: {', '.join(names)}" if names else "no dataset has any yet"
            raise UnknownAttributeError(f"no dataset has an attribute {name!r}; {known}")
        folded = value.casefold()
        matches = "casefolded = ?"
        values: tuple[Any, ...] = (name, folded)
        if folded.endswith("*"):
            matches = "casefolded >= ? AND substr(casefolded, 1, ?) = ?"
            values = (name, folded[:-1], len(folded) - 1, folded[:-1])
        return f"d.id IN (SELECT dataset FROM attributes WHERE name = ? AND {matches})", values

    def dataset(self, name: str) -> DatasetRow:
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
        return next(self._datasets("WHERE d.id = ?", (self._dataset_number(name),)))

    def _datasets(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[DatasetRow]:
        for row in self._rows(_DATASETS + clause, parameters):
            rest: tuple[Any, ...] = (tuple(json.loads(row[6] or "[]")), *row[7:])
            yield DatasetRow(*row[:6], *rest)

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
        rows = self._rows(
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
        number = self._dataset_number(name)
        rows = self._rows(
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
        row = self._row(
            f"SELECT {column} FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return None if row is None else row[0]

    def names_in_other_mirrors(self, mirror: str) -> dict[str, str]:
        """Return the names of datasets with versions in other mirrors, by source URI."""
        rows = self._rows(
            "SELECT d.source_uri, m.name || ':' || d.local_id FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror WHERE m.name <> ? AND d.newest_version IS NOT NULL",
            (mirror,),
        )
        return dict(rows)

    def local_ids_with_versions(self, mirror: str, dataset_ids: Sequence[str]) -> dict[str, str]:
        """Return the local id that has versions, by dataset id; the oldest if several have some."""
        rows = self._rows(
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
        rows = self._rows(
            "SELECT DISTINCT m.name || ':' || h.local_id FROM datasets d "
            "JOIN subdatasets p ON p.local_id = d.local_id AND p.until IS NULL "
            "JOIN datasets h ON h.id = p.dataset AND h.mirror = d.mirror "
            "JOIN mirrors m ON m.id = h.mirror "
            "WHERE d.id = ? ORDER BY 1",
            (self._dataset_number(name),),
        )
        return [holder for (holder,) in rows]


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


class NameQueries(DatasetQueries):
    """Queries that resolve what a user entered (a name, an id, a URL) to one object.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def match_name(self, text: str) -> NameMatch | None:
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
        rows = self._all(
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
        rows = self._all(
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
        row = self._row(
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
        whole = self._all(
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
        return self._all(
            "SELECT m.name || ':' || d.local_id, d.id, coalesce(d.source_uri, '') "
            "FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            f"WHERE {LAST_COMPONENT.format('d.local_id')} = ? AND d.withdrawn = ''",
            (tail,),
        )

    def _find_label(self, dataset: int, label: str) -> str:
        """Return the label of the version with this label, upstream label or time of observation.

        Empty if missing.
        """
        row = self._row(
            "SELECT label FROM versions WHERE dataset = ?1 AND (label = ?2 OR upstream = ?2) "
            "ORDER BY label = ?2 DESC, seq DESC LIMIT 1",
            (dataset, label),
        )
        if row:
            return str(row[0])
        observed = self._observed_at(dataset, label)
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
