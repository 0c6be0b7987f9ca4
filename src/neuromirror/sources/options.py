"""What the options of every source have in common."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from neuromirror.net import Session, origin


class SourceOptions(BaseModel):
    """Options that know the session they need; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def session(self) -> Session:
        """A session as these options ask for it."""
        return Session()


def base_address(address: str, alternative: str) -> str:
    """An http(s) address in its normal form, without a slash at its end.

    Raises ValueError for anything else, for a query, and for a user or password in it, then
    saying what to do ``instead``.
    """
    scheme, host, port = origin(address)
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError(f"an address must not hold a user or password; {alternative}")
    if parts.query or parts.fragment:
        raise ValueError("an address ends with its path")
    host = f"[{host}]" if ":" in host else host
    usual = port == (443 if scheme == "https" else 80)
    return f"{scheme}://{host}{'' if usual else f':{port}'}{parts.path.rstrip('/')}"
