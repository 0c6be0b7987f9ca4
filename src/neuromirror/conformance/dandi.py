"""Checks of a DANDI archive (the API of dandi-archive) and of its bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any, Final

from neuromirror.conformance import s3
from neuromirror.conformance.report import Check, ConformanceFinding, name_checks
from neuromirror.net import HttpError, Session
from neuromirror.sources.dandi import DandiSource
from neuromirror.sources.dandi.buckets import BucketCache, parse_object_url

_DANDISETS: Final = 5
_ASSETS: Final = 3
_ROWS: Final = 100

Json = Mapping[str, Any]


def checks(source: DandiSource) -> Iterator[tuple[str, Check]]:
    """Return the name and the function of each check of a DANDI archive, in the order they run."""
    made = DandiChecks(source.session, source.options.api)
    return name_checks(
        *("dandi", made.info, made.lists, made.errors, made.assets, made.downloads, made.bucket)
    )


class DandiChecks:
    """The checks of one API, all on the same few dandisets and assets."""

    def __init__(self, session: Session, api: str) -> None:
        self._session = session
        self._api = api

    def _json(self, path: str, **query: str | int) -> Any:
        return self._session.get_json(f"{self._api}/{path}", query)

    def _status(self, path: str, **query: str | int) -> tuple[int, str | None]:
        """Return the status of a response, and the detail of an error."""
        try:
            self._json(path, **query)
        except HttpError as error:
            return error.status or 0, error.detail
        return 200, None

    @cached_property
    def _dandisets(self) -> list[Json]:
        """The first dandisets that have assets."""
        rows = self._json("dandisets/", page_size=_ROWS, ordering="id")["results"]
        return [row for row in rows if _newest(row).get("asset_count")][:_DANDISETS]

    @cached_property
    def _assets(self) -> list[tuple[Json, list[Json]]]:
        """The newest version of each of these dandisets, and its first page of assets."""
        found = []
        for row in self._dandisets:
            version = _newest(row)
            path = f"dandisets/{row['identifier']}/versions/{version['version']}/assets/"
            page = self._json(path, page_size=_ROWS, metadata="true")
            found.append((version, list(page["results"])))
        return found

    # --- rules

    def info(self) -> Iterator[ConformanceFinding]:
        """Check that ``/info/`` identifies the instance."""
        info = self._json("info/")
        config = info.get("instance_config") if isinstance(info, Mapping) else None
        name = config.get("instance_name") if isinstance(config, Mapping) else None
        yield ConformanceFinding(
            "dandi.info",
            "ok" if name else "limited",
            f"instance {name or 'unnamed'}, archive version {info.get('version', 'unspecified')}",
        )

    def lists(self) -> Iterator[ConformanceFinding]:
        """Check that lists have DANDI's envelope and contiguous pages."""
        one = self._json("dandisets/", page_size=1, page=1, ordering="id")
        envelope = isinstance(one, Mapping) and {"count", "next", "results"} <= one.keys()
        yield ConformanceFinding(
            "dandi.list-envelope",
            "ok" if envelope else "broken",
            f"members: {', '.join(sorted(one))}" if isinstance(one, Mapping) else "no JSON object",
            "" if envelope else "the archive cannot be mirrored",
        )
        if not envelope or one["count"] < 2:
            yield ConformanceFinding("dandi.list-paging", "unknown", "fewer than 2 dandisets")
            return
        two = self._json("dandisets/", page_size=1, page=2, ordering="id")
        first, second = _identifiers(one), _identifiers(two)
        follows = len(first) == len(second) == 1 and first < second
        yield ConformanceFinding(
            "dandi.list-paging",
            "ok" if follows else "broken",
            f"pages of one row: {first}, {second} of {one['count']}",
            "" if follows else "the archive cannot be mirrored",
        )
        draft = one["results"][0].get("draft_version") if one["results"] else None
        embedded = isinstance(draft, Mapping) and "modified" in draft
        yield ConformanceFinding(
            "dandi.list-versions",
            "ok" if embedded else "limited",
            f"rows {'contain' if embedded else 'do not contain'} draft_version.modified",
            "an unchanged archive takes one request per thousand dandisets"
            if embedded
            else "each dandiset takes a request",
        )

    def errors(self) -> Iterator[ConformanceFinding]:
        """Check that a missing dandiset returns 404 with a JSON body."""
        status, detail = self._status("dandisets/999999/")
        yield ConformanceFinding(
            "dandi.not-found",
            "ok" if status == 404 and detail else "limited" if status == 404 else "broken",
            f"HTTP {status} {'with' if detail else 'without'} a JSON body for a missing dandiset",
            "" if status == 404 else "a removed dandiset looks like a failure",
        )
        status, _ = self._status("dandisets/", page=1_000_000)
        yield ConformanceFinding(
            "dandi.beyond-the-end",
            "ok" if status == 404 else "limited",
            f"HTTP {status} for a page after the end of a list",
        )

    def assets(self) -> Iterator[ConformanceFinding]:
        """Check that a version lists the stated number of assets, and that they have digests."""
        wrong = [
            f"{version['asset_count']} stated, {len(rows)} listed"
            for version, rows in self._assets
            if version["asset_count"] <= _ROWS and len(rows) != version["asset_count"]
        ]
        every = [row for _, rows in self._assets for row in rows]
        yield ConformanceFinding(
            "dandi.asset-count",
            "unknown" if not self._assets else "broken" if wrong else "ok",
            "; ".join(wrong) or f"{len(self._assets)} versions list the stated number of assets",
            "listings of these versions cannot be validated" if wrong else "",
        )
        blobs = [row for row in every if row.get("blob")]
        digests = [row.get("metadata", {}).get("digest") or {} for row in blobs]
        for rule, name, evidence in (
            ("digest-sha256", "dandi:sha2-256", "sha256"),
            ("digest-etag", "dandi:dandi-etag", "etag"),
        ):
            count = sum(name in digest for digest in digests)
            yield ConformanceFinding(
                f"dandi.{rule}",
                "unknown" if not blobs else "ok" if count == len(blobs) else "limited",
                f"{count} of {len(blobs)} blobs have {name}",
                f"evidence of {count} files: {evidence}" if count else "",
            )

    def downloads(self) -> Iterator[ConformanceFinding]:
        """Check that assets have a URL in the bucket, and that the API redirects to it."""
        rows = [row for _, found in self._assets for row in found if row.get("blob")]
        direct = redirected = 0
        seen = []
        for row in rows[:: max(1, len(rows) // _ASSETS)][:_ASSETS]:
            for url in _addresses(row):
                is_api = url.startswith(self._api)
                reply = self._session.head(url)
                target = reply.headers.get("Location", "")
                seen.append(reply.status)
                if is_api:
                    redirected += reply.status in (302, 303, 307) and target.startswith("http")
                else:
                    length = reply.headers.get("Content-Length")
                    direct += reply.status == 200 and length == str(row.get("size"))
        status = ", ".join(map(str, seen)) or "no asset"
        yield ConformanceFinding(
            "dandi.content-url",
            "unknown" if not rows else "ok" if direct else "limited",
            f"{direct} assets have the stated size at their URL in the bucket ({status})",
            "content is read from the bucket" if direct else "content is read through the API",
        )
        yield ConformanceFinding(
            "dandi.download",
            "unknown" if not rows else "ok" if redirected else "limited",
            f"{redirected} downloads through the API redirect",
        )

    def bucket(self) -> Iterator[ConformanceFinding]:
        """Run the checks of a bucket on the bucket of the blobs."""
        rows = (row for _, found in self._assets for row in found if row.get("blob"))
        urls = chain.from_iterable(map(_addresses, rows))
        url = next((one for one in urls if not one.startswith(self._api)), None)
        if url is None:
            yield ConformanceFinding("dandi.bucket", "unknown", "no asset has a URL in a bucket")
            return
        address = parse_object_url(url)
        bucket = BucketCache(self._session).bucket(address)
        prefix = address.key.partition(b"/")[0] + b"/" if b"/" in address.key else b""
        for _, check in s3.checks(bucket, prefix, "dandi.bucket"):
            yield from check()


def _newest(row: Json) -> Json:
    for name in ("most_recent_published_version", "draft_version"):
        version = row.get(name)
        if isinstance(version, Mapping):
            return version
    return {}


def _identifiers(page: Any) -> list[str]:
    rows = page.get("results") if isinstance(page, Mapping) else None
    return [str(row.get("identifier")) for row in rows or () if isinstance(row, Mapping)]


def _addresses(row: Json) -> list[str]:
    urls = row.get("metadata", {}).get("contentUrl")
    return [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
