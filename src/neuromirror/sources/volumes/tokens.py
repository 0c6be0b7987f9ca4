"""The environment variable with the token for a cutout service; each is bound to one host.

Hosts come from datasets, which anybody can create, so a token must not be sent to other hosts.
"""

from __future__ import annotations

import os
import re

_JOINS = re.compile("[-_]")
_NOT_IN_NAMES = re.compile("[^A-Z0-9_]")


def token_variable(host: str) -> str:
    """Return the environment variable with a host's token: ``NEUROMIRROR_TOKEN_API_BOSSDB_IO``.

    ``host`` includes its port, if there is one. A hyphen becomes two underscores, so that
    ``api-bossdb.io``, which anybody could register, differs from ``api.bossdb.io``.
    """
    named = _NOT_IN_NAMES.sub("_", _JOINS.sub("__", host.upper().strip("[].")))
    return f"NEUROMIRROR_TOKEN_{named}"


def token_from_environment(host: str) -> str | None:
    """Return the token for a host from :func:`token_variable`; None if it is unset or empty.

    ``host`` includes its port, if there is one.
    """
    return os.environ.get(token_variable(host), "").strip() or None
