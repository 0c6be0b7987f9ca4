"""A client for BOSS: intern where it works, our own session otherwise.

intern, the Python client of BOSS, with our session as its transport.

intern sends requests to ``<host>/v1/``, without timeouts or retries. Here its sessions have a
transport adapter that uses :class:`~neuromirror.net.Session` instead, with the mirror's base URL
and our user agent, limits and retries. So intern knows neither the address nor a token. Requests
that intern does not support are in :mod:`neuromirror.sources.boss.client`.

The API is documented at https://docs.theboss.io. Comments name behavior that is known only from its
source code (jhuapl-boss/boss).
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeGuard, TypeVar
from urllib.parse import quote

import requests
from requests.adapters import BaseAdapter

from neuromirror.model import ConfigurationError
from neuromirror.net import (
    AccessDeniedError,
    HttpError,
    InvalidJsonError,
    NetError,
    NotFoundError,
    Response,
    ServerError,
    Session,
    TokenSource,
)
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.volumes.fetching import PUBLIC_TOKEN

_HOST: Final = "boss.invalid"
_BASE: Final = f"https://{_HOST}/v1/"
_SLASHES: Final = re.compile("//+")

FetchJson = Callable[[str], Any]
"""Returns the JSON at a path (with its query) below the API's base URL."""

T = TypeVar("T")


class _Transport(BaseAdapter):
    """Sends intern's requests through ``fetch_json``. Thread-safe."""

    def __init__(self, fetch_json: FetchJson) -> None:
        super().__init__()
        self._fetch_json = fetch_json

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the reply to a request; raise NetError."""
        url = request.url or ""
        if request.method != "GET" or not url.startswith(_BASE):
            raise UnexpectedReplyError(f"intern sent an unexpected request: {request.method} {url}")
        # intern requests the list of collections as collection//
        value = self._fetch_json(_SLASHES.sub("/", url.removeprefix(_BASE)))
        reply = requests.Response()
        reply.status_code = 200
        reply.url = url
        reply.request = request
        reply.encoding = "utf-8"
        reply.raw = io.BytesIO(json.dumps(value).encode())
        return reply

    def close(self) -> None:
        """Do nothing: the caller owns the session behind ``fetch_json``."""


_ANONYMOUS_HEADERS: Final = {"Authorization": f"Token {PUBLIC_TOKEN}"}
"""The header for anonymous requests; the session's token replaces it."""


class WrongTokenError(NetError):
    """The BOSS does not accept the configured token."""


class BossClient:
    """Reads the description of channels from a BOSS, with intern where it works. Thread-safe.

    Names are encoded here, because intern inserts them into URLs unchanged. Every method raises
    :class:`~neuromirror.net.NetError`, or :class:`UnexpectedReplyError` for JSON that does not
    follow the API.

    Parameters
    ----------
    session
        Sends the requests.
    api
        The base URL with the version (``https://api.bossdb.io/v1``).
    token
        The source of the session's token; None for a session without one.
    """

    def __init__(self, session: Session, api: str, token: TokenSource | None) -> None:
        self._session = session
        self._api = api
        self._token = token
        self._lock = threading.Lock()
        self._remote: Any = None

    @property
    def has_token(self) -> bool:
        """Whether there is a token now."""
        return self._token is not None and bool(self._token.read())

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        found = self._read("the list of collections", lambda remote: remote.list_collections())
        return self._check_names(found, "the list of collections")

    def experiments(self, collection: str) -> list[str]:
        """Return the names of a collection's experiments."""
        what = f"the list of experiments of {collection}"
        found = self._read(what, lambda remote: remote.list_experiments(url_path(collection)))
        return self._check_names(found, what)

    def channels(self, collection: str, experiment: str) -> list[str]:
        """Return the names of an experiment's channels."""
        what = f"the list of channels of {collection}/{experiment}"
        names = url_path(collection), url_path(experiment)
        return self._check_names(
            self._read(what, lambda remote: remote.list_channels(*names)), what
        )

    def collection(self, name: str) -> dict[str, Any] | None:
        """Return a collection; None if it may not be read, although parts of it may."""
        resource = _resources().CollectionResource(url_path(name))
        with suppress(AccessDeniedError):
            return self._project(f"the collection {name}", resource)
        return None

    def frame(self, name: str) -> dict[str, Any]:
        """Return a coordinate frame."""
        resource = _resources().CoordinateFrameResource(url_path(name))
        return self._project(f"the coordinate frame {name}", resource)

    def metadata(self, names: Sequence[str]) -> dict[str, str] | None:
        """Return the metadata of a collection, experiment or channel by its names; None if refused.

        The values are by key.
        """
        with suppress(AccessDeniedError):
            return self._metadata(names)
        return None

    def _metadata(self, names: Sequence[str]) -> dict[str, str]:
        made = _resources()
        what = f"the metadata of {'/'.join(names)}"
        encoded = [url_path(name) for name in names]
        kinds = {1: made.CollectionResource, 2: made.ExperimentResource, 3: made.ChannelResource}
        resource = kinds[len(encoded)](encoded[-1], *encoded[:-1])
        keys = self._check_names(
            self._read(what, lambda remote: remote.list_metadata(resource)), what
        )
        if not keys:
            return {}
        key_by_encoded = {url_path(key): key for key in keys}
        found = self._read(what, lambda remote: remote.get_metadata(resource, list(key_by_encoded)))
        if not all(isinstance(value, str) for value in found.values()):
            raise UnexpectedReplyError(f"{self._api}: {what} has a value that is not a string")
        return {key_by_encoded[key]: value for key, value in found.items()}

    def _project(self, what: str, resource: Any) -> dict[str, Any]:
        raw = self._read(what, lambda remote: remote.get_project(resource).raw)
        return dict(raw)

    def _check_names(self, found: Any, what: str) -> list[str]:
        if (
            not isinstance(found, list)
            or not all(is_name(name) for name in found)
            or len(set(found)) < len(found)
        ):
            raise UnexpectedReplyError(f"{self._api}: {what} is not a list of distinct names")
        return sorted(found)

    def _read(self, what: str, call: Callable[[Any], T]) -> T:
        remote = self._open_remote()
        try:
            return call(remote)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UnexpectedReplyError(
                f"{self._api}: intern cannot read {what} ({type(error).__name__}: {error})"
            ) from error

    def _open_remote(self) -> Any:
        """Return intern's remote, created on first use because importing it takes seconds."""
        with self._lock:
            if self._remote is None:
                made = _import_from_intern("intern.remote.boss")
                remote = made.BossRemote(
                    {"protocol": "https", "host": _HOST, "token": PUBLIC_TOKEN}
                )
                transport = _Transport(self._json)
                services = remote.project_service, remote.metadata_service, remote.volume_service
                for service in services:
                    service.session.trust_env = False
                    service.session.mount("https://", transport)
                    service.session.mount("http://", transport)
                self._remote = remote
            return self._remote

    def experiment(self, collection: str, experiment: str) -> dict[str, Any]:
        """Return an experiment; intern fails if the unit of time is null, as it often is."""
        return self._object(url_path("collection", collection, "experiment", experiment))

    def channel(self, collection: str, experiment: str, channel: str) -> dict[str, Any]:
        """Return a channel; intern refuses channels of uint32."""
        return self._object(
            url_path("collection", collection, "experiment", experiment, "channel", channel)
        )

    def downsample_info(
        self, collection: str, experiment: str, channel: str
    ) -> dict[str, Any] | None:
        """Return voxel sizes and extents of all levels, which intern does not support.

        None if upstream cannot compute them: for an anisotropic hierarchy with different voxel
        sizes along x and y.
        """
        try:
            return self._object(url_path("downsample", collection, experiment, channel))
        except HttpError as error:
            if error.status != 400:
                raise
            return None

    def may_read(self, collection: str, experiment: str, channel: str) -> bool:
        """Return whether a channel and its experiment may be read."""
        try:
            self.channel(collection, experiment, channel)
            self.experiment(collection, experiment)
        except (AccessDeniedError, NotFoundError):
            return False
        return True

    def _object(self, relative_url: str) -> dict[str, Any]:
        value = self._json(relative_url)
        if not isinstance(value, dict):
            raise UnexpectedReplyError(f"{self._api}/{relative_url} returned no JSON object")
        return value

    def _json(self, relative_url: str) -> Any:
        try:
            return _read(self._session, self._api, relative_url)
        except AccessDeniedError as error:
            if self._token is None or self.has_token:
                raise
            raise AccessDeniedError(
                f"{error.url} refuses access (HTTP {error.status}); set "
                f"{self._token.label} to a token with access",
                url=error.url,
                status=error.status,
            ) from error
        except ServerError as error:
            if error.status == 500 and self.has_token and self._allows_anonymous():
                raise WrongTokenError(
                    f"{error.url} fails (HTTP 500) with the token in "
                    f"{self._token.label if self._token else 'the session'}, but {self._api}"
                    " replies without one: the token is wrong "
                    "or has expired; set another, or unset it to read public channels",
                    url=error.url,
                    status=error.status,
                ) from error
            raise

    def _allows_anonymous(self) -> bool:
        """Return whether the list of collections can be read without the token."""
        with self._session.anonymous() as anonymous:
            try:
                _read(anonymous, self._api, "collection/")
            except NetError:
                return False
        return True


def _resources() -> Any:
    """Return intern's module of resources."""
    return _import_from_intern("intern.resource.boss.resource")


def _import_from_intern(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"a mirror of a BOSS needs the package intern ({error}): "
            "pip install 'neuromirror[volumes]'"
        ) from error


def is_name(name: Any) -> TypeGuard[str]:
    """Return whether a JSON value can be a name that is valid in UTF-8 and in a URL path."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return name.encode(errors="ignore").decode() == name


def _read(session: Session, api: str, relative_url: str) -> Any:
    url = f"{api}/{relative_url}"
    return session.get_bytes(
        url,
        limit=session.limits.json_bytes,
        headers=_ANONYMOUS_HEADERS,
        accept="application/json",
        parse=lambda body: _parse_body(body, url),
    )


def url_path(*names: str) -> str:
    """Return names as a path below the API's base URL, percent-encoded as by ``intern``."""
    return "/".join(quote(name, safe="") for name in names)


def _parse_body(body: Response, url: str) -> Any:
    try:
        return json.loads(body.content)
    except (ValueError, RecursionError) as error:
        broken = InvalidJsonError(
            f"{url} returned a body that is not JSON ({len(body.content)} bytes): it was "
            "truncated, or is from a proxy or login page; check the address, and try again",
            url=url,
            status=body.status,
        )
        broken.transient = True
        raise broken from error
