"""Faults in the lists of a demo archive, for ``DemoArchive.fault``."""

import json
from collections.abc import Callable
from typing import Any

from werkzeug.wrappers import Response

from neuromirror_demo.faults import Exchange, Kind


def _changed(exchange: Exchange, change: Callable[[dict[str, Any]], object]) -> Response:
    response = exchange.respond()
    body = json.loads(response.get_data())
    change(body)
    response.set_data(json.dumps(body).encode())
    return response


def and_then(change: Callable[[], object]) -> Kind:
    """Change the archive after each response."""

    def changed(exchange: Exchange) -> Response:
        response = exchange.respond()
        change()
        return response

    return changed


def lost_page(exchange: Exchange) -> Response:
    """Link from page 1 to page 3."""
    return _changed(
        exchange,
        lambda body: body.update(next=body["next"] and body["next"].replace("page=2", "page=3")),
    )


def next_null(exchange: Exchange) -> Response:
    """End the list."""
    return _changed(exchange, lambda body: body.update(next=None))


def empty_list(exchange: Exchange) -> Response:
    """State that the list is empty."""
    return _changed(
        exchange, lambda body: body.update(count=0, next=None, previous=None, results=[])
    )


def duplicate_row(exchange: Exchange) -> Response:
    """Repeat the last row of the previous page, and omit the last one."""

    def repeat(body: dict[str, Any]) -> None:
        if body["previous"] is not None:
            before = json.loads(exchange.get(body["previous"]).get_data())["results"]
            body["results"] = [before[-1], *body["results"][:-1]]

    return _changed(exchange, repeat)
