"""Sources by name: what a mirror file's ``source`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from pydantic import ValidationError

from neuromirror.model import ConfigurationError
from neuromirror.net import Manners, Session
from neuromirror.sources.options import SourceOptions
from neuromirror.sources.protocol import Source

GROUP: Final = "neuromirror.sources"


@cache
def source_kinds() -> Mapping[str, EntryPoint]:
    """Return the installed sources by name, as of the first call; nothing is imported."""
    return {found.name: found for found in sorted(entry_points(group=GROUP))}


def open_source(
    kind: str, mirror: str, options: Mapping[str, Any], manners: Manners | None = None
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
        made = cast("type[Source]", kinds[kind].load())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"mirror {mirror!r}: the source {kind!r} ({kinds[kind].value}) cannot be loaded:"
            f" {error}; install what it needs"
        ) from error
    try:
        checked = made.Options.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigurationError(_told(mirror, error)) from None
    session = checked.session() if isinstance(checked, SourceOptions) else Session()
    return made(mirror, checked, session if manners is None else session.politely(manners))


def _told(mirror: str, error: ValidationError) -> str:
    """All faults in one line each, without the values: one may be a password in a URL."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    told = [
        f"option {'.'.join(map(str, fault['loc'])) or '(all)'}: "
        + str(fault["msg"]).removeprefix("Value error, ")
        for fault in faults
    ]
    return f"mirror {mirror!r}: " + "; ".join(told)
