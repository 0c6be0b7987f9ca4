"""``.gitmodules``: which sub-datasets a dataset has, and where they are to be had.

Format: gitmodules(5), in the syntax of git-config(1); ``datalad-id`` is DataLad's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./-]+\Z")


@dataclass(frozen=True, slots=True)
class Submodule:
    """A sub-dataset: its path, its DataLad id, and its URL relative to the dataset's own."""

    path: str
    url: str
    dataset_id: str


def gitmodules_content(modules: Iterable[Submodule]) -> bytes:
    """The content of ``.gitmodules``, by path."""
    return "".join(
        f"[submodule {_quote(one.path)}]\n\tpath = {_config_value(one.path)}\n"
        f"\turl = {_config_value(one.url)}\n\tdatalad-id = {one.dataset_id}\n"
        for one in sorted(modules, key=lambda one: one.path.encode())
    ).encode()


def ria_url(dataset_id: str) -> str:
    """The URL of a dataset in the store as seen from another one.

    It holds from the other's own place ``<id[:3]>/<id[3:]>``, and from ``alias/<name>`` as well.
    """
    return f"../../{dataset_id[:3]}/{dataset_id[3:]}"


def _config_value(value: str) -> str:
    """A value as git's configuration format has it (git-config(1), "Syntax")."""
    return value if _PLAIN_VALUE.match(value) else _quote(value)


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
