"""What is asked of a BOSS: intern where it can, our own session where it cannot.

The API is described at https://docs.theboss.io; what it does beyond that was learnt from its source
(jhuapl-boss/boss) and is said where it matters.
"""

from __future__ import annotations

import json
import os
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
)
from neuromirror.sources.boss.intern_client import InternClient
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.volumes import PUBLIC_TOKEN

_ANONYMOUS_HEADERS: Final = {"Authorization": f"Token {PUBLIC_TOKEN}"}
"""How a BOSS wants those to ask who have no token; the session's own takes its place."""


class WrongTokenError(NetError):
    """A token that the service does not know."""


class BossClient:
    """Reads what a BOSS says about its channels; shared by threads.

    ``api`` is the base address with the version (``https://api.bossdb.io/v1``). ``token_env`` names
    the variable with the token that ``session`` gives to it. Every method raises a
    :class:`~neuromirror.net.NetError`, or :class:`UnexpectedReplyError` for JSON that is not what
    the
    API promises.
    """

    def __init__(self, session: Session, api: str, token_env: str | None) -> None:
        self._session = session
        self._api = api
        self._token_env = token_env
        self._intern = InternClient(self._json, api)

    @property
    def has_token(self) -> bool:
        """Whether there is a token to ask with now."""
        return self._token_env is not None and bool(os.environ.get(self._token_env, "").strip())

    def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        return self._intern.collections()

    def experiments(self, collection: str) -> list[str]:
        """The names of a collection's experiments, sorted."""
        return self._intern.experiments(collection)

    def channels(self, collection: str, experiment: str) -> list[str]:
        """The names of an experiment's channels, sorted."""
        return self._intern.channels(collection, experiment)

    def collection(self, name: str) -> dict[str, Any] | None:
        """A collection; None where it may not be read, though something in it may."""
        try:
            return self._intern.collection(name)
        except AccessDeniedError:
            return None

    def frame(self, name: str) -> dict[str, Any]:
        """A coordinate frame."""
        return self._intern.frame(name)

    def metadata(self, names: Sequence[str]) -> dict[str, str] | None:
        """Keys and values of a collection, experiment or channel; None where none may be read.

        A service shows what is public without showing its metadata.
        """
        try:
            return self._intern.metadata(names)
        except AccessDeniedError:
            return None

    def experiment(self, collection: str, experiment: str) -> dict[str, Any]:
        """An experiment; intern fails where the unit of time is null, as it often is."""
        return self._object(url_path("collection", collection, "experiment", experiment))

    def channel(self, collection: str, experiment: str, channel: str) -> dict[str, Any]:
        """A channel; intern refuses those of uint32."""
        return self._object(
            url_path("collection", collection, "experiment", experiment, "channel", channel)
        )

    def downsample_info(
        self, collection: str, experiment: str, channel: str
    ) -> dict[str, Any] | None:
        """Voxel sizes and extents of all levels; intern cannot ask for them.

        None where upstream cannot tell: of an anisotropic hierarchy whose voxels' sizes along x
        and y differ.
        """
        try:
            return self._object(url_path("downsample", collection, experiment, channel))
        except HttpError as error:
            if error.status != 400:
                raise
            return None

    def may_read(self, collection: str, experiment: str, channel: str) -> bool:
        """Whether a channel is shown, and the experiment that tells where its voxels are."""
        try:
            self.channel(collection, experiment, channel)
            self.experiment(collection, experiment)
        except (AccessDeniedError, NotFoundError):
            return False
        return True

    def _object(self, relative_url: str) -> dict[str, Any]:
        value = self._json(relative_url)
        if not isinstance(value, dict):
            raise UnexpectedReplyError(f"{self._api}/{relative_url} gives no JSON object")
        return value

    def _json(self, relative_url: str) -> Any:
        try:
            return _read(self._session, self._api, relative_url)
        except AccessDeniedError as error:
            if self._token_env is None or self.has_token:
                raise
            raise AccessDeniedError(
                f"{error.url} refuses access (HTTP {error.status}); set the environment variable "
                f"{self._token_env} to a token that may read it",
                url=error.url,
                status=error.status,
            ) from error
        except ServerError as error:
            if error.status == 500 and self.has_token and self._allows_anonymous():
                raise WrongTokenError(
                    f"{error.url} fails (HTTP 500) with the token in the environment variable "
                    f"{self._token_env}, and {self._api} answers without one: the token is wrong "
                    "or has expired; set another, or unset it to read what is public",
                    url=error.url,
                    status=error.status,
                ) from error
            raise

    def _allows_anonymous(self) -> bool:
        """Whether the list of collections can be read without the token."""
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
    """An address below the API's base, as intern writes it: names encoded, no slash at its end."""
    return "/".join(quote(name, safe="") for name in names)


def _parse_body(body: Response, url: str) -> Any:
    try:
        return json.loads(body.content)
    except (ValueError, RecursionError) as error:
        broken = InvalidJsonError(
            f"{url} answered with something that is not JSON ({len(body.content)} bytes): it was "
            "cut off, or a proxy or login page answered; check the address, and try again",
            url=url,
            status=body.status,
        )
        broken.transient = True
        raise broken from error
