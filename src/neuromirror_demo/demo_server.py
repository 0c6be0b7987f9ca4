"""The demo archives as servers on loopback, with their mirror files."""

from __future__ import annotations

import json
import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from neuromirror.model import ConfigurationError
from neuromirror_demo.archive import Archive
from neuromirror_demo.archive_contents import fill
from neuromirror_demo.bucket_state import BENCHMARK, OPEN_DATA, PRECOMPUTED, BucketState, key_bytes
from neuromirror_demo.records import ArchiveClock

if TYPE_CHECKING:
    from threading import RLock

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from werkzeug.wrappers import Request, Response

    from neuromirror_demo.faults import Fault, FaultInjector, Faults, Kind

_GITCONFIG = """\
# Settings of git in the demo. The identity is used only if the user has none.
[user]
	name = Demo
	email = demo@example.invalid
[include]
{includes}
# git-annex refuses addresses of this machine by default, and the demo archives have such.
[annex "security"]
	allowed-ip-addresses = 127.0.0.1
"""

_ENVIRONMENT = """\
# Settings of the demo, for the current shell: . {path}
{exports}
"""


def demo_variables(folder: Path) -> dict[str, str]:
    """Return the environment variables for commands that use the demo archives of a folder."""
    return {
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        "NEUROMIRROR_MIRRORS": str(folder / "mirrors"),
    }


def write_environment(folder: Path) -> None:
    """Write the git configuration and the shell script that sets the variables.

    Parameters
    ----------
    folder
        The folder of the demo, for the files ``gitconfig`` and ``environment``.
    """
    config, script = folder / "gitconfig", folder / "environment"
    includes = "\n".join(
        # git's quoting of strings is that of JSON
        f"\tpath = {json.dumps(path, ensure_ascii=False)}"
        for path in _user_configs()
        if Path(path) != config
    )
    config.write_text(_GITCONFIG.format(includes=includes), "utf-8")
    exports = "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in demo_variables(folder).items()
    )
    script.write_text(_ENVIRONMENT.format(path=shlex.quote(str(script)), exports=exports), "utf-8")


def _user_configs() -> list[str]:
    """Return the paths of git's global configuration of the user; they need not exist."""
    given = os.environ.get("GIT_CONFIG_GLOBAL")
    if given is not None:
        return [os.path.abspath(given)] if given else []
    home = os.path.expanduser("~")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return [os.path.join(config, "git", "config"), os.path.join(home, ".gitconfig")]


class DemoServer(ABC):
    """A service on loopback, from ``with`` to the end of the block.

    The mirror files are written to ``directory/mirrors``, and removed at the end. ``port`` 0
    selects a free port. A subclass sets ``_faults``, ``_fault_injector`` and ``lock``, and
    implements :meth:`_fill` and :meth:`_mirror_files`.
    """

    _fault_injector: FaultInjector
    _faults: Faults
    lock: RLock

    def _initialize(self, directory: Path | str, port: int) -> None:
        """Initialize a service that is not running yet."""
        self.mirrors = Path(directory).absolute() / "mirrors"
        self._address = ""
        self._port = port
        self._stack = ExitStack()

    @abstractmethod
    def _fill(self) -> None:
        """Create the contents, while requests wait for the lock."""

    @abstractmethod
    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        """Return source type, title and options of each mirror file, by the mirror's name."""

    def __enter__(self) -> Self:
        with ExitStack() as undo, self.lock:
            undo.push(self._stack)
            self._address = self._start(self._fault_injector, self._port)
            # In reverse order: hanging responses are released before the server waits for them.
            self._stack.callback(self._faults.clear)
            self._fill()
            self.mirrors.mkdir(parents=True, exist_ok=True)
            for name, (source, title, options) in self._mirror_files().items():
                target = self.mirrors / f"{name}.toml"
                target.write_text(
                    f'source = "{source}"\ntitle = "{title} (simulated)"\n\n[options]\n{options}'
                )
                self._stack.callback(target.unlink, missing_ok=True)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, app: FaultInjector, port: int) -> str:
        """Serve until the end of the block; return the URL."""
        from neuromirror_demo.web import LoopbackServer

        server = LoopbackServer(app, port)
        self._stack.callback(server.stop)
        return server.url

    # -- addresses

    @property
    def host(self) -> str:
        """``127.0.0.1:<port>``."""
        return self._address.partition("://")[2]

    # -- faults and requests

    def fault(self, kind: str | Kind, **options: Any) -> Fault:
        """Enable a fault, until its ``clear`` or the end of a ``with`` block."""
        return self._faults.set(kind, **options)

    def clear_faults(self) -> None:
        """Disable all faults."""
        self._faults.clear()

    @property
    def requests(self) -> list[str]:
        """Return the requests so far, in order: ``"GET /v1/collection/"``."""
        return list(self._fault_injector.log)

    def count_requests(self, pattern: str = "") -> int:
        """Return the number of requests that match this regular expression."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def clear_requests(self) -> None:
        """Clear the request log."""
        self._fault_injector.log.clear()


class VolumeServer(DemoServer):
    """A service of volumes, with one mirror file.

    A subclass sets ``token``, the token of the owner (``Authorization: Token …``), and
    ``mirror_name``: the name, source type and title of the mirror file.
    """

    token: ClassVar[str]
    mirror_name: ClassVar[tuple[str, str, str]]

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, while the server runs."""
        return self._address

    @property
    @abstractmethod
    def api(self) -> str:
        """The base URL of the service in mirror files."""

    def addresses(self) -> dict[str, Any]:
        """Return what ``serve`` prints."""
        return {"api": self.api, "token": self.token}

    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        name, source, title = self.mirror_name
        options = f'api = "{self.api}"\nblock = [128, 128, 16]\nhash = "fetch"\n'
        return {name: (source, title, options)}


_LISTING = r"^/{bucket}/?$"
_ANY_BUCKET = "[^/]+"
_DOCDB_MOST = 4


class DemoBuckets(DemoServer, BucketState):
    """Buckets on loopback, from ``with`` to the end of the block.

    ``demo-aind-open-data`` has no versions and refuses to list them; ``demo-aind-benchmark-data``
    has public versions; ``demo-hostile`` has keys that break other programs. With ``layers`` there
    is also ``demo-precomputed``, with precomputed layers, an OME-Zarr and an N5 volume, and without
    versions. Objects are at ``<endpoint>/<bucket>/<key>``. Equal calls give equal bytes, times and
    version ids.

    The mirror files are written to ``directory/mirrors``. ``port`` 0 selects a free port. A page of
    a listing has at most ``page_size`` names. With ``empty`` the buckets start without objects. The
    document database returns at most four records, whatever the limit.

    The process must not use anything that resets moto's state (``mock_aws``).
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        page_size: int = 1000,
        empty: bool = False,
        layers: bool = False,
    ) -> None:
        super().__init__(layers=layers)
        self._initialize(directory, port)
        self.page_size = page_size
        self._empty = empty
        from neuromirror_demo.faults import FaultInjector, Faults

        self._faults = Faults("s3")
        self._fault_injector = FaultInjector(self._serve, "s3", self._faults)

    def _fill(self) -> None:
        from neuromirror_demo.bucket_contents import (
            fill_benchmark,
            fill_hostile,
            fill_open_data,
            fill_precomputed,
        )

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

        ``cut``: in the middle of the document; ``objects``: a page of objects instead of versions.
        """
        return self.fault("listing", path=_LISTING.format(bucket=bucket), ends=ends, **how)

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

        from neuromirror_demo.s3 import (
            DOCDB_PATH,
            docdb_collection,
            error_response,
            find_records,
            listing_faults,
            listing_response,
            object_response,
        )

        raw, _, text = environ["REQUEST_URI"].partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
        if match := DOCDB_PATH.fullmatch(raw):
            found = docdb_collection(self.records.values(), match["version"])
            return find_records(found, query, _DOCDB_MOST)
        name, _, key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
        bucket = self._buckets.get(name.decode("utf-8", "replace"))
        if request.method not in {"GET", "HEAD"}:
            return error_response(403, "AccessDenied")
        if bucket is None:
            return error_response(404, "NoSuchBucket")
        if key:
            return object_response(bucket, key, query, request)
        return listing_response(bucket, query, self.page_size, listing_faults(environ))


_MARKER = ".neuromirror-demo"

VERBS = (
    "add_file",
    "change_file",
    "delete_dandiset",
    "publish",
    "remove_file",
    "touch",
    "unembargo",
)
"""The methods of :class:`DemoArchive` that can be called with ``POST /_demo/<verb>``."""


class DemoDirectoryError(ConfigurationError):
    """The given folder cannot be used by a demo archive."""


class DemoArchive(DemoServer, Archive):
    """A DANDI archive on loopback, from ``with`` to the end of the block.

    ``directory`` is created if it is missing, and refused (:class:`DemoDirectoryError`) if it has
    other files than those of a demo. ``port`` and ``s3_port`` 0 select free ports. ``cache`` is the
    folder of NWB files that later starts reuse, by default inside ``directory``. With ``empty`` the
    archive starts without dandisets. With
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
        buckets: bool = False,
        buckets_port: int = 0,
        layers: bool = False,
    ) -> None:
        from neuromirror_demo.faults import FaultInjector, Faults
        from neuromirror_demo.s3 import BUCKET, DandiBucket

        self.directory = _demo_directory(Path(directory))
        self.bucket_name = BUCKET
        bucket = DandiBucket()
        files = self.directory / "cache" if cache is None else Path(cache)
        super().__init__(bucket, files, clock)
        self._initialize(self.directory, port)
        self._s3_port = s3_port
        self._empty = empty
        self._faults = Faults()
        self._s3_fault_injector = FaultInjector(bucket, "s3", self._faults)
        self._fault_injector = FaultInjector(self._serve, "api", self._faults)
        self._s3 = ""
        self.buckets = (
            DemoBuckets(self.directory, port=buckets_port, layers=layers) if buckets else None
        )
        """The S3 buckets that were started beside the archive; None without them."""

    def _fill(self) -> None:
        from neuromirror_demo.api import DandiApi, DandiDocuments
        from neuromirror_demo.web import ControlMiddleware

        self._s3 = self._start(self._s3_fault_injector, self._s3_port)
        self._stack.callback(self._faults.clear)
        documents = DandiDocuments(self, self._address, self._s3)
        self.manifests = documents.manifests
        answers = DandiApi(self, documents, self.token, self.other_token)
        self._app = ControlMiddleware(answers, {verb: getattr(self, verb) for verb in VERBS})
        if not self._empty:
            fill(self)
        # kept, because shells that source the script use this git configuration
        write_environment(self.directory)
        if self.buckets is not None:
            self._stack.enter_context(self.buckets)

    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        return {"demo": ("dandi", "Demo archive", f'api = "{self.api_url}"\n')}

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self.lock:  # until the archive is filled
            app = self._app
        return app(environ, start_response)

    # -- addresses

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:<port>/api``."""
        return f"{self._address}/api"

    @property
    def s3_url(self) -> str:
        """The S3 endpoint; objects are at ``<s3_url>/demo-dandiarchive/<key>``."""
        return self._s3

    @property
    def control_url(self) -> str:
        """The URL of the control API: ``POST <control_url>/<verb>`` with a JSON object."""
        return f"{self._address}/_demo"

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

    # -- requests

    @property
    def s3_requests(self) -> list[str]:
        """Return the bucket's requests so far, in order."""
        return list(self._s3_fault_injector.log)

    def count_requests(self, pattern: str = "") -> int:
        """Return the number of requests to both servers that match this regular expression."""
        return sum(bool(re.search(pattern, one)) for one in [*self.requests, *self.s3_requests])

    def clear_requests(self) -> None:
        """Clear the request logs."""
        super().clear_requests()
        self._s3_fault_injector.log.clear()


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
