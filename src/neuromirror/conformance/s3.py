"""Checks of an S3 bucket (S3 API reference; docs/reference/s3.md explains their consequences)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cached_property
from itertools import pairwise
from typing import Final

from neuromirror.conformance.report import Check, ConformanceFinding, name_checks
from neuromirror.net import HttpError, ObjectRow, ResponseHead, S3Bucket, probe_bucket

_SMALL: Final = 1 << 20
"""Maximum size of an object that is downloaded."""
_SAMPLES: Final = 4
_PAGES: Final = 5
"""Maximum number of pages searched for a multipart object."""
_EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"
_RATE_HEADERS: Final = ("retry-after", "ratelimit", "x-ratelimit", "x-rate-limit")


def checks(bucket: S3Bucket, prefix: bytes, kind: str = "s3") -> Iterator[tuple[str, Check]]:
    """Yield the name and the function of each check of a bucket, in the order they run.

    Parameters
    ----------
    bucket
        The bucket.
    prefix
        The prefix of the keys to check.
    kind
        The prefix of the rule names.
    """
    made = BucketChecks(bucket, prefix, kind)
    return name_checks(
        *(kind, made.listing, made.paging, made.versions, made.sizes, made.digests),
        *(made.checksums, made.parts, made.ranges, made.conditions, made.missing, made.rates),
    )


class BucketChecks:
    """The checks of one bucket, on the objects of the first page of its listing.

    ``prefix`` is the prefix of their keys, ``kind`` the prefix of the rule names.
    """

    def __init__(self, bucket: S3Bucket, prefix: bytes, kind: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._kind = kind
        self._headers: list[Mapping[str, str]] = []

    def _finding(
        self,
        rule: str,
        holds: bool | None,
        observed: str,
        consequence: str = "",
        *,
        optional: bool = False,
    ) -> ConformanceFinding:
        """Return a finding; a rule that does not hold is ``limited`` if it is ``optional``."""
        if holds is None:
            return ConformanceFinding(f"{self._kind}.{rule}", "unknown", observed)
        status = "ok" if holds else "limited" if optional else "broken"
        return ConformanceFinding(f"{self._kind}.{rule}", status, observed, consequence)  # type: ignore[arg-type]

    @cached_property
    def _rows(self) -> list[ObjectRow]:
        return self._bucket.page(self._prefix).rows

    @cached_property
    def _multipart(self) -> ObjectRow | None:
        """The first object with a multipart ETag on the first pages, or None."""
        after = b""
        for _ in range(_PAGES):
            page = self._bucket.page(self._prefix, after=after)
            for row in page.rows:
                if "-" in row.etag:
                    return row
            if not page.truncated or not page.rows:
                return None
            after = page.rows[-1].key
        return None

    def _samples(self, *, most: int = _SMALL) -> list[ObjectRow]:
        """Return non-empty objects, evenly spaced over the first page."""
        found = [row for row in self._rows if 0 < row.size <= most]
        step = max(1, len(found) // _SAMPLES)
        return found[::step][:_SAMPLES]

    def _head(self, row: ObjectRow, **options: int | bool) -> ResponseHead:
        reply = self._bucket.head(row.key, **options)  # type: ignore[arg-type]
        self._headers.append(reply.headers)
        return reply

    # --- rules

    def listing(self) -> Iterator[ConformanceFinding]:
        """Check that the bucket can be listed, in byte order of the keys."""
        keys = [row.key for row in self._rows]
        yield self._finding("listing", True, f"{len(keys)} objects on the first page")
        ordered = all(one < two for one, two in pairwise(keys))
        yield self._finding(
            "listing-order",
            ordered if len(keys) > 1 else None,
            "keys are in the order of their UTF-8 bytes" if ordered else "keys are out of order",
            "listings are read in parallel" if ordered else "the bucket cannot be mirrored",
        )

    def paging(self) -> Iterator[ConformanceFinding]:
        """Check that a listing can be continued after a key and by token."""
        keys = [row.key for row in self._rows]
        if len(keys) < 3:
            yield self._finding("paging", None, "fewer than 3 objects")
            return
        small = copy(self._bucket)
        small.page_size = 2
        first = small.page(self._prefix)
        yield self._finding(
            "page-size",
            len(first.rows) == 2 and first.truncated,
            f"max-keys=2 returns {len(first.rows)} objects, truncated: {first.truncated}",
        )
        after = [row.key for row in small.page(self._prefix, after=keys[1]).rows]
        yield self._finding(
            "start-after",
            after == keys[2:4],
            "start-after continues after the key" if after == keys[2:4] else f"returned {after!r}",
            "" if after == keys[2:4] else "the bucket cannot be mirrored",
        )
        by_token = (
            [row.key for row in small.page(self._prefix, token=first.token).rows]
            if first.token
            else []
        )
        yield self._finding(
            "continuation-token",
            by_token == keys[2:4],
            "the token continues the listing"
            if by_token == keys[2:4]
            else f"returned {by_token!r}",
        )

    def versions(self) -> Iterator[ConformanceFinding]:
        """Check that object versions are listed and can be read."""
        allowed = probe_bucket(self._bucket, self._prefix)
        yield self._finding(
            "versions-listed",
            allowed.versions_listable,
            "object versions are listed"
            if allowed.versions_listable
            else "object versions are not listed",
            "earlier states can be mirrored (sync --history)"
            if allowed.versions_listable
            else "only the current state can be mirrored",
            optional=True,
        )
        exact = allowed.version_readable
        yield self._finding(
            "versions-read",
            bool(exact),
            f"objects {'can' if exact else 'cannot'} be read by version id",
            "URLs contain a version: pinned bytes stay readable while upstream keeps them"
            if exact
            else "bytes may be overwritten: retention is mutable-bucket",
            optional=True,
        )

    def sizes(self) -> Iterator[ConformanceFinding]:
        """Check that HEAD returns the listed size, unlike for Swift's large objects."""
        rows = [*self._samples(most=1 << 62), *(row for row in self._rows if not row.size)][:8]
        wrong: list[str] = []
        for row in rows:
            reply = self._head(row)
            length = reply.headers.get("Content-Length")
            if reply.status == 200 and length != str(row.size):
                wrong.append(f"{row.key.decode(errors='replace')}: {row.size} listed, {length}")
        manifests = [row for row in self._rows if row.size and row.etag == _EMPTY_MD5]
        if manifests:
            wrong.append(f"{len(manifests)} non-empty objects have the MD5 of an empty one")
        yield self._finding(
            "sizes",
            None if not rows else not wrong,
            "; ".join(wrong[:3]) or f"{len(rows)} objects have the listed size",
            "large objects of Swift: each object without a digest takes a request" if wrong else "",
            optional=True,
        )

    def digests(self) -> Iterator[ConformanceFinding]:
        """Check that the ETag of a single-part object is the MD5 of its bytes."""
        rows = [row for row in self._samples() if "-" not in row.etag]
        wrong = []
        for row in rows:
            content = self._bucket.read(row.key, limit=_SMALL + 1)
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != row.etag:
                wrong.append(row.key.decode(errors="replace"))
        yield self._finding(
            "etag-md5",
            None if not rows else not wrong,
            f"the ETag of {len(rows) - len(wrong)} of {len(rows)} objects is their MD5",
            "evidence of single-part files: md5" if not wrong else "evidence of files: size",
            optional=True,
        )

    def checksums(self) -> Iterator[ConformanceFinding]:
        """Check that HEAD returns S3's additional checksums."""
        rows = [row for row in self._rows if row.checksum_algorithm] or self._samples()
        found = ""
        for row in rows[:_SAMPLES]:
            headers = self._head(row, checksums=True).headers
            kept = [name for name in headers if name.lower().startswith("x-amz-checksum-")]
            if "x-amz-checksum-sha256" in map(str.lower, kept):
                found = "sha256"
                break
            found = found or ", ".join(name for name in kept if not name.lower().endswith("-type"))
        yield self._finding(
            "checksums",
            None if not rows else found == "sha256",
            f"HEAD returns {found or 'no checksum'}",
            "evidence of objects with a full-object checksum: sha256" if found == "sha256" else "",
            optional=True,
        )

    def parts(self) -> Iterator[ConformanceFinding]:
        """Check that ``HEAD ?partNumber=1`` returns the size of the first part."""
        row = self._multipart
        if row is None:
            yield self._finding("part-heads", None, f"no multipart object on {_PAGES} pages")
            return
        reply = self._head(row, part_number=1)
        length = int(reply.headers.get("Content-Length") or 0)
        count = reply.headers.get("x-amz-mp-parts-count")
        works = reply.status == 206 or (count is not None and reply.status == 200)
        yield self._finding(
            "part-heads",
            works,
            f"HTTP {reply.status}, {length} of {row.size} bytes, parts: {count or 'unspecified'}",
            "evidence of multipart files: etag" if works else "evidence of multipart files: size",
            optional=True,
        )

    def ranges(self) -> Iterator[ConformanceFinding]:
        """Check range requests, on which resuming and seeking depend."""
        row = next((one for one in self._samples(most=1 << 62) if one.size > 20), None)
        if row is None:
            yield self._finding("ranges", None, "no object of more than 20 bytes")
            return
        url = self._bucket.object_url(row.key)
        with self._bucket.session.stream(url, headers={"Range": "bytes=4-13"}) as reply:
            got = b"".join(reply.chunks) if reply.status == 206 else b""
            stated = reply.headers.get("Content-Range", "")
            status = reply.status
        works = status == 206 and len(got) == 10 and stated.startswith("bytes 4-13/")
        yield self._finding(
            "ranges",
            works,
            f"HTTP {status}, {len(got)} bytes, Content-Range: {stated or 'none'}",
            "" if works else "interrupted downloads restart, and files cannot be streamed",
            optional=True,
        )

    def conditions(self) -> Iterator[ConformanceFinding]:
        """Check that ``If-Match`` with another ETag fails."""
        row = next(iter(self._samples()), None)
        if row is None:
            yield self._finding("if-match", None, "no small object")
            return
        url, wrong = self._bucket.object_url(row.key), {"If-Match": '"0"'}
        try:
            self._bucket.session.get_bytes(url, limit=_SMALL, headers=wrong, parse=lambda got: got)
            status = 200
        except HttpError as error:
            status = error.status or 0
        yield self._finding(
            "if-match",
            status == 412,
            f"HTTP {status} for another ETag",
            "" if status == 412 else "the ETag of the response is compared instead",
            optional=True,
        )

    def missing(self) -> Iterator[ConformanceFinding]:
        """Check that a missing object returns 404."""
        reply = self._bucket.head(self._prefix + b"neuromirror-check-archive/does-not-exist")
        self._headers.append(reply.headers)
        yield self._finding(
            "missing-object",
            reply.status == 404,
            f"HTTP {reply.status} for a missing key",
            "" if reply.status == 404 else "deletions cannot be confirmed object by object",
            optional=reply.status == 403,
        )

    def rates(self) -> Iterator[ConformanceFinding]:
        """Report rate-limit headers."""
        yield rate_limits(f"{self._kind}.rate-limits", self._headers)


def rate_limits(rule: str, replies: list[Mapping[str, str]]) -> ConformanceFinding:
    """Return a finding that lists the rate-limit headers in replies; ``limited`` if there are any.

    ``rule`` is the name of the check, ``replies`` are the headers of each reply.
    """
    found = sorted(
        {
            f"{name}: {value}"
            for headers in replies
            for name, value in headers.items()
            if name.lower().startswith(_RATE_HEADERS)
        }
    )
    if not found:
        return ConformanceFinding(rule, "ok", f"no rate-limit header in {len(replies)} responses")
    return ConformanceFinding(
        rule, "limited", "; ".join(found[:4]), "set [net] requests_per_second accordingly"
    )
