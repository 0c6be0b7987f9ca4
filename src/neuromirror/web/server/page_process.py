"""The main program of a process that makes pages, several at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from neuromirror.store import Store
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewaySettings
from neuromirror.web.server.interpreter import prepare_interpreter
from neuromirror.web.server.page_pool import (
    READY,
    PageCancellation,
    PageReply,
    PageRequest,
    encode,
    receive,
)


def main() -> None:
    """Make pages until the other end of the socket is closed.

    The options are ``socket``, ``store`` and ``index`` (paths), ``title``, ``address``,
    ``archives`` and ``cutouts`` as those of :func:`~neuromirror.web.site.catalogue_app`,
    ``gateway`` with the modes, and ``processes``, among which limits are divided.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # sent to all processes of a service or terminal: the catalogue finishes its requests first
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    options = json.loads(sys.argv[1])
    connection = socket.socket(fileno=options["socket"])
    connection.set_inheritable(False)
    application = _page_app(options)
    prepare_interpreter()
    asyncio.run(_serve(application, connection))


def _page_app(options: dict[str, Any]) -> Any:
    """Return the pages as an ASGI application."""
    from neuromirror.web.site import import_pint_without_dask

    import_pint_without_dask()
    from datasette.app import Datasette

    from neuromirror.web.server.compression import compressing_send
    from neuromirror.web.server.dispatch import dispatch_middleware
    from neuromirror.web.server.http_files import send_text
    from neuromirror.web.site import attach_site, find_site

    datasette = Datasette([], metadata={"title": options["title"]})
    attach_site(
        datasette,
        Store.open(Path(options["store"])),
        Path(options["index"]),
        title=options["title"],
        address=options["address"],
        cutouts=options["cutouts"],
        archives=options["archives"],
        gateway=GatewaySettings(msgspec.convert(options["gateway"], GatewayModes)),
        processes=options["processes"],
    )
    site = find_site(datasette)
    assert site is not None  # attached

    async def unknown(_: Any, receive: Any, send: Any) -> None:
        await send_text(send, 404, "Page not found.")

    pages = dispatch_middleware(unknown, datasette)

    async def compressed(scope: Any, receive: Any, send: Any) -> None:
        await pages(scope, receive, compressing_send(send, scope, site))

    return compressed


async def _serve(application: Any, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    decoder = msgspec.msgpack.Decoder(PageRequest | PageCancellation)
    making: dict[int, asyncio.Task[None]] = {}
    writer.write(encode(PageReply(READY)))
    try:
        while True:
            message = decoder.decode(await receive(reader))
            if isinstance(message, PageCancellation):
                if (task := making.pop(message.number, None)) is not None:
                    task.cancel()
                continue
            task = asyncio.ensure_future(_reply(application, message, writer))
            making[message.number] = task
            task.add_done_callback(partial(_forget, making, message.number))
    except (EOFError, OSError):
        return  # the catalogue closed the socket
    finally:
        for task in list(making.values()):
            task.cancel()


def _forget(making: dict[int, asyncio.Task[None]], number: int, _: object) -> None:
    making.pop(number, None)


async def _reply(application: Any, request: PageRequest, writer: asyncio.StreamWriter) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
    }
    status, headers, body = 500, list[tuple[bytes, bytes]](), bytearray()

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def sent(message: dict[str, Any]) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            body.extend(message.get("body", b""))

    try:
        await application(scope, nothing, sent)
    except Exception:
        # a defect; the 500 that the application sent is the reply
        logging.getLogger(__name__).exception("%s", scope["path"])
    writer.write(encode(PageReply(request.number, status, headers, bytes(body))))
    await writer.drain()
