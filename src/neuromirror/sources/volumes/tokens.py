"""The environment variable with the token for a cut-out service; each is bound to one host.

Which hosts are asked stands in datasets, and anybody can make those: a token that went to every
host would be anybody's.
"""

from __future__ import annotations

import os
import re

_JOINS = re.compile("[-_]")
_NOT_IN_NAMES = re.compile("[^A-Z0-9_]")


def token_variable(host: str) -> str:
    """The environment variable with a host's token: ``NEUROMIRROR_TOKEN_API_BOSSDB_IO``.

    ``host`` has its port, if there is one. Hyphens count twice: ``api-bossdb.io``, which anybody
    could register, must not have the name of ``api.bossdb.io``.
    """
    named = _NOT_IN_NAMES.sub("_", _JOINS.sub("__", host.upper().strip("[].")))
    return f"NEUROMIRROR_TOKEN_{named}"


def token_from_environment(host: str) -> str | None:
    """The token for a host; None where none is set."""
    return os.environ.get(token_variable(host), "").strip() or None
