"""Parsing of a version, from a row of the list of versions or from its ``/info/``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Document,
    FileTotals,
    NeuromirrorError,
    VersionKind,
    VersionRef,
)
from neuromirror.sources.dandi.document import dandiset_document, dandiset_facts
from neuromirror.sources.dandi.rows import moment_or_none
from neuromirror.sources.errors import UnexpectedReplyError

DRAFT: Final = "draft"
OPEN: Final = "OPEN"
RECENT_SECONDS: Final = 60.0
"""Seconds for which a listed version counts as current.

A longer time would not make listings wrong, but more of them would have to be repeated."""


class UnderEmbargoError(NeuromirrorError):
    """The archive put a dandiset under embargo between two requests of a visit."""


class VersionInfo(Struct, frozen=True):
    """A version, its facts and its ``dandiset.yaml``, from one reply."""

    version: VersionRef
    facts: DatasetFacts
    document: Document


def parse_version(dataset: DatasetRef, label: str, row: Any, *, private: bool) -> VersionRef:
    """Return the version in a row of the list of versions, or in an ``/info/`` reply.

    Parameters
    ----------
    dataset, label
        The dandiset, and the requested version.
    row
        The row or reply, as parsed JSON.
    private
        Whether dandisets under embargo are read.

    Raises
    ------
    UnderEmbargoError
        If the dandiset is under embargo, unless ``private``.
    UnexpectedReplyError
        If the row does not describe this version.
    """
    if not isinstance(row, dict) or row.get("version") != label:
        raise UnexpectedReplyError(f"{dataset.name}@{label}: the reply describes no such version")
    if not private and _embargo_of(row) != OPEN:
        raise UnderEmbargoError(f"{dataset.name} is embargoed; nothing more of it was read")
    files, size = _count(row.get("asset_count")), _count(row.get("size"))
    published = label != DRAFT
    moment: datetime | None = moment_or_none(row.get("created" if published else "modified"))
    if files is None or size is None or moment is None:
        raise UnexpectedReplyError(
            f"{dataset.name}@{label}: the reply lacks time, number of assets or size"
        )
    kind = VersionKind.PUBLISHED if published else VersionKind.OBSERVED
    return VersionRef(dataset, label, kind, moment, FileTotals(files, size))


def parse_version_info(
    dataset: DatasetRef, label: str, info: Any, *, doi: str | None, private: bool
) -> VersionInfo:
    """Return the version, facts and document in an ``/info/`` reply.

    ``doi`` is the DOI of a published version, if it has one. The other parameters, and the errors,
    are those of :func:`parse_version`.
    """
    version = parse_version(dataset, label, info, private=private)
    metadata = info.get("metadata")
    if not isinstance(metadata, dict):
        raise UnexpectedReplyError(f"{dataset.name}@{label}: the reply lacks the metadata")
    name = info.get("name")
    return VersionInfo(
        version,
        dandiset_facts(metadata, name if isinstance(name, str) else "", doi),
        dandiset_document(metadata, published=version.kind is VersionKind.PUBLISHED, doi=doi),
    )


def fingerprint(draft: Mapping[str, Any], published: Any, embargo: str) -> str:
    """Return a digest of the fields that change with a dandiset, equal for every kind of reply.

    ``status``, ``active_uploads`` and stars are left out because they change without the data.
    ``modified`` of both versions is included, although validation and late DOIs change it: a
    needless visit costs a few requests, a missed one loses a state.

    Parameters
    ----------
    draft, published
        The draft, and the newest published version or None, as the API returns them.
    embargo
        The embargo status of the dandiset.
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


def _embargo_of(row: Mapping[str, Any]) -> object:
    """Return the embargo status of the dandiset in a version's row."""
    dandiset = row.get("dandiset")
    return dandiset.get("embargo_status", OPEN) if isinstance(dandiset, dict) else OPEN


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class RecentVersions:
    """A cache of the versions in a list that was just requested, which saves a visit requests.

    To read a listing, the version's totals are needed as they are before and after it. The cached
    version serves once as the one before; it is then removed, because a repeated listing must
    request the version again. Threads may share the cache if each visits another dandiset.
    ``clock`` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._versions: dict[tuple[str, str], tuple[VersionRef, float]] = {}
        self._next_versions: dict[tuple[str, str], VersionRef] = {}

    def remember(self, versions: Iterable[VersionRef]) -> None:
        """Store a dandiset's versions as just listed, in the order of visits."""
        now = self._clock()
        before: VersionRef | None = None
        for one in versions:
            self._versions[one.dataset.local_id, one.upstream] = one, now
            if before is not None:
                self._next_versions[before.dataset.local_id, before.upstream] = one
            before = one

    def next_version(self, version: VersionRef) -> VersionRef | None:
        """Return the next version, if it was just listed and not consumed."""
        found = self._next_versions.get((version.dataset.local_id, version.upstream))
        if found is None or (found.dataset.local_id, found.upstream) not in self._versions:
            return None
        return found

    def consume(self, version: VersionRef) -> bool:
        """Return whether upstream just listed this very version, and forget it."""
        found = self._versions.pop((version.dataset.local_id, version.upstream), None)
        return (
            found is not None and found[0] == version and self._clock() - found[1] < RECENT_SECONDS
        )
