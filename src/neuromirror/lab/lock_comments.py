"""The text of a lock taken apart line by line, so that comments survive a change of what it says.

Only what the tool itself writes is understood: one ``[[dataset]]`` after the other, a key a line,
lists of one item a line. Anything else is for the caller to find out, by reading what came out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

_TABLE = re.compile(r"\[\[\s*dataset\s*\]\]\s*(?:#.*)?\Z")
_KEY = re.compile(r"([A-Za-z0-9_-]+)\s*=")
_VALUE = re.compile(r"""(?:[^#"']|"(?:[^"\\]|\\.)*+"|'[^']*+')*+""")


@dataclass(slots=True)
class _Block:
    """A ``[[dataset]]`` and the lines before it that are its own; ``lines`` without newline."""

    name: str
    lines: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LockBlocks:
    """The lines before the first dataset, and each dataset's."""

    head: list[str]
    blocks: list[_Block]

    @classmethod
    def parse(cls, text: str) -> LockBlocks:
        """The blocks of a lock's text."""
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
        """The text with these datasets, by name: the lines of each key, or None for no change.

        Those that are there keep their places, and others follow in the order given.
        """
        written = ["\n".join(self.head).rstrip("\n")]
        for block in self.blocks:
            if block.name in tables:
                keys = tables[block.name]
                lines = block.lines if keys is None else _replace_values(block.lines, keys)
                written.append("\n".join(lines).strip("\n"))
        there = {block.name for block in self.blocks}
        for name, keys in tables.items():
            if name not in there and keys is not None:
                written.append("\n".join(["[[dataset]]", *keys.values()]))
        return "\n\n".join(written) + "\n"


def _comments_at_end(lines: list[str]) -> list[str]:
    """Takes the comments off that stand right before the next table."""
    start = len(lines)
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    own = lines[start:]
    del lines[start:]
    return own


def _name(lines: list[str]) -> str:
    """The name that a block gives; empty where it cannot be read by itself."""
    try:
        (table,) = tomllib.loads("\n".join(lines))["dataset"]
        return str(table.get("name", ""))
    except ValueError:
        return ""


def _replace_values(lines: list[str], keys: Mapping[str, str]) -> list[str]:
    """A block with other values; comments stay before, behind or after the key they stood at."""
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
    """The comment at the end of a line ``key = value  # comment``; empty for none."""
    found = _VALUE.match(line)
    return line[found.end() :] if found and line[found.end() : found.end() + 1] == "#" else ""
