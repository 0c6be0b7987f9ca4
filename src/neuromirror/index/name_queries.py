"""Resolve a name, id or URL that a user entered to the one object that it identifies."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from neuromirror.index.dataset_queries import DatasetQueries
from neuromirror.index.query_base import VERSION_TABLES
from neuromirror.index.schema import LAST_COMPONENT
from neuromirror.index.search_terms import MAX_QUERY_LENGTH
from neuromirror.index.urls import short_hash
from neuromirror.model.records import plain_url

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
