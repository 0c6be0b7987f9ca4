"""The one base of every error that neuromirror raises on purpose."""

from __future__ import annotations


class NeuromirrorError(Exception):
    """Something a person can act on: the message says what, where, and what to do next.

    ``exit_code`` is what the command line exits with: 1 something failed or did not verify,
    2 wrong usage or configuration, 3 held for approval.
    """

    exit_code = 1


class ConfigurationError(NeuromirrorError):
    """The configuration, or what was asked for on the command line, is wrong."""

    exit_code = 2
