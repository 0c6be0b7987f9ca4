"""The demo buckets as a service: one S3 server on loopback, and a document database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from neuromirror_demo.archive import DemoError
from neuromirror_demo.bucket_state import BENCHMARK, OPEN_DATA, PRECOMPUTED, BucketState
from neuromirror_demo.demo_server import DemoServer
from neuromirror_demo.object_bucket import key_bytes
from neuromirror_demo.records import ArchiveClock

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from werkzeug.wrappers import Request, Response

    from neuromirror_demo.faults import Fault, FaultInjector

_LISTING = r"^/{bucket}/?$"
_ANY_BUCKET = "[^/]+"

FAULTS: Mapping[str, dict[str, Any]] = {
    "status": {"path": ".", "status": 503, "retry_after": None},
    "html": {"path": "."},
    "hang": {"path": ".", "seconds": 30.0},
    "reset": {"path": "."},
    "slow": {"path": ".", "delay": 0.05, "chunk": 64},
    "cut": {"path": ".", "keep": 0.5, "lying": False},
    "wrong_bytes": {"path": "."},
    "no_version_id": {"path": ".", "method": "HEAD"},
    "listing": {"path": "^/[^/]+/?$", "without": (), "after": None, "ends": ""},
}
"""Every fault with the default values of its options; ``faults.Fault`` has the common ones."""


class DemoBuckets(DemoServer, BucketState):
    """Buckets on loopback, from ``with`` to the end of the block.

    ``demo-aind-open-data`` has no versions and refuses to list them; ``demo-aind-benchmark-data``
    has public versions; ``demo-hostile`` has keys that break other programs. With ``layers`` there
    is also ``demo-precomputed``, with volumes in Neuroglancer's precomputed format and without
    versions. Objects are at ``<endpoint>/<bucket>/<key>``. Equal calls give equal bytes, times and
    version ids.

    The mirror files are written to ``directory/mirrors``. ``port`` 0 selects a free port. A page of
    a listing has at most ``page_size`` names. With ``empty`` the buckets start without objects. The
    document database returns at most ``docdb_most`` records, whatever the limit.

    The process must not use anything that resets moto's state (``mock_aws``).
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        page_size: int = 1000,
        clock: ArchiveClock | None = None,
        empty: bool = False,
        layers: bool = False,
        docdb_most: int = 4,
    ) -> None:
        super().__init__(clock, layers=layers)
        self._initialize(directory, port)
        self.page_size = page_size
        self.docdb_most = docdb_most
        self._empty = empty
        self._fault_injector = self._make_fault_injector()

    def _make_fault_injector(self) -> FaultInjector:
        from neuromirror_demo.faults import FaultInjector, Faults

        self._faults = Faults(None, FAULTS, server="s3")
        return FaultInjector(self._serve, "s3", self._faults, None)

    def _prepare(self) -> None:
        from neuromirror_demo.bucket_contents import fill_benchmark, fill_hostile, fill_open_data
        from neuromirror_demo.layer_contents import fill_precomputed

        if not self._empty:
            fill_open_data(self)
            fill_benchmark(self)
            fill_hostile(self)
            if PRECOMPUTED in self._buckets:
                fill_precomputed(self)

    # -- addresses

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:<port>``, while the server runs."""
        return self._address

    def docdb_url(self, version: str = "v2") -> str:
        """Return the URL of the document database for finding records; ``v1`` or ``v2``."""
        return f"{self.endpoint}/{version}/metadata_index/data_assets/find"

    def addresses(self) -> dict[str, Any]:
        """Return what ``serve`` prints."""
        return {
            "endpoint": self.endpoint,
            "names": list(self._buckets),
            "docdb": {version: self.docdb_url(version) for version in ("v1", "v2")},
        }

    def url(self, key: bytes | str, *, bucket: str = OPEN_DATA, version_id: str = "") -> str:
        """Return the URL of an object."""
        query = f"?versionId={version_id}" if version_id else ""
        return f"{self.endpoint}/{bucket}/{quote(key_bytes(key), safe='/~')}{query}"

    # -- faults and requests

    def drop_key_from_listing(
        self, key: str | Sequence[str], *, bucket: str = OPEN_DATA, tail: bool = False, **how: Any
    ) -> Fault:
        """Omit a key (or several) from listings, although the object exists.

        With ``tail`` all keys from the first such key on are missing, and the listing states that
        it is complete.
        """
        path = _LISTING.format(bucket=bucket)
        keys = [key] if isinstance(key, str) else list(key)
        if tail:
            before = min(key_bytes(one) for one in keys)
            first = before[:-1] + bytes([before[-1] - 1]) + b"\xff" * 8
            return self.fault("listing", path=path, after=first, **how)
        return self.fault("listing", path=path, without=keys, **how)

    def cut_listing(self, ends: str = "cut", *, bucket: str = _ANY_BUCKET, **how: Any) -> Fault:
        """Return malformed ends of listing pages.

        ``cut``: in the middle of the document; ``early``: with the statement that nothing follows;
        ``no-token``: with the statement that more follows, but without a token; ``objects``: a page
        of objects instead of versions.
        """
        if ends not in {"cut", "early", "no-token", "objects"}:
            raise DemoError(
                f"a listing can end as cut, early, no-token or objects, not as {ends!r}"
            )
        return self.fault("listing", path=_LISTING.format(bucket=bucket), ends=ends, **how)

    def slow_down(self, times: int | None = None, **how: Any) -> Fault:
        """Return 503 SlowDown a number of times (None: until it is cleared)."""
        return self.fault("status", status=503, times=times, **how)

    # -- helpers

    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        from neuromirror_demo.bucket_contents import MEAREC

        made = {
            "demo-aind": (
                "s3",
                "AIND-like open data",
                f'bucket = "{OPEN_DATA}"\nendpoint = "{self.endpoint}"\nlayout = "aind"\n'
                f'depth = 1\ndocdb = "{self.docdb_url()}"\n',
            ),
            "demo-aind-benchmark": (
                "s3",
                "AIND-like benchmark data",
                f'bucket = "{BENCHMARK}"\nendpoint = "{self.endpoint}"\nlayout = "aind"\n'
                f'depth = 3\n\n[[options.datasets]]\nprefix = "{MEAREC}/"\ndepth = 2\n',
            ),
        }
        if PRECOMPUTED in self._buckets:
            made[PRECOMPUTED] = (
                "precomputed",
                "Layers of volumes",
                f'bucket = "{PRECOMPUTED}"\nendpoint = "{self.endpoint}"\n',
            )
        return made

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from werkzeug.wrappers import Request

        request = Request(environ)
        with self.lock:
            response = self._answer(request, environ)
        return response(environ, start_response)

    def _answer(self, request: Request, environ: WSGIEnvironment) -> Response:
        from neuromirror_demo import docdb
        from neuromirror_demo.s3_listing_responses import listing_faults, listing_response
        from neuromirror_demo.s3_object_responses import error_response, object_response

        raw, _, text = environ["REQUEST_URI"].partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
        if match := docdb.PATH.fullmatch(raw):
            found = docdb.collection(self.records.values(), match["version"])
            return docdb.find(found, query, self.docdb_most)
        name, _, key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
        bucket = self._buckets.get(name.decode("utf-8", "replace"))
        if request.method not in {"GET", "HEAD"}:
            return error_response(403, "AccessDenied")
        if bucket is None:
            return error_response(404, "NoSuchBucket")
        if key:
            return object_response(bucket, key, query, request)
        return listing_response(bucket, query, self.page_size, listing_faults(environ))
