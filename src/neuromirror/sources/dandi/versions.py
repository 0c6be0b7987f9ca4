"""Parsing of a version, from a row of the list of versions or from its ``/info/``."""

from __future__ import annotations

import hashlib
import json
import re
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
from neuromirror.net import ListingTooLongError, SignedUrlPattern, clean_url
from neuromirror.sources.dandi.rows import moment_or_none
from neuromirror.sources.errors import UnexpectedReplyError

_ALWAYS_LEFT_OUT: Final = frozenset({"citation", "manifestLocation", "doi"})
_LEFT_OUT_OF_DRAFTS: Final = frozenset(
    {"assetsSummary", "dateModified", "datePublished", "publishedBy", "releaseNotes"}
)
# JSON allows these characters unescaped, YAML and UTF-8 do not.
_NOT_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SIGNED: Final = SignedUrlPattern(
    "https?", "x-(?:amz|goog)-signature|awsaccesskeyid|signature|sig|access_token|token"
)
_REPLACED: Final = "***"


def published_doi(instance: Mapping[str, Any], local_id: str, version: str) -> str | None:
    """Return the DOI of a published version; None if the instance assigns no DOIs.

    ``instance`` is ``instance_config`` of the API's ``/info/``.
    """
    prefix, name = instance.get("doi_prefix"), instance.get("instance_name")
    if not (isinstance(prefix, str) and prefix and isinstance(name, str) and name):
        return None
    return f"{prefix}/{name.lower()}.{local_id}/{version}"


def dandiset_document(metadata: Mapping[str, Any], *, published: bool, doi: str | None) -> Document:
    """Return ``dandiset.yaml``: the metadata as JSON with sorted keys, which is also YAML.

    DANDI's own tools can read it. The text is UTF-8 and ends with a newline.

    Parameters
    ----------
    metadata
        The metadata of the version, as the archive returns them.
    published
        Whether the version is published; more fields of a draft are volatile and left out.
    doi
        The DOI of a published version, which is added.
    """
    left_out = _ALWAYS_LEFT_OUT if published else _ALWAYS_LEFT_OUT | _LEFT_OUT_OF_DRAFTS
    kept = {name: clean(value) for name, value in metadata.items() if name not in left_out}
    if published and doi is not None:
        kept["doi"] = doi
    dumped = json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True)
    return Document(b"dandiset.yaml", utf8(dumped) + b"\n")


def utf8(dumped: str) -> bytes:
    """Encode JSON text as UTF-8, and escape characters that YAML or UTF-8 does not allow.

    The escapes are JSON's own, so that the value stays the same.
    """
    if dumped.isascii() and "\x7f" not in dumped:
        return dumped.encode("ascii")
    return _NOT_YAML.sub(_escape_match, dumped).encode("utf-8")


def _escape_match(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def clean(value: Any) -> Any:
    """Return a JSON value without signed queries and user info in its texts.

    Fragments and other parameters stay: they matter in ontology terms and prose.
    """
    if isinstance(value, str):
        return _SIGNED.sub(_clean_or_replace, value)
    if isinstance(value, Mapping):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value


def may_need_cleaning(dumped: str) -> bool:
    """Return whether :func:`clean` could change a JSON value, given its JSON text.

    False is certain, True is not. JSON escapes no character that is part of user info or of a
    signature's name.
    """
    return ("@" in dumped or "=" in dumped) and _SIGNED.search(dumped)


def _clean_or_replace(url: str) -> str:
    try:
        return clean_url(url)
    except ValueError:
        return _REPLACED


def dandiset_facts(metadata: Mapping[str, Any], name: str, doi: str | None) -> DatasetFacts:
    """Return title, licenses, DOI and landing page of a version.

    Parameters
    ----------
    metadata
        The metadata of the version, as the archive returns them.
    name
        The title if the metadata have none.
    doi
        The DOI of the version, if it has one.
    """
    licenses = metadata.get("license")
    page = metadata.get("url")
    title = metadata.get("name")
    return DatasetFacts(
        title=str(clean(title if isinstance(title, str) and title else name)),
        license=tuple(str(clean(one)) for one in licenses if isinstance(one, str))
        if isinstance(licenses, list)
        else (),
        doi=doi,
        landing_page=str(clean(page))
        if isinstance(page, str) and page.startswith(("http://", "https://"))
        else None,
    )


SHARD_LIMIT: Final = 8 << 20
"""Maximum bytes of a shard."""
TOTAL_LIMIT: Final = 1 << 30
"""Maximum bytes of all shards of a list: ten times the largest known list."""

_FOLDER: Final = ".dandi"
_LEFT_OUT: Final = frozenset(
    {
        *("@context", "access", "contentUrl", "dateModified", "datePublished", "digest"),
        *("id", "publishedBy", "schemaKey"),
    }
)
_DIGITS: Final = 64
_GENERATION: Final = "Metadata generation"
_dump: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_BASIC: Final = ("path", "identifier", "encodingFormat", "contentSize", "schemaVersion")


def metadata_line(metadata: Mapping[str, Any], path: str) -> bytes:
    """Return an asset's metadata as one line of JSON with its newline.

    Volatile fields, nulls and secrets are left out; of metadata too large for a shard only the
    basic fields remain. ``path`` is the asset's path in the row of the asset list.
    """
    kept = {
        name: value
        for name, value in metadata.items()
        if name not in _LEFT_OUT and value is not None
    }
    activities = kept.get("wasGeneratedBy")
    if isinstance(activities, list):
        kept["wasGeneratedBy"] = [one for one in activities if not _is_generation(one)]
    kept["path"] = path
    dumped = _dump(kept)
    if may_need_cleaning(dumped):
        kept = {**clean(kept), "path": path}
        dumped = _dump(kept)
    line = utf8(dumped) + b"\n"
    if len(line) > SHARD_LIMIT:
        # a line must fit into a shard
        kept = {name: kept[name] for name in _BASIC if name in kept} | {"metadataLeftOut": "size"}
        line = utf8(_dump(kept)) + b"\n"
    return line


def _is_generation(activity: object) -> bool:
    return isinstance(activity, Mapping) and activity.get("name") == _GENERATION


class MetadataShards:
    """Collects the metadata of the assets in one asset list, and divides them into files (shards).

    All lines are in memory: about 100 MB for the largest known list (68,210 assets).

    Parameters
    ----------
    limit
        Maximum bytes of a shard.
    most
        Bytes of all shards beyond which :class:`~neuromirror.net.ListingTooLongError` is raised.
    """

    def __init__(self, limit: int = SHARD_LIMIT, most: int = TOTAL_LIMIT) -> None:
        self._limit = limit
        self._most = most
        self._size = 0
        self._lines: list[tuple[bytes, bytes, bytes]] = []

    def add_rows(self, rows: Iterable[Any]) -> None:
        """Add the unparsed rows of one page; rows that are not assets are skipped."""
        for row in rows:
            metadata = row.get("metadata") if isinstance(row, Mapping) else None
            path = row.get("path") if isinstance(row, Mapping) else None
            if isinstance(metadata, Mapping) and isinstance(path, str) and path:
                name = path.encode("utf-8", "backslashreplace")
                digest = hashlib.sha256(name).digest()
                line = metadata_line(metadata, path)
                self._size += len(name) + len(line)
                self._check_size()
                self._lines.append((digest, name, line))

    def _check_size(self) -> None:
        if self._size > self._most:
            raise ListingTooLongError(
                f"the assets' metadata have more than {self._most} bytes; the listing is not used; "
                "to mirror the files without metadata, set metadata = false in the options of the "
                "mirror's configuration"
            )

    def documents(self) -> tuple[Document, ...]:
        """Return the shards sorted by name, empty without assets, and clear the collection."""
        lines, self._lines = self._lines, []
        return tuple(self._shards(lines, ""))

    def _shards(self, lines: list[tuple[bytes, bytes, bytes]], digits: str) -> list[Document]:
        if not lines:
            return []
        if len(digits) == _DIGITS or sum(len(line) for _, _, line in lines) <= self._limit:
            lines.sort(key=lambda one: one[1:])
            name = f"{_FOLDER}/assets{'-' if digits else ''}{digits}.jsonl"
            return [Document(name.encode("ascii"), b"".join(line for _, _, line in lines))]
        at = len(digits)
        split: list[list[tuple[bytes, bytes, bytes]]] = [[] for _ in range(16)]
        for one in lines:
            split[one[0][at // 2] >> (0 if at % 2 else 4) & 15].append(one)
        lines.clear()
        found: list[Document] = []
        for number, some in enumerate(split):
            found += self._shards(some, f"{digits}{number:x}")
            some.clear()
        return found


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
        for version in versions:
            self._versions[version.dataset.local_id, version.upstream] = version, now
            if before is not None:
                self._next_versions[before.dataset.local_id, before.upstream] = version
            before = version

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
