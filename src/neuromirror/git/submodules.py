"""Write ``.gitmodules``: the submodules of a dataset and their URLs.

Format: gitmodules(5), in the syntax of git-config(1). DataLad adds ``datalad-id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./-]+\Z")


class Submodule(Struct, frozen=True):
    """A submodule of a superproject.

    Attributes
    ----------
    path
        The path in the superproject.
    url
        The URL, relative to the superproject's.
    dataset_id
        The DataLad dataset id.
    """

    path: str
    url: str
    dataset_id: str


def gitmodules_content(modules: Iterable[Submodule]) -> bytes:
    """Return the content of ``.gitmodules``, sorted by path.

    Parameters
    ----------
    modules
        The subdatasets.

    Returns
    -------
    bytes
        The content, with path, URL and dataset id of each.
    """
    return "".join(
        f"[submodule {_quote(one.path)}]\n\tpath = {_config_value(one.path)}\n"
        f"\turl = {_config_value(one.url)}\n\tdatalad-id = {one.dataset_id}\n"
        for one in sorted(modules, key=lambda one: one.path.encode())
    ).encode()


def _config_value(value: str) -> str:
    """Return a value in git's configuration syntax (git-config(1), "Syntax")."""
    return value if _PLAIN_VALUE.match(value) else _quote(value)


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
