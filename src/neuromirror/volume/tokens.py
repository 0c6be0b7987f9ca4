"""Whose token a cut-out service is shown; each is bound to one host.

Which hosts are asked stands in datasets, and anybody can make those: a token that went to every
host would be anybody's.
"""

from __future__ import annotations

import os
import re

_NOT_IN_NAMES = re.compile(r"[^A-Z0-9]+")


def variable(host: str) -> str:
    """The environment variable with a host's token: ``NEUROMIRROR_TOKEN_API_BOSSDB_IO``.

    ``host`` has its port, if there is one.
    """
    return f"NEUROMIRROR_TOKEN_{_NOT_IN_NAMES.sub('_', host.upper()).strip('_')}"


def from_environment(host: str) -> str | None:
    """The token for a host; None where none is set."""
    return os.environ.get(variable(host), "").strip() or None
