"""Which environment variables hold credentials, and an environment without them."""

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
    """Record that variables of these names hold credentials, for the life of this process."""
    _declared.update(names)


def is_secret(name: str) -> bool:
    """Whether a variable holds a credential: it was declared, or its name says so."""
    return name in _declared or _SECRET_NAME.search(name) is not None


def environment_without_secrets() -> dict[str, str]:
    """Return this process's environment without credentials, for a child that needs none."""
    return {name: value for name, value in os.environ.items() if not is_secret(name)}
