"""Compute, apply and serialize the difference of two versions, as pairs of record lines.

Both versions are sorted by git path and processed one line at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from neuromirror.model.snapshot_entries import SnapshotEntry, load_snapshot_entry

LinePair = tuple[bytes | None, bytes | None]
"""The record line of a file before and after; None if the file was added or removed."""

Change = tuple[SnapshotEntry | None, SnapshotEntry | None]
"""A file before and after; None if it was added or removed."""

_HEAD = b'{"git":"'


class _Path(msgspec.Struct):
    git: str


_path = msgspec.json.Decoder(_Path).decode


def line_path(line: bytes) -> bytes:
    """Return the git path of a record line without parsing the rest of it.

    Parameters
    ----------
    line
        The record line.

    Returns
    -------
    bytes
        The path.
    """
    end = line.find(b'"', 8)
    if end > 0 and line.startswith(_HEAD) and line.find(b"\\", 8, end + 1) < 0:
        return line[8:end]
    return _path(line).git.encode()


def diff_lines(before: Iterable[bytes], after: Iterable[bytes]) -> Iterator[LinePair]:
    """Yield the pairs in which the record lines of two versions differ, in path order.

    Parameters
    ----------
    before
        The record lines of the old version, in path order.
    after
        The record lines of the new version, in path order.

    Yields
    ------
    LinePair
        The old and the new line; None on the side that lacks the path.
    """
    olds, news = iter(before), iter(after)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if old == new:
            old, new = next(olds, None), next(news, None)
        elif new is None:
            yield old, None
            old = next(olds, None)
        elif old is None:
            yield None, new
            new = next(news, None)
        else:
            old_path, new_path = line_path(old), line_path(new)
            if old_path == new_path:
                yield old, new
                old, new = next(olds, None), next(news, None)
            elif old_path < new_path:
                yield old, None
                old = next(olds, None)
            else:
                yield None, new
                new = next(news, None)


def patch_lines(before: Iterable[bytes], pairs: Iterable[LinePair]) -> Iterator[bytes]:
    """Apply a difference to the lines of a version, and yield the resulting lines.

    Parameters
    ----------
    before
        The record lines of the old version, in path order.
    pairs
        The difference, in path order.

    Yields
    ------
    bytes
        A record line of the new version.

    Raises
    ------
    ValueError
        If the old line of a pair is not among the lines.
    """
    olds = iter(before)
    old = next(olds, None)
    for expected, new in pairs:
        path = line_path(expected or new or b"")
        while old is not None and line_path(old) < path:
            yield old
            old = next(olds, None)
        if expected is not None:
            if old != expected:
                raise ValueError(f"no such file to change: {path!r}")
            old = next(olds, None)
        if new is not None:
            yield new
    while old is not None:
        yield old
        old = next(olds, None)


def reverse_pairs(pairs: Iterable[LinePair]) -> Iterator[LinePair]:
    """Reverse a difference.

    Parameters
    ----------
    pairs
        The difference.

    Returns
    -------
    Iterator[LinePair]
        A pair with its sides swapped.
    """
    return ((new, old) for old, new in pairs)


def compose_pairs(earlier: Iterable[LinePair], later: Iterable[LinePair]) -> Iterator[LinePair]:
    """Compose two successive differences, in path order.

    Parameters
    ----------
    earlier
        The difference from the first to the second state, in path order.
    later
        The difference from the second to the third state, in path order.

    Yields
    ------
    LinePair
        A pair of the difference from the first to the third state.

    Raises
    ------
    ValueError
        If ``later`` does not apply to the result of ``earlier``.
    """
    ones, others = iter(earlier), iter(later)
    one, other = next(ones, None), next(others, None)
    while one is not None or other is not None:
        path = None if one is None else line_path(one[0] or one[1] or b"")
        other_path = None if other is None else line_path(other[0] or other[1] or b"")
        if one is not None and (other_path is None or (path is not None and path < other_path)):
            yield one
            one = next(ones, None)
        elif other is not None and (path is None or path != other_path):
            yield other
            other = next(others, None)
        else:
            assert one is not None
            assert other is not None
            if one[1] != other[0]:
                raise ValueError(f"no such file to change: {path!r}")
            if one[0] != other[1]:
                yield one[0], other[1]
            one, other = next(ones, None), next(others, None)


def dump_pairs(pairs: Iterable[LinePair]) -> Iterator[bytes]:
    """Serialize pairs as lines: ``-`` and the old line, ``+`` and the new one.

    Parameters
    ----------
    pairs
        The pairs.

    Yields
    ------
    bytes
        A line without its newline.
    """
    for old, new in pairs:
        if old is not None:
            yield b"-" + old
        if new is not None:
            yield b"+" + new


def load_pairs(lines: Iterable[bytes]) -> Iterator[LinePair]:
    """Parse the lines of :func:`dump_pairs`.

    Parameters
    ----------
    lines
        The lines.

    Yields
    ------
    LinePair
        A pair of record lines.
    """
    old: bytes | None = None
    for line in lines:
        sign, rest = line[:1], line[1:]
        if sign == b"-":
            if old is not None:
                yield old, None
            old = rest
        elif old is not None and line_path(old) != line_path(rest):
            yield old, None
            yield None, rest
            old = None
        else:
            yield old, rest
            old = None
    if old is not None:
        yield old, None


def load_changes(pairs: Iterable[LinePair]) -> Iterator[Change]:
    """Parse pairs of record lines into pairs of snapshot entries.

    Parameters
    ----------
    pairs
        Pairs of record lines.

    Yields
    ------
    Change
        A pair of snapshot entries; None on the side that lacks the path.
    """
    for old, new in pairs:
        yield (
            None if old is None else load_snapshot_entry(old),
            None if new is None else load_snapshot_entry(new),
        )
