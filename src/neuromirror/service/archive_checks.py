"""Check whether a live archive answers as the crawler needs: ``neuromirror doctor MIRROR``.

Each check sends a few requests and writes nothing. ``error``: the archive contradicts its
interface, so that a mirror of it cannot be trusted. ``warning``: it lacks an optional feature, or
has no data to check it on. The message says what was observed, and what follows for a mirror.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from copy import copy
from itertools import pairwise
from typing import Any, Final

from neuromirror.model import NeuromirrorError
from neuromirror.net import HttpError, ObjectRow, S3Bucket, Session, UnreachableError, probe_bucket
from neuromirror.service.doctor import DoctorCheck, Level
from neuromirror.sources import Source
from neuromirror.sources.boss import BossSource
from neuromirror.sources.boss.client import BossClient, url_path
from neuromirror.sources.dandi import DandiSource
from neuromirror.sources.dandi.objects import BucketCache, parse_object_url
from neuromirror.sources.ndstore import NdstoreSource
from neuromirror.sources.s3.bucket_source import BucketSource

_SMALL: Final = 1 << 20
"""Maximum size of an object that is downloaded."""
_SAMPLES: Final = 4
_ROWS: Final = 100
_EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"
_REQUIRED: Final = (
    "listing",
    "paging",
    "missing objects",
    "datasets",
    "missing datasets",
    "assets",
)
"""Subjects that are errors where the archive does not answer as expected."""

_Findings = Iterator[tuple[str, bool | None, str, str]]
"""Subject, whether the archive answers as expected (None: no data), what was observed, and what
follows for a mirror if not."""


def check_archive(source: Source) -> Iterator[DoctorCheck]:
    """Run the checks of a source; after one that failed, the others run if the archive answers."""
    match source:
        case DandiSource():
            yield from _DandiChecks(source.session, source.options.api).run()
        case BucketSource():
            yield from _BucketChecks(source.bucket, source.bucket_prefix).run()
        case BossSource():
            yield from _run("boss", lambda: _check_boss(source))
        case NdstoreSource():
            yield from _run("ndstore", lambda: _check_ndstore(source))
        case _:
            yield DoctorCheck("archive", "warning", f"no checks for {type(source).__name__}")


def _run(name: str, *checks: Callable[[], _Findings]) -> Iterator[DoctorCheck]:
    for check in checks:
        try:
            for subject, holds, observed, otherwise in check():
                if holds is None:
                    yield DoctorCheck(subject, "warning", f"not checked: {observed}")
                elif holds:
                    yield DoctorCheck(subject, "ok", observed)
                else:
                    level: Level = "error" if subject in _REQUIRED else "warning"
                    yield DoctorCheck(subject, level, f"{observed}; {otherwise}")
        except NeuromirrorError as error:
            yield DoctorCheck(name, "error", str(error))
            if isinstance(error, UnreachableError):
                return


class _BucketChecks:
    """The checks of a bucket, on the objects of the first page of its listing."""

    def __init__(self, bucket: S3Bucket, prefix: bytes) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._rows: list[ObjectRow] = []

    def run(self) -> Iterator[DoctorCheck]:
        checks = (self.listing, self.versions, self.sizes, self.etags, self.parts, self.ranges)
        yield from _run(f"bucket {self._bucket.name}", *checks, self.missing)

    def _samples(self, most: int = 1 << 62) -> list[ObjectRow]:
        """Return non-empty objects, evenly spaced over the first page."""
        rows = [row for row in self._rows if 0 < row.size <= most]
        return rows[:: max(1, len(rows) // _SAMPLES)][:_SAMPLES]

    def listing(self) -> _Findings:
        self._rows = self._bucket.page(self._prefix).rows
        keys = [row.key for row in self._rows]
        ordered = all(one < two for one, two in pairwise(keys))
        observed = f"{len(keys)} keys, {'in' if ordered else 'out of'} byte order"
        yield "listing", ordered, observed, "the bucket cannot be mirrored"
        if len(keys) < 3:
            yield "paging", None, "fewer than 3 objects", ""
            return
        small = copy(self._bucket)
        small.page_size = 2
        first = small.page(self._prefix)
        after = [row.key for row in small.page(self._prefix, after=keys[1]).rows]
        by_token = [row.key for row in small.page(self._prefix, token=first.token).rows]
        holds = after == by_token == keys[2:4]
        observed = "start-after and tokens continue a page of two keys"
        if not holds:
            observed = f"after {keys[:2]!r}, start-after listed {after!r}, the token {by_token!r}"
        yield "paging", holds, observed, "the bucket cannot be mirrored"

    def versions(self) -> _Findings:
        found = probe_bucket(self._bucket, self._prefix)
        listed, read = found.versions_listable, bool(found.version_readable)
        observed = f"object versions can{'' if listed else 'not'} be listed"
        observed += f" and can{'' if read else 'not'} be read by their id"
        otherwise = "only the current state can be mirrored, or its bytes may be overwritten"
        yield "versions", listed and read, observed, otherwise

    def sizes(self) -> _Findings:
        wrong = [
            f"{row.key.decode(errors='replace')} has {row.size} bytes, and the MD5 of none"
            for row in self._rows
            if row.size and row.etag == _EMPTY_MD5
        ]
        for row in self._samples():
            length = self._bucket.head(row.key).headers.get("Content-Length")
            if length != str(row.size):
                wrong.append(f"{row.key.decode(errors='replace')}: {row.size} listed, {length}")
        observed = wrong[0] if wrong else "HEAD returns the listed size"
        otherwise = "large objects of Swift: each object without a digest takes a request"
        yield "sizes", not wrong if self._rows else None, observed, otherwise

    def etags(self) -> _Findings:
        rows = [row for row in self._samples(_SMALL) if "-" not in row.etag]
        contents = (self._bucket.read(row.key, limit=_SMALL + 1) for row in rows)
        digests = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents]
        same = sum(row.etag == digest for row, digest in zip(rows, digests, strict=True))
        observed = f"the ETag of {same} of {len(rows)} objects of one part is their MD5"
        observed = observed if rows else "no small object of one part"
        yield "etags", same == len(rows) if rows else None, observed, "evidence of files: size"

    def parts(self) -> _Findings:
        after = b""
        for _ in range(_SAMPLES):
            page = self._bucket.page(self._prefix, after=after)
            row = next((one for one in page.rows if "-" in one.etag), None)
            if row is not None or not page.truncated or not page.rows:
                break
            after = page.rows[-1].key
        if row is None:
            yield "parts", None, f"no multipart object on {_SAMPLES} pages", ""
            return
        reply = self._bucket.head(row.key, part_number=1)
        count = reply.headers.get("x-amz-mp-parts-count")
        holds = reply.status == 206 or (reply.status == 200 and count is not None)
        observed = f"HTTP {reply.status} for the head of a part of {count or 'an unstated number'}"
        yield "parts", holds, observed, "evidence of multipart files: size"

    def ranges(self) -> _Findings:
        row = next((sample for sample in self._samples() if sample.size > 20), None)
        if row is None:
            yield "ranges", None, "no object of more than 20 bytes", ""
            return
        url = self._bucket.object_url(row.key)
        with self._bucket.session.stream(url, headers={"Range": "bytes=4-13"}) as reply:
            got = b"".join(reply.chunks) if reply.status == 206 else b""
            stated = reply.headers.get("Content-Range", "")
        holds = len(got) == 10 and stated.startswith("bytes 4-13/")
        observed = f"HTTP {reply.status} for ten bytes, Content-Range: {stated or 'none'}"
        yield "ranges", holds, observed, "interrupted downloads restart; files cannot be streamed"

    def missing(self) -> _Findings:
        status = self._bucket.head(self._prefix + b"neuromirror-doctor/does-not-exist").status
        observed = f"HTTP {status} for a key that does not exist"
        holds = status == 404 or (None if status == 403 else False)
        yield "missing objects", holds, observed, "deletions cannot be confirmed one by one"


class _DandiChecks:
    """The checks of a DANDI API, on the first dandisets that have assets."""

    def __init__(self, session: Session, api: str) -> None:
        self._session = session
        self._api = api
        self._blobs: list[dict[str, Any]] = []

    def run(self) -> Iterator[DoctorCheck]:
        yield from _run(self._api, self.lists, self.errors, self.assets, self.downloads)
        urls = (url for row in self._blobs for url in _content_urls(row))
        url = next((one for one in urls if not one.startswith(self._api)), None)
        if url is None:
            yield DoctorCheck("bucket", "warning", "not checked: no asset has a URL in a bucket")
            return
        address = parse_object_url(url)
        bucket = BucketCache(self._session).bucket(address)
        folder, slash, _ = address.key.partition(b"/")
        yield from _BucketChecks(bucket, folder + slash if slash else b"").run()

    def _json(self, path: str, **query: str | int) -> Any:
        return self._session.get_json(f"{self._api}/{path}", query)

    def lists(self) -> _Findings:
        first = self._json("dandisets/", page_size=1, ordering="id")
        if not {"count", "next", "results"} <= first.keys() or first["count"] < 2:
            yield "datasets", None, f"fewer than 2 dandisets in {str(first)[:_ROWS]}", ""
            return
        pages = first, self._json("dandisets/", page_size=1, page=2, ordering="id")
        names = [[row["identifier"] for row in page["results"]] for page in pages]
        holds = names[0] < names[1] and len(names[0]) == len(names[1]) == 1
        observed = f"pages of one dandiset: {names[0]}, {names[1]} of {first['count']}"
        yield "datasets", holds, observed, "the archive cannot be mirrored"

    def errors(self) -> _Findings:
        status = _status(self._session, f"{self._api}/dandisets/999999/")
        observed = f"HTTP {status} for a dandiset that does not exist"
        yield "missing datasets", status == 404, observed, "a removed one looks like a failure"

    def assets(self) -> _Findings:
        wrong, checked = [], 0
        for row in self._json("dandisets/", page_size=_ROWS, ordering="id")["results"]:
            version = row.get("most_recent_published_version") or row.get("draft_version") or {}
            count = version.get("asset_count", 0)
            if not count or checked == _SAMPLES:
                continue
            path = f"dandisets/{row['identifier']}/versions/{version['version']}/assets/"
            page = self._json(path, page_size=_ROWS, metadata="true")["results"]
            self._blobs += [asset for asset in page if asset.get("blob")]
            checked += 1
            if len(page) != min(count, _ROWS):
                wrong.append(f"{row['identifier']}: {count} stated, {len(page)} listed")
        observed = "; ".join(wrong) or f"{checked} versions list the stated number of assets"
        yield "assets", not wrong if checked else None, observed, "listings cannot be validated"
        digests = [row.get("metadata", {}).get("digest") or {} for row in self._blobs]
        count = sum("dandi:sha2-256" in one or "dandi:dandi-etag" in one for one in digests)
        observed = f"{count} of {len(digests)} blobs have a sha256 or a dandi-etag"
        holds = count == len(digests) if digests else None
        yield "digests", holds, observed, "evidence of the others: size"

    def downloads(self) -> _Findings:
        rows = self._blobs[:: max(1, len(self._blobs) // _SAMPLES)][:_SAMPLES]
        direct = redirected = 0
        for row in rows:
            for url in _content_urls(row):
                reply = self._session.head(url)
                if url.startswith(self._api):
                    redirected += reply.status in (302, 303, 307)
                else:
                    direct += reply.headers.get("Content-Length") == str(row.get("size"))
        observed = (
            f"of {len(rows)} assets, {direct} have the stated size at their URL in the bucket"
        )
        holds = direct == redirected == len(rows) if rows else None
        observed += f", and {redirected} downloads through the API redirect"
        yield "content", holds, observed, "the other way is used"


def _content_urls(row: dict[str, Any]) -> list[str]:
    return [str(url) for url in row.get("metadata", {}).get("contentUrl") or ()]


def _status(session: Session, url: str, accept: str = "application/json") -> int:
    try:
        session.get_bytes(url, limit=_SMALL, accept=accept, parse=lambda got: got)
    except HttpError as error:
        return error.status or 0
    return 200


def _check_boss(source: BossSource) -> _Findings:
    api = source.options.base
    client = BossClient(source.session, api, source.options.token)
    channels = (
        (collection, experiment, channel)
        for collection in client.collections()[:_SAMPLES]
        for experiment in client.experiments(collection)[:_SAMPLES]
        for channel in client.channels(collection, experiment)[:1]
        if client.may_read(collection, experiment, channel)
    )
    names = next(channels, None)
    if names is None:
        yield "datasets", None, "the first ones cannot be read without a token", ""
        return
    datatype = client.channel(*names).get("datatype")
    holds = datatype in ("uint8", "uint16", "uint32", "uint64")
    yield "datasets", holds, f"{'/'.join(names)} has voxels of type {datatype}", "they are unknown"
    url = f"{api}/{url_path('cutout', *names)}/0/0:16/0:16/0:16/"
    for kind in ("application/npygz", "application/blosc"):
        status = _status(source.session, url, accept=kind)
        yield f"cutouts as {kind}", status == 200, f"HTTP {status}", "the other encoding is used"


def _check_ndstore(source: NdstoreSource) -> _Findings:
    session, api = source.session, source.options.api
    tokens: Any = session.get_json(f"{api}/public_tokens/")
    infos: list[Any] = [session.get_json(f"{api}/{token}/info/") for token in tokens[:_SAMPLES]]
    whole = all({"dataset", "channels"} <= info.keys() for info in infos)
    observed = f"{len(tokens)} public tokens, {'' if whole else 'not all '}with their channels"
    yield "datasets", whole if tokens else None, observed, "the archive cannot be mirrored"
    status = _status(session, f"{api}/neuromirror-no-such-token/info/")
    observed = f"HTTP {status} for a token that does not exist"
    yield "missing datasets", status == 404, observed, "a removed one looks like a failure"
