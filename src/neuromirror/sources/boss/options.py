"""The ``[options]`` of a mirror of a BOSS."""

from __future__ import annotations

from typing import Final, Literal

from neuromirror.net import TokenSource
from neuromirror.sources.api_tokens import InternToken
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.tokens import token_variable

_VERSIONS: Final = ("v1", "latest")


class BossOptions(VolumeOptions):
    """The ``[options]`` of a mirror of a BOSS.

    Attributes
    ----------
    api
        The service's base URL. It may end with the API's version (``https://api.bossdb.io/v1``, or
        ``/latest``); the default is version 1.
    restricted
        What to do with channels that require a token: ``skip``, mirror them in the ``private``
        store, or ``mirror`` them like the others into the same store.
    """

    restricted: Literal["skip", "private", "mirror"] = "skip"

    @property
    def token(self) -> TokenSource | None:
        """The source of the token; only restricted channels need the file of ``intern``."""
        if self.restricted == "skip":
            return super().token
        variable = self.token_env or token_variable(self.host)
        return InternToken(self.host, variable)

    @property
    def service(self) -> str:
        """The base URL without the API's version."""
        head, _, last = self.api.rpartition("/")
        return head if last in _VERSIONS else self.api

    @property
    def base(self) -> str:
        """The base URL with the API's version."""
        return self.api if self.service != self.api else f"{self.api}/{_VERSIONS[0]}"
