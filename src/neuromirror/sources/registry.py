"""The installed sources, by the name that a mirror file has in ``source``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError

from neuromirror.model import ConfigurationError
from neuromirror.net import RequestPolicy, Session
from neuromirror.sources.options import SourceOptions
from neuromirror.sources.protocol import Source

ENTRY_POINT_GROUP: Final = "neuromirror.sources"


@cache
def source_kinds() -> Mapping[str, EntryPoint]:
    """Return the installed sources by name, as of the first call; nothing is imported.

    Returns
    -------
    Mapping[str, EntryPoint]
        Entry points by the names that mirror files use.
    """
    return {found.name: found for found in sorted(entry_points(group=ENTRY_POINT_GROUP))}


def open_source(
    kind: str, mirror: str, options: Mapping[str, Any], request_policy: RequestPolicy | None = None
) -> Source:
    """Return the source of a mirror, with its own session; no request is made.

    Parameters
    ----------
    kind
        The source's name, as in the mirror file.
    mirror
        The mirror's name.
    options
        The mirror file's ``[options]``, unchecked.
    request_policy
        Rate and concurrency limits for the session; None for the defaults.

    Returns
    -------
    Source
        The source; close it after use.

    Raises
    ------
    ConfigurationError
        If the source or an option is unknown or invalid.
    """
    source_class, checked = _check_options(kind, mirror, options)
    session = checked.session() if isinstance(checked, SourceOptions) else Session()
    return source_class(
        mirror, checked, session if request_policy is None else session.with_policy(request_policy)
    )


def source_options(kind: str, mirror: str, options: Mapping[str, Any]) -> SourceOptions:
    """Return the checked options of a mirror, without its source.

    Parameters
    ----------
    kind
        The source's name, as in the mirror file.
    mirror
        The mirror's name.
    options
        The mirror file's ``[options]``, unchecked.

    Returns
    -------
    SourceOptions
        The options; the defaults if the options of a plug-in are of another type.

    Raises
    ------
    ConfigurationError
        If the source or an option is unknown or invalid.
    """
    _, checked = _check_options(kind, mirror, options)
    return checked if isinstance(checked, SourceOptions) else SourceOptions()


def _check_options(
    kind: str, mirror: str, options: Mapping[str, Any]
) -> tuple[type[Source], BaseModel]:
    kinds = source_kinds()
    if kind not in kinds:
        raise ConfigurationError(
            f"mirror {mirror!r}: there is no source {kind!r};"
            f" installed are {', '.join(kinds) or 'none'}"
        )
    try:
        source_class = cast("type[Source]", kinds[kind].load())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"mirror {mirror!r}: the source {kind!r} ({kinds[kind].value}) cannot be loaded:"
            f" {error}; install what it needs"
        ) from error
    try:
        return source_class, source_class.Options.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigurationError(_format_errors(mirror, error)) from None


def _format_errors(mirror: str, error: ValidationError) -> str:
    """Return the faults without the values, of which one may be a password in a URL."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [
        (f"option {'.'.join(map(str, fault['loc']))}: " if fault["loc"] else "")
        + str(fault["msg"]).removeprefix("Value error, ")
        for fault in faults
    ]
    return f"mirror {mirror!r}: " + "; ".join(lines)
