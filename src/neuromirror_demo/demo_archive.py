"""The demo archive as a service: two servers on loopback and the folder of mirror files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from neuromirror.model import ConfigurationError
from neuromirror_demo.archive import Archive
from neuromirror_demo.archive_contents import fill
from neuromirror_demo.demo_buckets import DemoBuckets
from neuromirror_demo.environment import write_environment
from neuromirror_demo.records import ArchiveClock

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from neuromirror_demo.faults import Fault

_MARKER = ".neuromirror-demo"

VERBS = (
    *("add_file", "change_file", "clear_faults", "delete_dandiset", "fault", "publish"),
    *("remove_file", "touch", "unembargo"),
)
"""The methods of :class:`DemoArchive` that can be called with ``POST /_demo/<verb>``."""


class DemoDirectoryError(ConfigurationError):
    """The given folder cannot be used by a demo archive."""


class DemoArchive(Archive):
    """A DANDI archive on loopback, from ``with`` to the end of the block.

    ``directory`` is created if it is missing, and refused (:class:`DemoDirectoryError`) if it has
    other files than those of a demo. ``port`` and ``s3_port`` 0 select free ports. ``cache`` is the
    folder of NWB files that later starts reuse, by default inside ``directory``. With ``empty`` the
    archive starts without dandisets; with ``zarrs`` it also has those of :meth:`add_zarrs`. With
    ``buckets`` the buckets of :class:`DemoBuckets` are started too, and their mirror files are
    written beside ``demo.toml``; ``layers`` is passed to them. Equal calls of an equal installation
    give equal ids, times and bytes; only ports differ, unless they are given.

    The process must not use anything that resets moto's state (``mock_aws``).
    """

    token = "8c1f4b6e0d3a5972" + "0" * 24
    """The owner's token, which can read the embargoed dandiset (``Authorization: token …``)."""

    other_token = "1d0e5a7c93b84f26" + "1" * 24
    """Token of a user without access: embargoed data is 403."""

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        s3_port: int = 0,
        cache: Path | str | None = None,
        clock: ArchiveClock | None = None,
        empty: bool = False,
        zarrs: bool = False,
        buckets: bool = False,
        buckets_port: int = 0,
        layers: bool = False,
    ) -> None:
        from neuromirror_demo.dandi_bucket import BUCKET, DandiBucket
        from neuromirror_demo.faults import FaultInjector, Faults

        self.directory = _demo_directory(Path(directory))
        self.mirrors = self.directory / "mirrors"
        self.bucket_name = BUCKET
        bucket = DandiBucket()
        files = self.directory / "cache" if cache is None else Path(cache)
        super().__init__(bucket, files, clock)
        self._ports = (port, s3_port)
        self._empty = empty
        self._with_zarrs = zarrs
        self._stack = ExitStack()
        self._faults = Faults(self)
        self._s3_fault_injector = FaultInjector(bucket, "s3", self._faults, self)
        self._api_fault_injector: FaultInjector = self._s3_fault_injector
        self._base = self._s3 = ""
        self.buckets = (
            DemoBuckets(self.directory, port=buckets_port, layers=layers) if buckets else None
        )
        """The S3 buckets that were started beside the archive; None without them."""

    def __enter__(self) -> Self:
        from neuromirror_demo.api import DandiApi
        from neuromirror_demo.control_api import ControlMiddleware
        from neuromirror_demo.documents import DandiDocuments
        from neuromirror_demo.faults import FaultInjector
        from neuromirror_demo.loopback_server import LoopbackServer

        with ExitStack() as undo:
            undo.push(self._stack)
            late = _DeferredApp()
            s3 = LoopbackServer(self._s3_fault_injector, self._ports[1])
            self._stack.callback(s3.stop)
            api = LoopbackServer(late, self._ports[0])
            self._stack.callback(api.stop)
            # In reverse order: hanging responses are released before the servers wait for them.
            self._stack.callback(self._faults.clear)
            self._base, self._s3 = api.url, s3.url
            documents = DandiDocuments(self, self._base, self._s3)
            self.manifests = documents.manifests
            answers = DandiApi(self, documents, self.token, self.other_token)
            control = ControlMiddleware(answers, {verb: getattr(self, verb) for verb in VERBS})
            self._api_fault_injector = FaultInjector(control, "api", self._faults, self)
            if not self._empty:
                fill(self)
            if self._with_zarrs:
                self.add_zarrs()
            self._write_mirror()
            if self.buckets is not None:
                self._stack.enter_context(self.buckets)
            late.app = self._api_fault_injector
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_zarrs(self) -> dict[str, dict[str, str]]:
        """Add five dandisets with Zarrs; return dandiset, path and Zarr id of each by name.

        ``v2x40``, ``v3x40``: both formats, with this many entries;
        ``nested``: folders ``1/`` and ``10/`` at two depths; ``shared``: ``v2x40`` in another
        dandiset; ``parts``: entries uploaded in parts; ``pending``: never finalized; ``closed``:
        under embargo; ``odd``: odd names, in a dandiset with odd names; ``wrong``: the stated
        checksum is wrong.
        """
        from neuromirror_demo.zarr_contents import add_zarrs

        with self.lock:
            return add_zarrs(self)

    # -- addresses

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:<port>/api``."""
        return f"{self._base}/api"

    @property
    def s3_url(self) -> str:
        """The S3 endpoint; objects are at ``<s3_url>/demo-dandiarchive/<key>``."""
        return self._s3

    @property
    def control_url(self) -> str:
        """The URL of the control API: ``POST <control_url>/<verb>`` with a JSON object."""
        return f"{self._base}/_demo"

    def addresses(self) -> dict[str, Any]:
        """Return what ``serve`` prints."""
        buckets = {} if self.buckets is None else {"buckets": self.buckets.addresses()}
        return {
            "dandi": {"api": self.api_url, "token": self.token},
            "s3": {"endpoint": self.s3_url, "bucket": self.bucket_name},
            **buckets,
            "control": self.control_url,
            "mirrors": str(self.mirrors),
        }

    # -- faults and requests

    def fault(self, name: str, **options: Any) -> Fault:
        """Enable a fault, until its ``clear`` or the end of a ``with`` block."""
        return self._faults.set(name, **options)

    def clear_faults(self) -> None:
        """Disable all faults."""
        self._faults.clear()

    @property
    def requests(self) -> list[str]:
        """Return the API's requests so far, in order: ``"GET /api/dandisets/?page=2"``."""
        return list(self._api_fault_injector.log)

    @property
    def s3_requests(self) -> list[str]:
        """Return the bucket's requests so far, in order."""
        return list(self._s3_fault_injector.log)

    def count_requests(self, pattern: str = "") -> int:
        """Return the number of requests to both servers that match this regular expression."""
        return sum(bool(re.search(pattern, one)) for one in [*self.requests, *self.s3_requests])

    def clear_requests(self) -> None:
        """Clear the request logs."""
        self._api_fault_injector.log.clear()
        self._s3_fault_injector.log.clear()

    # -- helpers

    def _write_mirror(self) -> None:
        self.mirrors.mkdir(exist_ok=True)
        target = self.mirrors / "demo.toml"
        target.write_text(
            'source = "dandi"\ntitle = "Demo archive (simulated)"\n\n'
            f'[options]\napi = "{self.api_url}"\n'
        )
        self._stack.callback(target.unlink, missing_ok=True)
        # kept, because shells that source the script use this git configuration
        write_environment(self.directory)


class _DeferredApp:
    """A placeholder for the API until the archive is filled; its URL is needed earlier."""

    app: WSGIApplication | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.app is None:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        return self.app(environ, start_response)


def _demo_directory(directory: Path) -> Path:
    directory = directory.absolute()
    if directory.exists() and not directory.is_dir():
        raise DemoDirectoryError(f"{directory} is a file: give a folder for the demo")
    marker = directory / _MARKER
    if directory.is_dir() and any(directory.iterdir()) and not marker.exists():
        raise DemoDirectoryError(
            f"{directory} holds something else than a demo: give a new or an empty folder"
        )
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text("Made by `python -m neuromirror_demo serve`; may be deleted.\n")
    return directory
