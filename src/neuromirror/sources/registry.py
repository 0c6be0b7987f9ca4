"""Sources by name: what a mirror file's ``source`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from pydantic import ValidationError

from neuromirror.model import ConfigurationError
from neuromirror.net import RequestPolicy, Session
from neuromirror.sources.options import SourceOptions
from neuromirror.sources.protocol import Source

ENTRY_POINT_GROUP: Final = "neuromirror.sources"


@cache
def source_kinds() -> Mapping[str, EntryPoint]:
    """Return the installed sources by name, as of the first call; nothing is imported."""
    return {found.name: found for found in sorted(entry_points(group=ENTRY_POINT_GROUP))}


def open_source(
    kind: str, mirror: str, options: Mapping[str, Any], request_policy: RequestPolicy | None = None
) -> Source:
    """The source of a mirror, with a session of its own that has ``manners``; no request is made.

    Raises :class:`~neuromirror.model.ConfigurationError` naming the mirror and the option.
    """
    kinds = source_kinds()
    if kind not in kinds:
        raise ConfigurationError(
            f"mirror {mirror!r}: there is no source {kind!r};"
            f" known are {', '.join(kinds) or 'none'}"
        )
    try:
        source_class = cast("type[Source]", kinds[kind].load())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"mirror {mirror!r}: the source {kind!r} ({kinds[kind].value}) cannot be loaded:"
            f" {error}; install what it needs"
        ) from error
    try:
        checked = source_class.Options.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigurationError(_format_errors(mirror, error)) from None
    session = checked.session() if isinstance(checked, SourceOptions) else Session()
    return source_class(
        mirror, checked, session if request_policy is None else session.with_policy(request_policy)
    )


def _format_errors(mirror: str, error: ValidationError) -> str:
    """All faults in one line each, without the values: one may be a password in a URL."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [
        f"option {'.'.join(map(str, fault['loc'])) or '(all)'}: "
        + str(fault["msg"]).removeprefix("Value error, ")
        for fault in faults
    ]
    return f"mirror {mirror!r}: " + "; ".join(lines)
