"""Declaration of API operations: path, parameters, response shape and handler.

Requests are validated against the declaration, and :mod:`neuromirror.web.api.openapi` describes it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from datasette.utils.asgi import Response
from msgspec import Struct

from neuromirror.index.shapes import Answer
from neuromirror.model.struct_types import analysed_type
from neuromirror.web.request import BadRequestError, CatalogueRequest, view

ROOT = "/api/v1"
_T = TypeVar("_T")


class Parameter(Struct, frozen=True):
    """A query parameter of an operation.

    Attributes
    ----------
    name, description, example
        The name, and texts for the OpenAPI document.
    default
        The value if the parameter is missing, unless it is ``required``.
    maximum
        If not 0, the value is a whole number from 1 to this one.
    choices
        If not empty, the value is one of these.
    required
        Whether a request without it is refused.
    names_resource
        Whether the operation responds 404 if the named thing does not exist.
    repeatable
        Whether it may be given several times.
    """

    name: str
    description: str
    example: str = ""
    default: str = ""
    maximum: int = 0
    choices: tuple[str, ...] = ()
    required: bool = False
    names_resource: bool = False
    repeatable: bool = False

    def validate(self, text: str) -> str:
        """Return a valid value; raises BadRequestError."""
        if self.maximum and not (
            text.isascii()
            and text.isdecimal()
            and len(text) < 10
            and 1 <= int(text) <= self.maximum
        ):
            raise BadRequestError(
                f"{self.name} must be a whole number from 1 to {self.maximum}, not {text[:40]!r}"
            )
        if self.choices and text not in self.choices:
            raise BadRequestError(
                f"{self.name} must be {' or '.join(self.choices)}, not {text[:40]!r}"
            )
        if self.required and not text:
            raise BadRequestError(f"{self.name} is empty; expected: {self.description}")
        return text


class Arguments:
    """The validated arguments of a request: a mapping of names to texts, with conversions."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def all(self, name: str) -> list[str]:
        """Return the non-empty values of a repeatable argument, each once."""
        return [one for one in dict.fromkeys(self._values[name]) if one]

    def integer(self, name: str) -> int:
        """Return an argument as a number."""
        return int(self[name])

    def cursor(self, kind: type[_T], start: _T) -> _T:
        """Return the cursor that :func:`next_page_url` encoded; raises BadRequestError."""
        text = self["after"]
        if not text:
            return start
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            return msgspec.json.decode(urlsafe_b64decode(padded), type=analysed_type(kind))
        except (ValueError, msgspec.DecodeError):
            raise BadRequestError(
                f"after={text[:40]!r} is invalid; copy it from 'next' of the previous page"
            ) from None


def next_page_url(
    request: CatalogueRequest, path: str, cursor: object, **values: str | int | Sequence[str]
) -> str:
    """Return the URL of the next page of an operation's result.

    ``path`` is the path below the root of the API, ``values`` are the other arguments of the
    request (empty ones are left out). ``cursor`` is the sort key of the last row of the page, so
    that concurrent insertions neither duplicate nor hide rows.
    """
    token = urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")
    parameters = {name: value for name, value in values.items() if value != ""}
    query = urlencode({**parameters, "after": token}, doseq=True)
    return f"{request.base_url}{ROOT}{path}?{query}"


Handler = Callable[[CatalogueRequest, Arguments], Awaitable[Answer]]


class Operation(Struct, frozen=True):
    """An operation of the API.

    ``path`` is its template below :data:`ROOT`, ``shape`` the type of its response (see
    :mod:`neuromirror.web.api.responses`). The docstring of ``handler`` is its description.
    """

    path: str
    shape: Any
    handler: Handler
    parameters: tuple[Parameter, ...] = ()

    @property
    def path_names(self) -> tuple[str, ...]:
        """Names of the path parameters."""
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    @property
    def pattern(self) -> str:
        """The path as a regular expression, for Datasette."""
        return re.sub(r"\{(\w+)\}", lambda found: _PATTERNS[found[1]], ROOT + self.path) + "$"

    def route(self) -> Any:
        """Return a view that validates the arguments, responds, and links to the next page."""

        @view
        async def respond(request: CatalogueRequest) -> Response:
            content = await self.handler(request, self._arguments(request))
            reply = request.json_response(content)
            if following := getattr(content, "next", None):
                reply.headers["link"] = f'<{following}>; rel="next"'
            return reply

        return respond

    def _arguments(self, request: CatalogueRequest) -> Arguments:
        known = {one.name: one for one in self.parameters}
        arguments = request.query_parameters()
        for name, values in arguments.items():
            if name not in known:
                allowed = f"the parameters are {', '.join(known)}" if known else "it has none"
                raise BadRequestError(f"unknown parameter {name[:40]!r}; {allowed}")
            if len(values) > 1 and not known[name].repeatable:
                raise BadRequestError(f"{name} is given {len(values)} times instead of once")
        for one in self.parameters:
            if one.required and one.name not in arguments:
                raise BadRequestError(f"{one.name} is missing; expected: {one.description}")
        return Arguments(
            {
                name: [one.validate(text) for text in arguments.get(name, ())] or [one.default]
                for name, one in known.items()
            }
            | {name: [request.path_parameter(name)] for name in self.path_names}
        )


_PATTERNS = {"name": r"(?P<name>[^@?]+)", "version": r"(?P<version>[^/?]+)"}


def routes(operations: Sequence[Operation]) -> list[tuple[str, Any]]:
    """Return the routes of the operations for Datasette: pairs of a pattern and a view."""
    return [(one.pattern, one.route()) for one in operations]
