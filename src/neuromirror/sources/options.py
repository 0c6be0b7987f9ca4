"""What the options of every source have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from neuromirror.net import Session


class SourceOptions(BaseModel):
    """Options that know the session they need; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def session(self) -> Session:
        """A session as these options ask for it."""
        return Session()
