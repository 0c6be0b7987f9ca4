"""The paths of the objects and logs of keys.

Formats: git-annex's internals/hashing and internals pages.
"""

from __future__ import annotations

import hashlib

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
