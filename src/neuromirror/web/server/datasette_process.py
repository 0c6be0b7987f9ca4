"""The main program of a Datasette process, which serves one request at a time."""

from __future__ import annotations

import asyncio
import csv
import ctypes
import json
import re
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from neuromirror.index import CANNED_QUERIES, SandboxIndex
from neuromirror.web.server.datasette_pool import receive, send

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
_ONE_ARENA = -8, 1
"""M_ARENA_MAX of mallopt(3)."""

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
    _set_resource_limits()
    connection = socket.socket(fileno=options["socket"])
    connection.set_inheritable(False)
    application = datasette_app(
        Path(options["store"]),
        Path(options["index"]),
        title=options["title"],
        address=options["address"],
        sql=options["sql"],
    )
    try:
        send(connection, b"ready")
        asyncio.run(_serve_requests(application, connection))
    except (EOFError, OSError):
        return  # the parent closed the socket


def _set_resource_limits() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(*_ONE_ARENA)
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def datasette_app(store: Path, index_path: Path, *, title: str, address: str, sql: bool) -> Any:
    """Return Datasette for the index at a path, as an ASGI application."""
    from neuromirror.store import Store
    from neuromirror.web.site import attach_site, import_pint_without_dask

    import_pint_without_dask()
    from datasette.app import Datasette
    from datasette.plugins import pm

    from neuromirror.web import datasette_hooks

    if not pm.is_registered(datasette_hooks):
        pm.register(datasette_hooks)
    _escape_csv_formulas()
    _refuse_failed_csv()
    datasette = Datasette(
        [],
        metadata={"title": title, "databases": {"index": {"queries": CANNED_QUERIES}}},
        settings={**_SETTINGS, "default_allow_sql": sql},
    )
    attach_site(datasette, Store.open(store), index_path, title=title, address=address)
    _add_database(datasette, index_path)
    return datasette.app()


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


async def _serve_requests(application: Any, connection: socket.socket) -> None:
    is_reusable = True
    while is_reusable:
        request = json.loads(receive(connection))
        status, headers, body = await _respond(application, request)
        is_reusable = _memory() < _RESTART_BYTES
        head = {"status": status, "headers": headers, "is_reusable": is_reusable}
        send(connection, json.dumps(head).encode())
        send(connection, body)


def _memory() -> int:
    """Return the resident memory of this process in bytes.

    The peak of ``getrusage`` includes the parent's memory before exec, which may be large.
    """
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def _respond(application: Any, request: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the reply to a request."""
    path = request["path"]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request["method"],
        "scheme": request["scheme"],
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": request["query"].encode("latin-1"),
        "root_path": "",
        "headers": [(b"host", request["host"].encode("latin-1"))],
    }
    status, headers, body = 500, {}, bytearray()

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def sent(message: dict[str, Any]) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
        elif len(body) <= _MAX_REPLY_BYTES:
            body.extend(message.get("body", b""))

    try:
        await application(scope, nothing, sent)
        whole = len(body) <= _MAX_REPLY_BYTES
    except MemoryError:
        whole = False
    if not whole:
        body.clear()
        return 400, {"content-type": "text/plain; charset=utf-8"}, _TOO_LONG
    return status, headers, bytes(body)


_TOO_LONG = b"The response would be too large: select fewer rows or columns.\n"
