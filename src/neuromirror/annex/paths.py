"""Map upstream names to git paths. The mapping is total, injective and reversible.

Ordinary names map to themselves. Bytes that git, git-annex, DataLad or a file system would refuse
or interpret are escaped with ``%``, per component:

- ``%XX`` (upper-case hex): the byte XX. A literal ``%`` becomes ``%25``, but only where it would
  otherwise form one of these tokens.
- ``%_``: empty. It replaces an empty component, and is appended to a file name that is also the
  name of a folder.
- ``%+`` at the end of a component: the name continues in the next component, because it is longer
  than file systems allow.

The variants of ``.git`` and similar names follow git's ``is_ntfs_dot*`` (path.c) and
``is_hfs_dot*`` (utf8.c), which ``git fsck`` and checkout use on every platform. At least the names
that git refuses are escaped.
"""

from __future__ import annotations

import re

_COMPONENT_LIMIT = 255
_PATH_LIMIT = 3800
_TARGET_LIMIT = 4000
# Length of a link target without its ``../``: ``.git/annex/objects/xx/yy/`` and twice the file
# name of a key, which file systems limit to 255 bytes.
_LONGEST_TARGET = len(b".git/annex/objects/xx/yy/") + 2 * 255 + 1
# Leaves space for an escaped first character (6 more bytes), ``%+`` and ``%_``.
_CHUNK = 240

_SLASH, _DOT = b"/."
_CLASH = b"%_"
_CONTINUES = b"%+"

# ASCII without special meaning, plus ``.`` and ``/``, which are checked separately. Excludes
# ``~``, since every NTFS short name contains it.
_ORDINARY = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"%\\~")

_HIGH = bytes(range(0x80, 0x100))

_NAMES = (
    b"git",
    b"gitmodules",
    b"gitattributes",
    b"gitignore",
    b"mailmap",
    b"datalad",
    b"neuromirror",
    b"noannex",
)
_NTFS_HASHED = (b"gi7eba", b"gi7d29", b"gi250a", b"maba30")


def _any_case(text: bytes) -> bytes:
    # Character classes instead of re.IGNORECASE, which would disable the fast literal prefix.
    return b"".join(
        b"[%c%c]" % (byte, byte - 32) if 97 <= byte <= 122 else re.escape(bytes((byte,)))
        for byte in text
    )


def _short_names() -> bytes:
    patterns = [rb"[gG][iI][tT]~1"]
    patterns += [_any_case(name[:6]) + rb"~[1-4]" for name in _NAMES if len(name) > 3]
    for prefix in _NTFS_HASHED:
        for kept in range(7):
            patterns.append(_any_case(prefix[:kept]) + rb"~[1-9][0-9]{%d}" % (6 - kept))
    return b"|".join(patterns)


_DOTTED = re.compile(rb"/\.(?:/|\.|\Z|%s)" % b"|".join(map(_any_case, _NAMES)))

# U+FFFE and U+FFFF end a name for git's HFS+ check, as malformed UTF-8 does.
_INTERPRETED = re.compile(
    rb"(?:(?:\.(?:%s)|%s)[. ]*(?:\Z|:)|\.(?:%s)\xef\xbf[\xbe\xbf]|\.\.?\Z)"
    % (b"|".join(map(_any_case, _NAMES)), _short_names(), b"|".join(map(_any_case, _NAMES)))
)
_HFS_IGNORED = re.compile(rb"\xe2\x80[\x8c-\x8f\xaa-\xae]|\xe2\x81[\xaa-\xaf]|\xef\xbb\xbf")
_ODD_UNICODE = re.compile(rb"\xc2[\x80-\x9f]|%s" % _HFS_IGNORED.pattern)

_PLAIN_NAME = rb"[ !-$&-\-0-\[\]-}][ !-$&-.0-\[\]-}]{0,254}+"
_PLAIN = re.compile(rb"(?:%s/)*+%s" % (_PLAIN_NAME, _PLAIN_NAME))

_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\\\udc80-\udcff]|%(?=[0-9A-F]{2}|[_+])")
_TOKEN = re.compile(rb"%([0-9A-F]{2})|%_|%\+/")
_UNIT = re.compile(rb"%[0-9A-F]{2}|[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*")


def git_path(upstream: bytes) -> bytes:
    """Return the git path of an upstream name; the same bytes for an ordinary name.

    The result is valid UTF-8, never empty, and has no component that git refuses.

    Parameters
    ----------
    upstream
        The name of the file upstream, in any bytes.

    Returns
    -------
    bytes
        The path in git.
    """
    if _PLAIN.fullmatch(upstream):
        return upstream
    odd = upstream.translate(None, _ORDINARY)
    if (
        upstream
        and (not odd or _is_plain_unicode(upstream, odd))
        and b"//" not in upstream
        and upstream[0] != _SLASH
        and upstream[-1] != _SLASH
        and not ((b"/." in upstream or upstream[0] == _DOT) and _DOTTED.search(b"/" + upstream))
        and (
            len(upstream) <= _COMPONENT_LIMIT
            or max(map(len, upstream.split(b"/"))) <= _COMPONENT_LIMIT
        )
    ):
        return upstream
    return b"/".join([_component(part) for part in upstream.split(b"/")])


def upstream_path(git: bytes) -> bytes:
    """Return the upstream name of a path from :func:`git_path` or :func:`mark_clash`.

    Parameters
    ----------
    git
        The path of the file in git.

    Returns
    -------
    bytes
        The name upstream.
    """
    if b"%" not in git:
        return git
    return _TOKEN.sub(_unescape, git)


def mark_clash(git_path: bytes) -> bytes:
    """Return an alternative path of a file whose path is also that of a folder.

    Parameters
    ----------
    git_path
        The path of the file in git.

    Returns
    -------
    bytes
        The alternative path; :func:`upstream_path` gives the same upstream name for both.
    """
    folder, slash, name = git_path.rpartition(b"/")
    if len(name) + len(_CLASH) > _COMPONENT_LIMIT:
        name = _split(name)
    return folder + slash + name + _CLASH


def fits_path_limits(git_path: bytes) -> bool:
    """Return whether a path and its longest possible link target are short enough for a checkout.

    The limits (3,800 bytes for the path, 4,000 for the target) are below PATH_MAX (4,096).

    Parameters
    ----------
    git_path
        The path of a file in git.

    Returns
    -------
    bool
        False if a checkout could fail.
    """
    return (
        len(git_path) <= _PATH_LIMIT and 3 * git_path.count(b"/") + _LONGEST_TARGET <= _TARGET_LIMIT
    )


def _is_plain_unicode(upstream: bytes, odd: bytes) -> bool:
    """Return whether all special bytes belong to printable non-ASCII characters."""
    if odd.translate(None, _HIGH) or _ODD_UNICODE.search(upstream):
        return False
    try:
        upstream.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _component(name: bytes) -> bytes:
    """Escape one component; split it into several if it is too long."""
    if not name:
        return _CLASH
    if name in (b".", b".."):
        return b"%2E" * len(name)
    text = name.decode("utf-8", "surrogateescape")
    encoded = _ESCAPED.sub(_escape, text).encode("utf-8")
    encoded = _escape_interpreted(encoded)
    return encoded if len(encoded) <= _COMPONENT_LIMIT else _split(encoded)


def _escape_interpreted(name: bytes) -> bytes:
    """Escape the first character of an escaped component that git would interpret."""
    if not _INTERPRETED.match(_HFS_IGNORED.sub(b"", name)):
        return name
    first = _unit_at(name, 0)
    return b"".join(b"%%%02X" % byte for byte in name[:first]) + name[first:]


def _unit_at(name: bytes, start: int) -> int:
    """Return the end of the escape or UTF-8 character at ``start``."""
    unit = _UNIT.match(name, start)
    assert unit is not None
    return unit.end()


def _split(name: bytes) -> bytes:
    """Split an escaped component into components of valid length, each of them safe."""
    pieces = []
    start = 0
    while len(name) - start > _CHUNK:
        end = start
        while (following := _unit_at(name, end)) - start <= _CHUNK:
            end = following
        pieces.append(_escape_interpreted(name[start:end] + _CONTINUES))
        start = end
    pieces.append(_escape_interpreted(name[start:]))
    return b"/".join(pieces)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),)) if match[1] else b""
