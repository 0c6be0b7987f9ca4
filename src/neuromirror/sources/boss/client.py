"""A client for BOSS: intern where it works, our own session otherwise.

The API is documented at https://docs.theboss.io. Comments name behavior that is known only from its
source code (jhuapl-boss/boss).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

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
from neuromirror.sources.boss.intern_client import InternClient
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.volumes.fetching import PUBLIC_TOKEN

_ANONYMOUS_HEADERS: Final = {"Authorization": f"Token {PUBLIC_TOKEN}"}
"""The header for anonymous requests; the session's token replaces it."""


class WrongTokenError(NetError):
    """The BOSS does not accept the configured token."""


class BossClient(InternClient):
    """Reads the description of channels from a BOSS. Thread-safe.

    Every method raises :class:`~neuromirror.net.NetError`, or :class:`UnexpectedReplyError` for
    JSON that does not follow the API.

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
        super().__init__(self._json, api)
        self._session = session
        self._token = token

    @property
    def has_token(self) -> bool:
        """Whether there is a token now."""
        return self._token is not None and bool(self._token.read())

    def readable_collection(self, name: str) -> dict[str, Any] | None:
        """Return a collection; None if it may not be read, although parts of it may."""
        try:
            return self.collection(name)
        except AccessDeniedError:
            return None

    def readable_metadata(self, names: Sequence[str]) -> dict[str, str] | None:
        """Return the metadata of a collection, experiment or channel; None if refused.

        Parameters
        ----------
        names
            One to three names.

        Returns
        -------
        dict[str, str] or None
            Values by key.
        """
        try:
            return self.metadata(names)
        except AccessDeniedError:
            return None

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
