"""Errors of git commands and of git's files."""

from __future__ import annotations

import re
from typing import Final

from neuromirror.model import NeuromirrorError

_REDIRECTED: Final = re.compile(r"returned error: 30[1278]\b")


class GitError(NeuromirrorError):
    """A git command failed."""


class InvalidRefNameError(NeuromirrorError):
    """git does not accept a name as that of a ref."""


class ObjectMissingError(NeuromirrorError):
    """A requested object cannot be read: its name is wrong, or the repository is damaged."""


class ObjectsRefusedError(GitError):
    """Objects from an untrusted source failed git's strict checks."""


class PackIndexError(NeuromirrorError):
    """A pack index is damaged, or of a version other than 2."""


def with_redirect_advice(message: str) -> str:
    """Return a message of git, with what to do if the server redirects, which git must not follow.

    Parameters
    ----------
    message
        The message.

    Returns
    -------
    str
        The message with the advice, or unchanged.
    """
    if not _REDIRECTED.search(message):
        return message
    return (
        f"{message}; the server redirects to another URL, which is not followed: use that URL, "
        "often the same with https://"
    )
