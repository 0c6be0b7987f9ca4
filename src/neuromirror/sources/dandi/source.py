"""DANDI and archives that speak its API (EMBER, LINC, the sandbox), asked directly.

The API is described at ``<api>/docs/swagger/``; what it does beyond that was learnt from the
archive's source and is said where it matters.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from neuromirror.model import (
    DatasetHint,
    DatasetRef,
    NamedException,
    Summary,
    VersionKind,
    VersionRef,
    WebRemote,
)
from neuromirror.net import Forbidden, NotFound, Session, is_local_name, origin
from neuromirror.sources.dandi.document import document, facts, published_doi
from neuromirror.sources.dandi.paging import pages
from neuromirror.sources.dandi.places import with_locations
from neuromirror.sources.dandi.rows import BlobRow, moment_or_none, read_row
from neuromirror.sources.errors import DatasetNotFound, MalformedId, UnexpectedReply
from neuromirror.sources.options import SourceOptions
from neuromirror.sources.protocol import Known, Listing

_ID: Final = re.compile(r"[0-9]{6}\Z")
_VERSION: Final = re.compile(r"0\.[0-9]{6}\.[0-9]{4}\Z")
_DRAFT: Final = "draft"
_OPEN: Final = "OPEN"


class DandiOptions(SourceOptions):
    """The ``[options]`` of a mirror of a DANDI archive.

    ``api`` is the API's base (``https://api.dandiarchive.org/api``); ``token_env`` names the
    environment variable with a token; ``page_size`` is at most the archive's own limit, 1000;
    ``connections`` is how many objects are asked about at once; ``allow_private`` says that the
    archive is on this machine or network (by default: exactly when ``api`` says so).
    """

    api: str
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    page_size: int = Field(default=1000, ge=1, le=1000)
    connections: int = Field(default=8, ge=1, le=64)
    allow_private: bool | None = None

    @field_validator("api")
    @classmethod
    def _normal(cls, api: str) -> str:
        scheme, host, port = origin(api)
        parts = urlsplit(api)
        if "@" in parts.netloc:
            raise ValueError("an address must not hold a user or password; use token_env")
        if parts.query or parts.fragment:
            raise ValueError("an API address ends with its path")
        host = f"[{host}]" if ":" in host else host
        usual = port == (443 if scheme == "https" else 80)
        return f"{scheme}://{host}{'' if usual else f':{port}'}{parts.path.rstrip('/')}"

    def session(self) -> Session:
        """A session that gives the token to the API's host alone."""
        private = self.allow_private
        if private is None:
            private = is_local_name(origin(self.api)[1])
        tokens = {self.api: self.token_env} if self.token_env else {}
        return Session(allow_private=private, tokens=tokens)


class DandiSource:
    """A DANDI archive as a :class:`~neuromirror.sources.Source`."""

    Options: ClassVar[type[DandiOptions]] = DandiOptions

    def __init__(self, mirror: str, options: DandiOptions, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"{options.api}/"
        self._instance: Mapping[str, Any] | None = None
        self._instance_lock = threading.Lock()

    def dataset(self, local_id: str) -> DatasetRef:
        """The reference of a dandiset; raises :class:`MalformedId` (a ValueError)."""
        if not _ID.match(local_id):
            raise MalformedId(
                f"{self.mirror}: {local_id!r} is no dandiset id; one has six digits, like 000027"
            )
        return DatasetRef(self.mirror, local_id, f"{self.options.api}/dandisets/{local_id}/")

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all dandisets that are not hidden, in order of id.

        The list is proven only when the iterator ends: :class:`ListingNotProven` may come after
        some of it. A dandiset deleted and another made between two pages would go unnoticed, so
        ask :meth:`hint` about one that is missing before believing that it is gone.
        """
        what = f"{self.mirror}: the list of dandisets"
        asked = {"ordering": "id", "draft": "true", "empty": "true"}
        for rows in pages(
            self.session,
            f"{self.options.api}/dandisets/",
            asked,
            what=what,
            page_size=self.options.page_size,
            key="identifier",
            shrink=True,
        ):
            for row in rows:
                identifier = row.get("identifier") if isinstance(row, dict) else None
                if not isinstance(identifier, str) or not _ID.match(identifier):
                    raise UnexpectedReply(f"{what} holds a row without a dandiset id")
                published = row.get("most_recent_published_version")
                yield self._hint(self.dataset(identifier), row, published)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dandiset's hint; raises :class:`DatasetNotFound`.

        An embargoed dandiset is hidden from the list and known only by the refusal to show it.
        """
        try:
            row = self.session.get_json(dataset.source_uri)
            published = None
            if isinstance(row, dict) and row.get("most_recent_published_version") is not None:
                # The list means the version made last, this reply the one saved last: they differ
                # once an older version is saved again. The list's is what both must say.
                versions = self._version_rows(dataset)
                published = max(
                    (one for one in versions if one.get("version") != _DRAFT),
                    key=lambda one: (str(one.get("created")), str(one.get("version"))),
                    default=None,
                )
        except NotFound as error:
            raise self._missing(dataset, error) from error
        except Forbidden as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            return DatasetHint(dataset, "embargoed", unavailable="embargoed")
        if not isinstance(row, dict) or row.get("identifier") != dataset.local_id:
            raise UnexpectedReply(f"{dataset.name}: the reply describes no such dandiset")
        return self._hint(dataset, row, published)

    def _missing(self, dataset: DatasetRef, error: NotFound) -> Exception:
        """What a 404 means: only the archive's own (JSON with a detail) says that it is gone."""
        if error.detail is None:
            return error
        return DatasetNotFound(
            f"{dataset.name}: {error.url} says that there is no such dandiset: {error.detail}"
        )

    def _hint(self, dataset: DatasetRef, row: Mapping[str, Any], published: Any) -> DatasetHint:
        draft = row.get("draft_version")
        embargo = row.get("embargo_status")
        if not isinstance(draft, dict) or not isinstance(embargo, str):
            raise UnexpectedReply(f"{dataset.name}: the reply lacks draft or embargo status")
        name = draft.get("name")
        return DatasetHint(
            dataset,
            _fingerprint(draft, published, embargo),
            title=name if isinstance(name, str) else "",
            unavailable=None if embargo == _OPEN else "embargoed",
        )

    def _version_rows(self, dataset: DatasetRef) -> list[dict[str, Any]]:
        what = f"{dataset.name}: the list of versions"
        found: list[dict[str, Any]] = []
        for rows in pages(
            self.session,
            f"{dataset.source_uri}versions/",
            {"order": "created"},
            what=what,
            page_size=self.options.page_size,
            key="version",
            shrink=True,
        ):
            for row in rows:
                label = row.get("version") if isinstance(row, dict) else None
                if not isinstance(label, str) or not (label == _DRAFT or _VERSION.match(label)):
                    raise UnexpectedReply(f"{what} holds a row without a version")
                found.append(row)
        if not any(row["version"] == _DRAFT for row in found):
            # Every dandiset has a draft: without one the list is not all of it.
            raise UnexpectedReply(f"{what} lacks the draft")
        return found

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Published versions, oldest first, then the draft; raises :class:`DatasetNotFound`."""
        try:
            rows = self._version_rows(dataset)
        except NotFound as error:
            raise self._missing(dataset, error) from error
        refs = [self._version(dataset, row["version"], row) for row in rows]
        return sorted(
            refs,
            key=lambda ref: (ref.kind is VersionKind.OBSERVED, ref.time, ref.upstream),
        )

    def _version(self, dataset: DatasetRef, label: str, row: Any) -> VersionRef:
        """The version of a row or of its ``/info/``."""
        if not isinstance(row, dict) or row.get("version") != label:
            raise UnexpectedReply(f"{dataset.name}@{label}: the reply describes no such version")
        files, size = _count(row.get("asset_count")), _count(row.get("size"))
        published = label != _DRAFT
        time: datetime | None = moment_or_none(row.get("created" if published else "modified"))
        if files is None or size is None or time is None:
            raise UnexpectedReply(
                f"{dataset.name}@{label}: the reply lacks time, number of assets or size"
            )
        kind = VersionKind.PUBLISHED if published else VersionKind.OBSERVED
        return VersionRef(dataset, label, kind, time, Summary(files, size))

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """None: a draft's earlier states are kept nowhere."""
        return []

    def capabilities(self) -> Mapping[str, str]:
        """None to tell: the API allows the same everywhere."""
        return {}

    def listing(self, version: VersionRef, known: Known) -> Listing:
        """The assets of a version; its ``version`` holds upstream's summary as of now."""
        dataset, label = version.dataset, version.upstream
        if label != _DRAFT and not _VERSION.match(label):
            raise MalformedId(f"{dataset.name}: {label!r} is no version of a dandiset")
        base = f"{dataset.source_uri}versions/{label}/"
        info = self.session.get_json(f"{base}info/")
        opened = self._version(dataset, label, info)
        metadata = info.get("metadata")
        if not isinstance(metadata, dict):
            raise UnexpectedReply(f"{dataset.name}@{label}: the reply lacks the metadata")
        published = opened.kind is VersionKind.PUBLISHED
        doi = published_doi(self._instance_config(), dataset.local_id, label) if published else None
        name = info.get("name")

        def closing() -> VersionRef:
            return self._version(dataset, label, self.session.get_json(f"{base}info/"))

        return Listing(
            version=opened,
            facts=facts(metadata, name if isinstance(name, str) else "", doi),
            documents=(document(metadata, published=published, doi=doi),),
            entries=with_locations(
                self._rows(dataset, label, published=published),
                self.session,
                known,
                api=self.options.api,
                connections=self.options.connections,
            ),
            closing=closing,
            # git-annex tries no second URL of one remote when the first gives wrong bytes.
            web_remotes=(
                WebRemote(
                    f"{self.mirror}-api",
                    f"{self.options.api.replace('[', '[[]')}/assets/*/download/",
                ),
            ),
        )

    def _rows(
        self, dataset: DatasetRef, label: str, *, published: bool
    ) -> Iterator[BlobRow | NamedException]:
        number = 0
        for rows in pages(
            self.session,
            f"{dataset.source_uri}versions/{label}/assets/",
            {"metadata": "true", "order": "path"},
            what=f"{dataset.name}@{label}: the list of assets",
            page_size=self.options.page_size,
            key="path",
            shrink=True,
        ):
            for row in rows:
                number += 1
                yield read_row(
                    row, number, published=published, allow_private=self.session.allow_private
                )

    def _instance_config(self) -> Mapping[str, Any]:
        """``instance_config`` of the API's ``/info/``, asked for once."""
        with self._instance_lock:
            if self._instance is None:
                info = self.session.get_json(f"{self.options.api}/info/")
                found = info.get("instance_config") if isinstance(info, dict) else None
                self._instance = found if isinstance(found, dict) else {}
            return self._instance


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _fingerprint(draft: Mapping[str, Any], published: Any, embargo: str) -> str:
    """A digest of what moves when a dandiset changes, the same from every kind of reply.

    ``status``, ``active_uploads`` and stars move without the data and are not in it. ``modified``
    of both versions is, though validation and late DOIs move it: a visit too many costs a few
    requests, one too few loses a state.
    """
    fields = ("version", "name", "asset_count", "size", "created", "modified")
    moving = {
        "draft": [draft.get(field) for field in fields],
        "published": [published.get(field) for field in fields]
        if isinstance(published, Mapping)
        else None,
        "embargo": embargo,
    }
    canonical = json.dumps(moving, sort_keys=True, separators=(",", ":")).encode("ascii")
    return hashlib.sha256(canonical).hexdigest()[:32]
