"""The base classes of all errors that neuromirror raises."""

from __future__ import annotations


class NeuromirrorError(Exception):
    """An error whose message states what failed, on which object, why, and what to do next.

    Attributes
    ----------
    exit_code
        The exit code of the command line: 1 for a failure or a failed verification, 2 for wrong
        usage or configuration, 3 for a listing held for approval.
    """

    exit_code = 1


class ConfigurationError(NeuromirrorError):
    """The configuration or the command line is invalid."""

    exit_code = 2
