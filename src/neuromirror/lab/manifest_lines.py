"""Validate the lines of files in a manifest, many at a time.

A manifest may have millions of lines. One regular expression accepts the lines of files as they are
usually written; all other lines are parsed one by one.
"""

from __future__ import annotations

import operator
import re
from typing import Final, NamedTuple

from neuromirror.model import is_git_path

_FILE_LINE: Final = re.compile(
    rb'^\{"path":"([^"]++)",'
    rb'"key":"([A-Z0-9_]++(?:-[smSC][0-9]{1,18})*+--[^"\x00-\x20\x7f]++)?+",'
    rb'"digest":"(none|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|etag:[0-9a-f]{32}(?:-[0-9]{1,18}){2})"'
    rb'(?:,"size":(0|[1-9][0-9]{0,17}))?+(?:,"urls":\["[^"]*+"(?:,"[^"]*+")*+\])?+'
    rb'(?:,"checked":true)?+(?(2)(?:,"git":false)?+|,"git":false)\}\n',
    re.MULTILINE,
)
"""The line of a file as it is written, if no text has an escape."""
_NOT_IN_TEXT: Final = bytes(one for one in range(32) if one != ord("\n")) + b"\\"
_ODD_IN_PATHS: Final = (b"/.", b"//", b"\n.", b"\n/", b"/\n")


class FileLines(NamedTuple):
    """Valid lines of files.

    Attributes
    ----------
    canonical
        Their lines in the canonical manifest.
    last
        The path of the last one.
    files
        Their number.
    """

    canonical: bytes
    last: bytes
    files: int


def file_lines(block: bytes, last: bytes) -> FileLines | None:
    """Validate lines of a manifest without parsing their JSON.

    Parameters
    ----------
    block
        The lines, each with its newline.
    last
        The path before them; empty for none.

    Returns
    -------
    FileLines or None
        None if a line is invalid, unusual, or not that of a file: then each has to be parsed.
    """
    if not _FILE_LINE.match(block) or not _is_plain_text(block):
        return None
    found = _FILE_LINE.findall(block)
    paths = [one[0] for one in found]
    if len(paths) != block.count(b"\n") or not all(map(operator.lt, (last, *paths), paths)):
        return None
    joined = b"\n%b\n" % b"\n".join(paths)
    is_odd = any(odd in joined for odd in _ODD_IN_PATHS)
    if is_odd and not all(is_git_path(path.decode()) for path in paths):
        return None
    lines = [
        b'{"digest":"%b","path":"%b","size":%b}\n' % (digest, path, size or b"null")
        for path, _, digest, size in found
    ]
    return FileLines(b"".join(lines), paths[-1], len(paths))


def _is_plain_text(block: bytes) -> bool:
    """Return whether lines are UTF-8 without backslashes and control characters."""
    if len(block.translate(None, _NOT_IN_TEXT)) != len(block):
        return False
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False
