"""The main program of a Datasette process, which serves one request at a time."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import resource
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from neuromirror.index import CANNED_QUERIES, SandboxIndex
from neuromirror.model.resource_limits import limit_resources
from neuromirror.store import Store
from neuromirror.web.server.child_processes import (
    Reply,
    Request,
    connect_to_parent,
    encode,
    receive,
    reply_to,
)
from neuromirror.web.server.interpreter import limit_arenas

if TYPE_CHECKING:
    from datasette.app import Datasette

_T = TypeVar("_T")

MEMORY = 1 << 30
"""Limit of the address space in bytes."""
_RESTART_BYTES = 400 << 20
"""Memory in bytes beyond which the process is replaced."""
_MAX_FILE_BYTES = 64 << 20
"""Maximum size of a written file: SQLite's shared memory file, which is small."""
_MAX_REPLY_BYTES = 16 << 20

_SETTINGS = {
    "sql_time_limit_ms": 1000,
    "max_returned_rows": 1000,
    "default_page_size": 50,
    "num_sql_threads": 0,
    "allow_download": False,
    "allow_csv_stream": False,
    "suggest_facets": False,
    "facet_time_limit_ms": 200,
    "template_debug": False,
    "trace_debug": False,
    "default_cache_ttl": 0,
}

_FORMULA_PREFIXES = (
    *("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"),
    # spreadsheets ignore these and evaluate the rest
    *("\ufeff", "\0"),
)
"""Characters at which a spreadsheet recognizes a formula."""
_CELL_WITHIN: Final = re.compile(rf"([;\t][\s\"]*)(?=[{re.escape(''.join(_FORMULA_PREFIXES))}])")
"""The start of a formula after a character that a spreadsheet may take as a separator."""


def main() -> None:
    """Run a Datasette process: serve requests from a socket until its other end is closed."""
    options = json.loads(sys.argv[1])
    limit_arenas(1)
    limit_resources(memory=MEMORY, file_bytes=_MAX_FILE_BYTES)
    application = datasette_app(
        Path(options["store"]),
        Path(options["index"]),
        title=options["title"],
        address=options["address"],
        sql=options["sql"],
    )
    try:
        asyncio.run(_serve_requests(application, options))
    except (EOFError, OSError):
        return  # the parent closed the socket


def datasette_app(store: Path, index_path: Path, *, title: str, address: str, sql: bool) -> Any:
    """Return Datasette for the index at a path, as an ASGI application."""
    _import_datasette()
    from datasette.app import Datasette
    from datasette.plugins import pm

    from neuromirror.web import datasette_hooks
    from neuromirror.web.site import Site, SiteSettings

    if not pm.is_registered(datasette_hooks):  # if its entry point is not installed
        pm.register(datasette_hooks)
    _escape_csv_formulas()
    _refuse_failed_csv()
    datasette = Datasette(
        [],
        metadata={"title": title, "databases": {"index": {"queries": CANNED_QUERIES}}},
        settings={**_SETTINGS, "default_allow_sql": sql},
    )
    settings = SiteSettings(title=title, address=address, cutouts=False)
    datasette_hooks.SITES[datasette] = Site(Store.open(store), index_path, settings)
    _add_database(datasette, index_path)
    return datasette.app()


def _import_datasette() -> None:
    """Import Datasette without Pint and httpx.

    Its pages use neither: Pint is for columns with units, httpx for plugins that send requests to
    Datasette. They would be half of the start of a process; where dask is installed, Pint would
    import it with all of SciPy.
    """
    pint, httpx = ModuleType("datasette.vendored.pint"), ModuleType("httpx")
    pint.UnitRegistry = SimpleNamespace  # type: ignore[attr-defined]
    replaced = {one.__name__: one for one in (pint, httpx) if one.__name__ not in sys.modules}
    sys.modules.update(replaced)
    try:
        import_module("datasette.app")
    finally:
        for name in replaced:
            del sys.modules[name]


def _add_database(datasette: Datasette, index_path: Path) -> None:
    from datasette.database import Database

    class VisitorDatabase(Database):  # type: ignore[misc]
        """The index through restricted connections, reopened when it is replaced."""

        def __init__(self) -> None:
            super().__init__(datasette, path=str(index_path), is_mutable=True)
            self._index = SandboxIndex(
                index_path, lambda made: datasette._prepare_connection(made, "index")
            )

        async def execute_fn(self, fn: Callable[[Any], _T]) -> _T:
            return self._index.run(fn)

        async def execute(self, sql: str, params: Any = None, **named: Any) -> Any:
            # otherwise visitors' statements are written to stderr
            return await super().execute(sql, params, **{**named, "log_sql_errors": False})

        async def attached_databases(self) -> list[Any]:
            return []

    datasette.add_database(VisitorDatabase(), name="index")


def _refuse_failed_csv() -> None:
    """Make Datasette respond with an error where it would send CSV without rows."""
    from datasette.views.base import DatasetteError
    from datasette.views.database import QueryView

    inner = QueryView.data

    async def data(self: Any, request: Any, *given: Any, **named: Any) -> Any:
        found = await inner(self, request, *given, **named)
        if request.url_vars.get("format") == "csv" and isinstance(found, tuple):
            error = found[0].get("error")
            if error:
                raise DatasetteError(error, status=400)
        return found

    QueryView.data = data


def _escape_csv_formulas() -> None:
    """Make Datasette write CSV without formulas."""
    from datasette.views import base

    def writer(to: Any) -> Any:
        inner = csv.writer(to)
        return SimpleNamespace(writerow=lambda row: inner.writerow(map(escape_cell, row)))

    base.csv = SimpleNamespace(writer=writer)


def escape_cell(value: Any) -> Any:
    """Return a CSV value with a quote before text that a spreadsheet would evaluate."""
    if not isinstance(value, str):
        return value
    first = value[:1] if value.startswith(_FORMULA_PREFIXES) else ""
    rest = _CELL_WITHIN.sub(r"\1'", value[len(first) :])
    return f"'{first}{rest}" if first else rest


async def _serve_requests(application: Any, options: dict[str, Any]) -> None:
    reader, writer = await connect_to_parent(options)
    decoder = msgspec.msgpack.Decoder(Request)
    is_last = False
    while not is_last:
        reply = await _respond(application, decoder.decode(await receive(reader)))
        is_last = _memory() >= _RESTART_BYTES
        writer.write(encode(msgspec.structs.replace(reply, is_last=is_last)))
        await writer.drain()


def _memory() -> int:
    """Return the resident memory of this process in bytes.

    The peak of ``getrusage`` includes the parent's memory before exec, which may be large.
    """
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def _respond(application: Any, request: Request) -> Reply:
    try:
        reply = await reply_to(application, request, _MAX_REPLY_BYTES)
    except MemoryError:
        reply = _TOO_LONG
    return reply if len(reply.body) <= _MAX_REPLY_BYTES else _TOO_LONG


_TOO_LONG: Final = Reply(
    1,
    400,
    [(b"content-type", b"text/plain; charset=utf-8")],
    b"The response would be too large: select fewer rows or columns.\n",
)
