"""Errors of git commands and of git's files."""

from __future__ import annotations

from neuromirror.model import NeuromirrorError


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
