"""The base classes of all errors that neuromirror raises."""

from __future__ import annotations

from collections.abc import Sequence


class NeuromirrorError(Exception):
    """An error whose message states what failed, on which object, why, and what to do next.

    Parameters
    ----------
    message
        The message, which may end with advice.
    hint
        Advice for the operator of the store, such as a command to run. It is part of
        ``str(error)``.
    suggestions
        Names that the user may have meant, the nearest first. They are part of ``str(error)``.

    Attributes
    ----------
    problem
        The message without hint and suggestions, for readers who have no access to the store.
    hint, suggestions
        The arguments of the same names.
    exit_code
        The exit code of the command line: 1 for a failure or a failed verification, 2 for wrong
        usage or configuration, 3 for a listing held for approval.
    """

    exit_code = 1
    suggestions: tuple[str, ...] = ()

    def __init__(
        self, message: str = "", *, hint: str = "", suggestions: Sequence[str] = ()
    ) -> None:
        nearest = f"did you mean {' or '.join(suggestions)}?" if suggestions else ""
        super().__init__("; ".join(filter(None, (message, hint, nearest))))
        self.problem = message
        self.hint = hint
        self.suggestions = tuple(suggestions)


class ConfigurationError(NeuromirrorError):
    """The configuration or the command line is invalid."""

    exit_code = 2


class UnknownAddressError(ConfigurationError):
    """A name or address is malformed or unknown.

    Parameters
    ----------
    message
        The message, without the suggestions.
    suggestions
        Names that the user may have meant, the nearest first.
    """

    def __init__(self, message: str, suggestions: Sequence[str] = ()) -> None:
        super().__init__(message, suggestions=suggestions)
