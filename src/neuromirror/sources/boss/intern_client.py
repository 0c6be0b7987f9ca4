"""intern, the Python client of BOSS, with our session as its transport.

intern sends requests to ``<host>/v1/``, without timeouts or retries. Here its sessions have a
transport adapter that uses :class:`~neuromirror.net.Session` instead, with the mirror's base URL
and our user agent, limits and retries. So intern knows neither the address nor a token. Requests
that intern does not support are in :mod:`neuromirror.sources.boss.client`.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeGuard, TypeVar
from urllib.parse import quote

import requests
from requests.adapters import BaseAdapter

from neuromirror.model import ConfigurationError
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


class InternClient:
    """Reads a BOSS archive's JSON with intern, the Python client of BOSS. Thread-safe.

    Names are encoded here, because intern inserts them into URLs unchanged.

    ``fetch_json`` sends the requests, ``api`` is the base URL of the BOSS.
    """

    def __init__(self, fetch_json: FetchJson, api: str) -> None:
        self._fetch_json = fetch_json
        self._api = api
        self._lock = threading.Lock()
        self._remote: Any = None

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        found = self._read("the list of collections", lambda remote: remote.list_collections())
        return self._check_names(found, "the list of collections")

    def experiments(self, collection: str) -> list[str]:
        """Return the names of a collection's experiments."""
        what = f"the list of experiments of {collection}"
        found = self._read(what, lambda remote: remote.list_experiments(_encode(collection)))
        return self._check_names(found, what)

    def channels(self, collection: str, experiment: str) -> list[str]:
        """Return the names of an experiment's channels."""
        what = f"the list of channels of {collection}/{experiment}"
        names = _encode(collection), _encode(experiment)
        return self._check_names(
            self._read(what, lambda remote: remote.list_channels(*names)), what
        )

    def collection(self, name: str) -> dict[str, Any]:
        """Return a collection."""
        resource = _resources().CollectionResource(_encode(name))
        return self._project(f"the collection {name}", resource)

    def frame(self, name: str) -> dict[str, Any]:
        """Return a coordinate frame."""
        resource = _resources().CoordinateFrameResource(_encode(name))
        return self._project(f"the coordinate frame {name}", resource)

    def metadata(self, names: Sequence[str]) -> dict[str, str]:
        """Return the metadata of a collection, experiment or channel, given its names."""
        made = _resources()
        what = f"the metadata of {'/'.join(names)}"
        encoded = [_encode(name) for name in names]
        kinds = {1: made.CollectionResource, 2: made.ExperimentResource, 3: made.ChannelResource}
        resource = kinds[len(encoded)](encoded[-1], *encoded[:-1])
        keys = self._check_names(
            self._read(what, lambda remote: remote.list_metadata(resource)), what
        )
        if not keys:
            return {}
        key_by_encoded = {_encode(key): key for key in keys}
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
                transport = _Transport(self._fetch_json)
                services = remote.project_service, remote.metadata_service, remote.volume_service
                for service in services:
                    service.session.trust_env = False
                    service.session.mount("https://", transport)
                    service.session.mount("http://", transport)
                self._remote = remote
            return self._remote


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


def _encode(name: str) -> str:
    return quote(name, safe="")


def is_name(name: Any) -> TypeGuard[str]:
    """Return whether a JSON value can be a name that is valid in UTF-8 and in a URL path."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return name.encode(errors="ignore").decode() == name
