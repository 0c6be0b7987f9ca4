"""Parse commit objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SIGNATURE: Final = re.compile(r"(.*> ?)(-?[0-9]{1,11}) [+-][0-9]{4}", re.DOTALL)
"""Name, address and date; with more digits it would be after the year 5138."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The headers and the message of a commit object.

    Attributes
    ----------
    tree
        The tree's id in hex.
    parents
        The ids of the parents in hex.
    author, committer
        Name and address, as in ``Name <address>``.
    committed_at
        The committer date in seconds since the epoch.
    message
        Subject, body and trailers.
    """

    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    committed_at: int
    message: str

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0]


def parse_commit(data: bytes) -> Commit:
    """Parse a commit object.

    Parameters
    ----------
    data
        The content of the object, without its header. Bytes that are not UTF-8 are replaced.

    Returns
    -------
    Commit
        Its headers and message; other headers, such as signatures, are ignored.

    Raises
    ------
    ValueError
        The object has no tree, author or committer, or no date.
    """
    head, _, message = data.decode("utf-8", "replace").partition("\n\n")
    headers = [line.partition(" ")[::2] for line in head.split("\n")]
    # the first one counts, as in git
    first = dict(reversed(headers))
    missing = [name for name in ("tree", "author", "committer") if not first.get(name)]
    if missing:
        raise ValueError(f"a commit has no {missing[0]}")
    committer = _SIGNATURE.fullmatch(first["committer"])
    if committer is None:
        raise ValueError(f"a commit has no valid date: {first['committer'][:200]!r}")
    author = _SIGNATURE.fullmatch(first["author"])
    return Commit(
        first["tree"],
        tuple(value for name, value in headers if name == "parent"),
        (author[1] if author else first["author"]).rstrip(" "),
        committer[1].rstrip(" "),
        int(committer[2]),
        message,
    )
