"""The source of the token for an API: the environment, or another one in a subclass."""

from __future__ import annotations

import os

from neuromirror.model import declare_secrets


class TokenSource:
    """Returns the token for an API, read from the environment on demand and never stored.

    Parameters
    ----------
    variables
        The environment variables that may contain it, the preferred one first.
    """

    def __init__(self, *variables: str) -> None:
        self.variables = variables
        declare_secrets(variables)

    @property
    def label(self) -> str:
        """The source of the token, or where to put the token, for messages."""
        found = [name for name in self.variables if os.environ.get(name, "").strip()]
        return f"the environment variable {(*found, *self.variables)[0]}"

    def read(self) -> str:
        """Return the token.

        Returns
        -------
        str
            The first value of the variables that is not empty; empty if there is no token.

        Raises
        ------
        CredentialsError
            If it cannot be read.
        """
        values = (os.environ.get(name, "").strip() for name in self.variables)
        return next(filter(None, values), "")

    def known(self) -> str:
        """Return the token if it can be read without starting another program.

        Returns
        -------
        str
            The token; else empty.
        """
        return TokenSource.read(self)
