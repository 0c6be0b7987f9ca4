"""Record which packs of a repository housekeeping wrote, and which it retired.

All objects of a retired pack are in another pack. It stays for a grace period, for clients that
read the old list of packs, and is not in the new list. The record is
``<repository>/housekeeping.json``::

    {"format": 2,
     "consolidated": ["pack-<40 hex>", …],
     "retired": {"pack-<40 hex>": "<ISO 8601 time>", …}}

Where the file is missing or unreadable, all packs count as in use and as not consolidated: the
next housekeeping repeats the work, and nothing is lost.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from msgspec import Struct, field

from neuromirror.model import parse_json
from neuromirror.store.durable_files import write_atomically

RECORD_NAME = "housekeeping.json"
_FORMAT = 2


class PackRecord(Struct, frozen=True):
    """The packs of a repository that housekeeping has written, and those that it has retired.

    A retired pack was replaced by another, and stays for a while for clients that are reading it.
    ``consolidated_packs`` are the names (``pack-<40 hex>``) of the packs that it has written,
    ``retired_packs`` the times of retirement by name.
    """

    consolidated_packs: frozenset[str] = frozenset()
    retired_packs: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def load(cls, repository: Path) -> PackRecord:
        """Return a bare repository's record; an empty one where it is missing or unreadable."""
        try:
            content = parse_json((repository / RECORD_NAME).read_bytes(), RECORD_NAME)
            if content["format"] != _FORMAT:
                return cls()
            retired_packs = {
                name: datetime.fromisoformat(at) for name, at in content["retired"].items()
            }
            if any(at.tzinfo is None for at in retired_packs.values()):
                return cls()
            return cls(frozenset(map(str, content["consolidated"])), retired_packs)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, repository: Path) -> None:
        """Write the record; the old one is replaced in one step."""
        content = {
            "format": _FORMAT,
            "consolidated": sorted(self.consolidated_packs),
            "retired": {name: at.isoformat() for name, at in sorted(self.retired_packs.items())},
        }
        write_atomically(repository / RECORD_NAME, json.dumps(content, indent=1).encode() + b"\n")


def pack_names(repository: Path) -> list[str]:
    """Return the names of all packs with an index in a bare repository, sorted."""
    folder = repository / "objects" / "pack"
    return sorted(
        path.stem for path in folder.glob("pack-*.idx") if path.with_suffix(".pack").exists()
    )


def active_pack_names(repository: Path) -> list[str]:
    """Return the names of the packs in use: all but the retired ones."""
    retired = PackRecord.load(repository).retired_packs
    return [name for name in pack_names(repository) if name not in retired]


def is_pack_list_current(repository: Path) -> bool:
    """Return whether ``objects/info/packs`` lists exactly the packs in use."""
    try:
        lines = (repository / "objects" / "info" / "packs").read_bytes().splitlines()
    except FileNotFoundError:
        return not active_pack_names(repository)
    listed = [line for line in lines if line]
    return sorted(listed) == [
        b"P %s.pack" % name.encode() for name in active_pack_names(repository)
    ]


def write_pack_list(repository: Path) -> None:
    """Write the list of packs for clients of plain HTTP (gitrepository-layout(5))."""
    lines = "".join(f"P {name}.pack\n" for name in active_pack_names(repository))
    write_atomically(repository / "objects" / "info" / "packs", f"{lines}\n".encode())
