"""Recognize environment variables with credentials, and remove them from an environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

_SECRET_NAME: Final = re.compile(
    r"(?i)token|secret|passw|api_?key|credential|private_?key|access_key"
)
_declared: set[str] = set()


def declare_secrets(names: Iterable[str]) -> None:
    """Declare that variables contain credentials, so that :func:`is_secret` is true for them.

    Parameters
    ----------
    names
        Names of environment variables.
    """
    _declared.update(names)


def is_secret(name: str) -> bool:
    """Return whether a variable was declared a credential, or has the name of one.

    Parameters
    ----------
    name
        The name of an environment variable.

    Returns
    -------
    bool
        Whether its value is a credential.
    """
    return name in _declared or _SECRET_NAME.search(name) is not None


def environment_without_secrets() -> dict[str, str]:
    """Return the environment without credentials, for child processes that need none.

    Returns
    -------
    dict[str, str]
        A copy of the environment.
    """
    return {name: value for name, value in os.environ.items() if not is_secret(name)}
