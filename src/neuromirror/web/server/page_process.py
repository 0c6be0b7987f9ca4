"""The main program of a process that makes pages, several at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from neuromirror.store import Store
from neuromirror.web.server.child_processes import (
    Cancellation,
    Reply,
    Request,
    connect_to_parent,
    encode,
    receive,
    reply_to,
)
from neuromirror.web.server.interpreter import prepare_interpreter
from neuromirror.web.site import Site, SiteSettings


def main() -> None:
    """Make pages until the other end of the socket is closed.

    The options are ``socket``, ``store`` and ``index`` (paths), and ``settings``, those of the
    site.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # sent to all processes of a service or terminal: the catalogue finishes its requests first
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    options = json.loads(sys.argv[1])

    from neuromirror.web.server.compression import compressing_send
    from neuromirror.web.server.dispatch import page_app

    settings = msgspec.convert(options["settings"], SiteSettings)
    site = Site(Store.open(Path(options["store"])), Path(options["index"]), settings)
    pages = page_app(site)

    async def compressed(scope: Any, receive: Any, send: Any) -> None:
        await pages(scope, receive, compressing_send(send, scope, site))

    prepare_interpreter()
    asyncio.run(_serve(compressed, options))


async def _serve(application: Any, options: dict[str, Any]) -> None:
    reader, writer = await connect_to_parent(options)
    decoder = msgspec.msgpack.Decoder(Request | Cancellation)
    making: dict[int, asyncio.Task[None]] = {}
    try:
        while True:
            message = decoder.decode(await receive(reader))
            if isinstance(message, Cancellation):
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


async def _reply(application: Any, request: Request, writer: asyncio.StreamWriter) -> None:
    try:
        reply = await reply_to(application, request)
    except Exception:
        # a defect
        logging.getLogger(__name__).exception("%s", request.path.decode("latin-1"))
        body = b"Internal server error.\n"
        reply = Reply(request.number, 500, [(b"content-type", b"text/plain; charset=utf-8")], body)
    writer.write(encode(reply))
    await writer.drain()
