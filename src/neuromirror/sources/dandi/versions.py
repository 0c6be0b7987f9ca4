"""What the archive says of one version: in a row of the list of versions, and by ``/info/``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

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
_RECENT_SECONDS: Final = 60.0
"""Seconds for which a version is taken to be as it was told; longer makes no wrong listing, but
more often one that is read in vain."""


class UnderEmbargoError(NeuromirrorError):
    """A dandiset that was open a moment ago, and is not any more."""


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version, its facts and its ``dandiset.yaml``, all from one reply."""

    version: VersionRef
    facts: DatasetFacts
    document: Document


def parse_version(dataset: DatasetRef, label: str, row: Any, *, private: bool) -> VersionRef:
    """The version of a row or of its ``/info/``.

    Raises UnderEmbargoError unless ``private``, and UnexpectedReplyError for what describes no
    such version.
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
    """What ``/info/`` says; raises as :func:`parse_version`. ``doi`` is a published version's."""
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


def _embargo_of(row: Mapping[str, Any]) -> object:
    """The embargo status of the dandiset that a version's row is of."""
    dandiset = row.get("dandiset")
    return dandiset.get("embargo_status", OPEN) if isinstance(dandiset, dict) else OPEN


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class RecentVersions:
    """Versions as they were listed a moment ago; each serves once as the state before a listing.

    Only once: where upstream moved meanwhile, the listing is read again, and then upstream is to
    be asked again, too. Shared by threads, of which each visits another dandiset. ``clock`` gives
    seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._versions: dict[tuple[str, str], tuple[VersionRef, float]] = {}
        self._next_versions: dict[tuple[str, str], VersionRef] = {}

    def remember(self, versions: Iterable[VersionRef]) -> None:
        """Remember a dandiset's versions as upstream has them now, in the order of visits."""
        now = self._clock()
        before: VersionRef | None = None
        for one in versions:
            self._versions[one.dataset.local_id, one.upstream] = one, now
            if before is not None:
                self._next_versions[before.dataset.local_id, before.upstream] = one
            before = one

    def next_version(self, version: VersionRef) -> VersionRef | None:
        """Return the version after this one, if it was listed a moment ago and not taken yet."""
        found = self._next_versions.get((version.dataset.local_id, version.upstream))
        if found is None or (found.dataset.local_id, found.upstream) not in self._versions:
            return None
        return found

    def consume(self, version: VersionRef) -> bool:
        """Whether upstream had a version like this a moment ago; forgets that it did."""
        found = self._versions.pop((version.dataset.local_id, version.upstream), None)
        return (
            found is not None and found[0] == version and self._clock() - found[1] < _RECENT_SECONDS
        )
