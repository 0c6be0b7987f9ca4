"""Parse symlink targets and pointer files of git-annex (git-annex: internals/pointer_file)."""

from __future__ import annotations

from typing import Final

from neuromirror.annex.key_paths import key_file_name, key_from_file_name
from neuromirror.annex.keys import parse_key

POINTER_PREFIX: Final = b"/annex/objects/"
"""The first bytes of a pointer file."""

MAX_POINTER_BYTES: Final = 32 << 10
"""Maximum size of a pointer file."""


def pointer_content(key: str) -> bytes:
    """Return the content of the pointer file of an unlocked file.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        ``/annex/objects/<file name of the key>`` and a newline.
    """
    return POINTER_PREFIX + key_file_name(key) + b"\n"


def is_pointer(start: bytes, size: int) -> bool:
    """Return whether a file is a pointer file, from its first bytes and its size.

    Parameters
    ----------
    start
        The first bytes of the file.
    size
        The size of the file in bytes.

    Returns
    -------
    bool
        Whether the file is a pointer file.
    """
    return size <= MAX_POINTER_BYTES and start.startswith(POINTER_PREFIX)


def parse_pointer(content: bytes) -> str | None:
    """Return the key in a pointer file as git-annex writes it; None for any other content.

    Parameters
    ----------
    content
        The content of a file.

    Returns
    -------
    str | None
        The key.
    """
    if not is_pointer(content, len(content)):
        return None
    return _parse_file_name(content.split(b"\n", 1)[0].removeprefix(POINTER_PREFIX))


def parse_link_target(target: bytes) -> str | None:
    """Return the key in the target of an annex symlink; None for any other target.

    The target ends with ``annex/objects/…/KEY/KEY`` in a ``.git`` directory.

    Parameters
    ----------
    target
        The target of a symlink.

    Returns
    -------
    str | None
        The key.
    """
    folder, _, name = target.rpartition(b"/")
    above, _, twin = folder.rpartition(b"/")
    above = b"/%s/" % above
    git = above.find(b"/.git/")
    if not name or name != twin or git < 0 or above.find(POINTER_PREFIX, git + 5) < 0:
        return None
    return _parse_file_name(name)


def find_pointer_key(content: bytes) -> str | None:
    """Return the key of any content that git-annex may interpret as a pointer or link target.

    git-annex accepts more than it writes: the prefix may be anywhere in the first line, and
    directories may precede the key.

    Parameters
    ----------
    content
        The start of a file.

    Returns
    -------
    str | None
        The key, or None if git-annex sees no pointer.
    """
    line = content.partition(b"\n")[0].rstrip(b"\r")
    return _parse_file_name(line.rpartition(b"/")[2]) if POINTER_PREFIX in line else None


def _parse_file_name(name: bytes) -> str | None:
    try:
        key = key_from_file_name(name)
        parse_key(key)
    except ValueError:  # not UTF-8, or not a key
        return None
    return key
