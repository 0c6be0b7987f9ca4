"""Paths: which ones git and git-annex accept, those of keys, and pointer files.

Map upstream names to git paths. The mapping is total, injective and reversible.

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

The paths of the objects and logs of keys.

Formats: git-annex's internals/hashing and internals pages.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from neuromirror.annex.keys import parse_key

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


_ESCAPED_IN_FILES = b"&%:/"
_MIXED_ALPHABET = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"
# Two characters for each 12 bits of the digest: 5 bits of every 6, the second one first.
_MIXED = [
    bytes((_MIXED_ALPHABET[bits >> 6 & 31], _MIXED_ALPHABET[bits & 31])) for bits in range(4096)
]
_UP = [b"../" * depth + b".git/annex/objects/" for depth in range(64)]


def key_file_name(key: str) -> bytes:
    """Return the file name of a key, with ``&``, ``%``, ``:`` and ``/`` escaped.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        The file name, as in ``.git/annex/objects``.
    """
    raw = key.encode("utf-8")
    if len(raw.translate(None, _ESCAPED_IN_FILES)) == len(raw):
        return raw
    return raw.replace(b"&", b"&a").replace(b"%", b"&s").replace(b":", b"&c").replace(b"/", b"%")


def key_from_file_name(name: bytes) -> str:
    """Return the key of a file name, the inverse of :func:`key_file_name`.

    Parameters
    ----------
    name
        The name of a file in ``.git/annex/objects``.

    Returns
    -------
    str
        The key.
    """
    raw = name.replace(b"%", b"/").replace(b"&c", b":").replace(b"&s", b"%").replace(b"&a", b"&")
    return raw.decode("utf-8")


def hash_lower(key: str) -> bytes:
    """Return the directories of a key on the git-annex branch, such as ``f87/4d5``.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        Two directories of three characters, from the MD5 of the key.
    """
    digest = hashlib.md5(key.encode("utf-8"), usedforsecurity=False).hexdigest().encode("ascii")
    return digest[:3] + b"/" + digest[3:6]


def hash_mixed(key: str) -> bytes:
    """Return the directories of a key's object in a non-bare repository, such as ``pX/ZJ``.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        Two directories of two characters, from the MD5 of the key.
    """
    digest = hashlib.md5(key.encode("utf-8"), usedforsecurity=False).digest()
    bits = int.from_bytes(digest[:3], "little")
    return _MIXED[bits & 0xFFF] + b"/" + _MIXED[bits >> 12]


def link_target(key: str, git_path: bytes) -> bytes:
    """Return the symlink target of a locked file at ``git_path``.

    Parameters
    ----------
    key
        The key.
    git_path
        The path of the symlink in git.

    Returns
    -------
    bytes
        The relative path of the object.
    """
    depth = git_path.count(b"/")
    up = _UP[depth] if depth < len(_UP) else b"../" * depth + _UP[0]
    name = key_file_name(key)
    return up + hash_mixed(key) + b"/" + name + b"/" + name


def log_path(key: str) -> bytes:
    """Return the path of a key's location log on the git-annex branch.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        The path, ending in ``.log``.
    """
    raw = key.encode("utf-8")
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest().encode("ascii")
    if len(raw.translate(None, _ESCAPED_IN_FILES)) != len(raw):
        raw = key_file_name(key)
    return b"%s/%s/%s.log" % (digest[:3], digest[3:6], raw)


def url_log_path(key: str) -> bytes:
    """Return the path of a key's URL log on the git-annex branch.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    bytes
        The path, ending in ``.log.web``.
    """
    return hash_lower(key) + b"/" + key_file_name(key) + b".log.web"


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
