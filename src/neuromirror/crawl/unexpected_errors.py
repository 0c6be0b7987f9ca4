"""Messages about errors that no code expects: defects of neuromirror, or of a source plugin."""

from __future__ import annotations

from pathlib import PurePath
from types import TracebackType

from msgspec import Struct

from neuromirror.net import redact
from neuromirror.sources import Source


class PluginSource(Struct, frozen=True):
    """A source that is not one of neuromirror's own.

    Attributes
    ----------
    name
        The source's name, as in the mirror file.
    module
        The module of its class.
    """

    name: str
    module: str


def find_plugin(name: str, source: Source) -> PluginSource | None:
    """Return the plugin to which a source belongs; None for one of neuromirror's own.

    Parameters
    ----------
    name
        The source's name, as in the mirror file.
    source
        The source.
    """
    module = type(source).__module__
    return None if _package(module) == "neuromirror" else PluginSource(name, module)


def describe_unexpected(error: BaseException, plugin: PluginSource | None = None) -> str:
    """Return an unexpected error as one line for a message, without secrets.

    Parameters
    ----------
    error
        The error. Its innermost frame is named by file and line, without folders.
    plugin
        The plugin that was in use, which is then named as the origin of the error.
    """
    text = f"unexpected {type(error).__name__}: {error}"
    innermost = called_from = None
    traceback = error.__traceback__
    while traceback is not None:
        innermost = traceback
        if plugin is not None and _is_in_plugin(traceback, plugin):
            called_from = traceback
        traceback = traceback.tb_next
    if innermost is not None:
        text += f" in {_position(innermost)}"
    if called_from is not None and called_from is not innermost:
        text += f", called from {_position(called_from)}"
    if plugin is None:
        return redact(f"{text}; please report this")
    source = f"the source {plugin.name!r} of {plugin.module}"
    if called_from is None:
        return redact(f"{text}; check the values that {source} returned")
    return redact(f"{text}; the error is in {source}")


def _is_in_plugin(traceback: TracebackType, plugin: PluginSource) -> bool:
    name = traceback.tb_frame.f_globals.get("__name__", "")
    return _package(str(name)) == _package(plugin.module)


def _position(traceback: TracebackType) -> str:
    file = PurePath(traceback.tb_frame.f_code.co_filename).name
    return f"{file}, line {traceback.tb_lineno}"


def _package(module: str) -> str:
    return module.partition(".")[0]
