"""How an address of the API is declared: once, for what it takes, what it replies, and its words.

What a declaration says is checked of each request here, and described by
:mod:`neuromirror.web.api.openapi`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from datasette.utils.asgi import Response

from neuromirror.web.request import BadRequestError, CatalogueRequest, view

ROOT = "/api/v1"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that an address takes in its query.

    With ``most`` it is a whole number from 1 to that, with ``words`` one of these, and any text
    otherwise; ``default`` stands for it where it is not given and ``needed`` says that it must be.
    ``names`` says that it names something that may not be there.
    """

    name: str
    description: str
    example: str = ""
    default: str = ""
    maximum: int = 0
    choices: tuple[str, ...] = ()
    required: bool = False
    names_resource: bool = False

    def validate(self, text: str) -> str:
        """A value that somebody gave; raises Wrong."""
        if self.maximum and not (
            text.isascii()
            and text.isdecimal()
            and len(text) < 10
            and 1 <= int(text) <= self.maximum
        ):
            raise BadRequestError(
                f"{self.name} is a whole number from 1 to {self.maximum}, not {text[:40]!r}"
            )
        if self.choices and text not in self.choices:
            raise BadRequestError(f"{self.name} is {' or '.join(self.choices)}, not {text[:40]!r}")
        if self.required and not text:
            raise BadRequestError(f"{self.name} is empty; it is {self.description}")
        return text


class Arguments:
    """The values that somebody gave, each as its parameter wants it."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def integer(self, name: str) -> int:
        """A whole number."""
        return int(self._values[name])

    def cursor(self, kind: type[_T], start: _T) -> _T:
        """Where the page before ended, as :func:`following` wrote it; raises Wrong."""
        text = self._values["after"]
        if not text:
            return start
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            return msgspec.json.decode(urlsafe_b64decode(padded), type=kind)
        except (ValueError, msgspec.DecodeError):
            raise BadRequestError(
                f"after is not {text[:40]!r}: take it from the 'next' of the page before"
            ) from None


def next_page_url(request: CatalogueRequest, path: str, cursor: object, **values: str | int) -> str:
    """The address of the page behind ``place``, with the values that are not empty.

    ``place`` is what the last row of a page is sorted by, so that what comes in between neither
    doubles a row nor hides one.
    """
    token = urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")
    parameters = {name: value for name, value in values.items() if value != ""}
    return f"{request.base_url}{ROOT}{path}?{urlencode({**parameters, 'after': token})}"


Handler = Callable[[CatalogueRequest, Arguments], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Operation:
    """An address of the API.

    ``path`` is its template below :data:`ROOT`, ``shape`` what it replies (one of
    :mod:`neuromirror.web.api.responses`), and the first line of ``answer``'s docstring its title.
    """

    path: str
    shape: Any
    handler: Handler
    parameters: tuple[Parameter, ...] = ()

    @property
    def path_names(self) -> tuple[str, ...]:
        """What stands in braces."""
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    @property
    def pattern(self) -> str:
        """The path as a regular expression, as Datasette takes it."""
        return re.sub(r"\{(\w+)\}", lambda found: _PATTERNS[found[1]], ROOT + self.path) + "$"

    def route(self) -> Any:
        """The view that checks what is given, answers, and says where the next page is."""

        @view
        async def respond(request: CatalogueRequest) -> Response:
            content = await self.handler(request, self._arguments(request))
            reply = request.json_response(content)
            if content.get("next"):
                reply.headers["link"] = f'<{content["next"]}>; rel="next"'
            return reply

        return respond

    def _arguments(self, request: CatalogueRequest) -> Arguments:
        known = {one.name: one for one in self.parameters}
        arguments = request.query_parameters()
        for name, values in arguments.items():
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise BadRequestError(f"this address takes no {name[:40]!r}; {takes}")
            if len(values) > 1:
                raise BadRequestError(f"{name} is given {len(values)} times; once is enough")
        for one in self.parameters:
            if one.required and one.name not in arguments:
                raise BadRequestError(f"{one.name} is missing: it is {one.description}")
        return Arguments(
            {
                name: one.validate(arguments[name][0]) if name in arguments else one.default
                for name, one in known.items()
            }
            | {name: request.path_parameter(name) for name in self.path_names}
        )


_PATTERNS = {"name": r"(?P<name>[^@?]+)", "version": r"(?P<version>[^/?]+)"}


def routes(operations: Sequence[Operation]) -> list[tuple[str, Any]]:
    """What Datasette is to call for each operation."""
    return [(one.pattern, one.route()) for one in operations]
