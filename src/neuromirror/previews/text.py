"""Previews of tables and text files: their beginning."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from typing import Final

from neuromirror.model.errors import escape_surrogates
from neuromirror.previews.shapes import Preview, Table

_ROWS: Final = 20
_COLUMNS: Final = 16
_CELL: Final = 120
"""Maximum number of characters in a cell."""
_LINES: Final = 100
_LINE: Final = 400
"""Maximum number of characters in a line."""


def preview_table(data: bytes, path: str, *, whole: bool) -> Preview:
    """Preview a CSV or TSV file: its header and first rows.

    Parameters
    ----------
    data
        The beginning of the file.
    path
        Path of the file.
    whole
        Whether ``data`` is the whole file.

    Returns
    -------
    Preview
        The preview.

    Raises
    ------
    ValueError
        The bytes are not text, or have no rows.
    """
    lines = io.StringIO(_decode(data, whole=whole), newline="")
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    if delimiter == "," and _first_line(lines).count(";") > _first_line(lines).count(","):
        delimiter = ";"
    rows: list[list[str]] = []
    more = not whole
    for row in csv.reader(lines, delimiter=delimiter):
        if len(rows) > _ROWS:
            more = True
            break
        if row:
            rows.append(row)
    if not rows:
        raise ValueError("no rows")
    width = max(map(len, rows))
    shown = min(width, _COLUMNS)
    cells = [[_shorten(cell, _CELL) for cell in [*row, *[""] * shown][:shown]] for row in rows]
    notes = [f"The first {len(cells) - 1} rows are shown."] if more else []
    if width > shown:
        notes.append(f"The first {shown} of {width} columns are shown.")
    return Preview("table", tables=[Table("Rows", cells[0], cells[1:])], notes=notes)


def preview_text(data: bytes, path: str, *, whole: bool) -> Preview:
    """Preview a text file: its first lines; a JSON document is indented.

    Parameters
    ----------
    data
        The beginning of the file.
    path
        Path of the file.
    whole
        Whether ``data`` is the whole file.

    Returns
    -------
    Preview
        The preview.

    Raises
    ------
    ValueError
        The bytes are not text.
    """
    text = _decode(data, whole=whole)
    if whole and path.lower().endswith(".json"):
        with suppress(ValueError, RecursionError):  # invalid JSON is shown unchanged
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
            text = escape_surrogates(text)
    lines = text.splitlines()
    shown = [_shorten(line, _LINE) for line in lines[:_LINES]]
    more = not whole or len(lines) > _LINES
    notes = [f"The first {len(shown)} lines are shown."] if more else []
    return Preview("text", text="\n".join(shown), notes=notes)


def _decode(data: bytes, *, whole: bool) -> str:
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("not text")
    coding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = data.decode(coding, "replace")
    # the last line of a part may be incomplete
    return text if whole else text.rpartition("\n")[0] or text


def _first_line(lines: io.StringIO) -> str:
    line = lines.readline()
    lines.seek(0)
    return line


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
