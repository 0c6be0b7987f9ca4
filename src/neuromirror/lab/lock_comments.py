"""Split the text of a lock file into lines, to keep comments when values change.

Only the layout that the tool writes is supported: one ``[[dataset]]`` after the other, one key per
line, lists with one item per line. The caller parses the result to detect any other layout.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

from msgspec import Struct, field

_TABLE = re.compile(r"\[\[\s*dataset\s*\]\]\s*(?:#.*)?\Z")
_KEY = re.compile(r"([A-Za-z0-9_-]+)\s*=")
_VALUE = re.compile(r"""(?:[^#"']|"(?:[^"\\]|\\.)*+"|'[^']*+')*+""")


class _Block(Struct):
    """A ``[[dataset]]`` with the comments before it; ``lines`` have no newline."""

    name: str
    lines: list[str] = field(default_factory=list)


class LockBlocks(Struct):
    """The lines of a lock file: those before the first dataset, and those of each dataset.

    With them an unchanged pin keeps its comments when the file is written again.
    """

    head: list[str]
    blocks: list[_Block]

    @classmethod
    def parse(cls, text: str) -> LockBlocks:
        """Split the text of a lock file."""
        found: list[list[str]] = [[]]
        for line in text.splitlines():
            if _TABLE.match(line):
                own = _comments_at_end(found[-1])
                found.append([*own, line])
            else:
                found[-1].append(line)
        head, *rest = found
        return cls(head, [_Block(_name(lines), lines) for lines in rest])

    def render(self, tables: Mapping[str, Mapping[str, str] | None]) -> str:
        """Return the text with the given datasets.

        Existing datasets keep their positions; new ones follow in the given order.

        Parameters
        ----------
        tables
            By the name of the dataset: the lines of each key, or None for no change.
        """
        written = ["\n".join(self.head).rstrip("\n")]
        for block in self.blocks:
            if block.name in tables:
                keys = tables[block.name]
                lines = block.lines if keys is None else _replace_values(block.lines, keys)
                written.append("\n".join(lines).strip("\n"))
        existing = {block.name for block in self.blocks}
        for name, keys in tables.items():
            if name not in existing and keys is not None:
                written.append("\n".join(["[[dataset]]", *keys.values()]))
        return "\n\n".join(written) + "\n"


def _comments_at_end(lines: list[str]) -> list[str]:
    """Remove and return the comments directly before the next table."""
    start = len(lines)
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    own = lines[start:]
    del lines[start:]
    return own


def _name(lines: list[str]) -> str:
    """Return the name of the dataset of a block, or an empty text if it cannot be parsed."""
    try:
        (table,) = tomllib.loads("\n".join(lines))["dataset"]
        return str(table.get("name", ""))
    except ValueError:
        return ""


def _replace_values(lines: list[str], keys: Mapping[str, str]) -> list[str]:
    """Replace the values of a block; comments stay with their keys."""
    before: dict[str, list[str]] = {}
    behind: dict[str, str] = {}
    waiting: list[str] = []
    top: list[str] = []
    for line in lines:
        key = _KEY.match(line)
        if line.lstrip().startswith("#"):
            waiting.append(line)
        elif _TABLE.match(line):
            top, waiting = [*waiting, line], []
        elif key is not None:
            before[key[1]], waiting = waiting, []
            behind[key[1]] = _comment(line)
    written = top
    for name, value in keys.items():
        written += before.pop(name, [])
        comment = behind.get(name, "")
        written.append(f"{value}  {comment}" if comment and "\n" not in value else value)
    return [*written, *(line for left in before.values() for line in left), *waiting]


def _comment(line: str) -> str:
    """Return the comment at the end of a line ``key = value  # comment``, or an empty text."""
    found = _VALUE.match(line)
    return line[found.end() :] if found and line[found.end() : found.end() + 1] == "#" else ""
