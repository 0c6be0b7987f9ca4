"""The ``[options]`` of a mirror of a DANDI archive."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from neuromirror.net import Session, TokenSource
from neuromirror.sources.dandi_client import DandiKey, instance_at, is_key_for
from neuromirror.sources.options import SourceOptions, api_session, base_address


class DandiOptions(SourceOptions):
    """The ``[options]`` of a mirror of a DANDI archive.

    Attributes
    ----------
    api
        Base URL of the API (``https://api.dandiarchive.org/api``).
    token_env
        Name of the environment variable with a token.
    instance
        The archive's name in ``dandi``, after which it names the variable and the keyring entry
        with the token. By default derived from ``api``.
    page_size
        Rows per page; the archive's own limit is 1000.
    connections
        Number of parallel requests for objects.
    allow_private
        Whether the archive is on this machine or network. By default derived from ``api``.
    zarrs
        Whether Zarr assets are mirrored.
    metadata
        Whether the assets' metadata are mirrored.
    history_gap_minutes
        Changes of a Zarr with shorter pauses between them count as one earlier state.
    embargoed
        What to do with embargoed dandisets that the token can read: ``skip``, or mirror them in the
        ``private`` store; with ``all``, every dandiset counts as embargoed.
    """

    api: str
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    instance: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")
    page_size: int = Field(default=1000, ge=1, le=1000)
    connections: int = Field(default=8, ge=1, le=64)
    allow_private: bool | None = None
    zarrs: bool = True
    metadata: bool = True
    history_gap_minutes: int = Field(default=60, ge=1)
    embargoed: Literal["skip", "private", "all"] = "skip"

    @model_validator(mode="after")
    def _has_token(self) -> Self:
        if self.instance is not None and not is_key_for(self.instance, self.api):
            raise ValueError(
                f'instance = "{self.instance}" is another archive than that of api, so its API key '
                "is not sent there; omit instance, and name the variable with token_env"
            )
        if self.embargoed != "skip" and self.token is None:
            raise ValueError(
                f'embargoed = "{self.embargoed}" needs a token; name the environment variable '
                "that holds it with token_env"
            )
        return self

    @cached_property
    def token(self) -> TokenSource | None:
        """The source of the token; None if requests are anonymous.

        Only embargoed dandisets need the keyring, which may ask for a password.
        """
        instance = self.instance or instance_at(self.api)
        if self.embargoed != "skip" and instance is not None:
            return DandiKey(instance, self.token_env)
        return None if self.token_env is None else TokenSource(self.token_env)

    @property
    def has_token(self) -> bool:
        """Whether there is a token now."""
        return self.token is not None and bool(self.token.read())

    @field_validator("api")
    @classmethod
    def _normal(cls, api: str) -> str:
        return base_address(api, "use token_env")

    def session(self) -> Session:
        """Return a session that sends the token only to the API's host.

        Returns
        -------
        Session
            The session; close it after use.
        """
        return api_session(self.api, self.allow_private, self.token)

    def requirements(self) -> tuple[str, ...]:
        """Return the token, if the options name one.

        Returns
        -------
        tuple[str, ...]
            One text per requirement, for messages.
        """
        return () if self.token is None else (f"a token in ${self.token.variables[0]}",)
