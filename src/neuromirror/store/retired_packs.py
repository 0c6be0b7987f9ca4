"""Which packs of a repository housekeeping made, and which it has put out of use.

A retired pack's objects are all in another pack. It stays for a while, for those who read about it
before it was retired, and is named to nobody new. What is known of packs is in
``<repository>/housekeeping.json``::

    {"format": 2,
     "consolidated": ["pack-<40 hex>", …],
     "retired": {"pack-<40 hex>": "<ISO 8601 time>", …}}

Without the file, or with one that cannot be read, all packs are in use and none was made by
housekeeping: nothing is lost by that but work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from neuromirror.model import parse_json
from neuromirror.store.durable_files import write_atomically

RECORD_NAME = "housekeeping.json"
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class PackRecord:
    """Names of packs (``pack-<40 hex>``): made by housekeeping; retired, and when."""

    consolidated_packs: frozenset[str] = frozenset()
    retired_packs: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def load(cls, repository: Path) -> PackRecord:
        """The record of a bare repository; an empty one where there is none to read."""
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
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, repository: Path) -> None:
        """Puts the record in the place of the old one, in one step."""
        content = {
            "format": _FORMAT,
            "consolidated": sorted(self.consolidated_packs),
            "retired": {name: at.isoformat() for name, at in sorted(self.retired_packs.items())},
        }
        write_atomically(repository / RECORD_NAME, json.dumps(content, indent=1).encode() + b"\n")


def pack_names(repository: Path) -> list[str]:
    """All packs that git sees in a bare repository: those with an index, by name."""
    folder = repository / "objects" / "pack"
    return sorted(
        path.stem for path in folder.glob("pack-*.idx") if path.with_suffix(".pack").exists()
    )


def active_pack_names(repository: Path) -> list[str]:
    """The packs that are named to clients of plain HTTP: all but the retired ones."""
    retired = PackRecord.load(repository).retired_packs
    return [name for name in pack_names(repository) if name not in retired]


def is_pack_list_current(repository: Path) -> bool:
    """Whether ``objects/info/packs`` names the packs in use, all of them and no other."""
    try:
        lines = (repository / "objects" / "info" / "packs").read_bytes().splitlines()
    except FileNotFoundError:
        return not active_pack_names(repository)
    listed = [line for line in lines if line]
    return sorted(listed) == [
        b"P %s.pack" % name.encode() for name in active_pack_names(repository)
    ]


def write_pack_list(repository: Path) -> None:
    """Names the packs in use to clients of plain HTTP (gitrepository-layout(5))."""
    lines = "".join(f"P {name}.pack\n" for name in active_pack_names(repository))
    write_atomically(repository / "objects" / "info" / "packs", f"{lines}\n".encode())
