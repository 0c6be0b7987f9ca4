"""Declaration of API operations: path, parameters, response shape and handler.

Requests are validated against the declaration, and an OpenAPI 3.1 document describes it.
"""

from __future__ import annotations

import inspect
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from starlette.responses import Response
from starlette.routing import Route

from neuromirror import __version__
from neuromirror.index import Index, VersionRow
from neuromirror.index.shapes import Answer
from neuromirror.model.validation import analysed_type
from neuromirror.web.api import responses
from neuromirror.web.request import BadRequestError, CatalogueRequest, parse_integer, view

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
        if self.maximum:
            parse_integer(self.name, text, self.maximum)
        if self.choices and text not in self.choices:
            raise BadRequestError(
                f"{self.name} must be {' or '.join(self.choices)}, not {text[:40]!r}"
            )
        if self.required and not text:
            raise BadRequestError(f"{self.name} is empty; expected: {self.description}")
        return text


class Call:
    """A request for an operation, with its validated arguments: a mapping of names to texts."""

    def __init__(self, request: CatalogueRequest, values: Mapping[str, Sequence[str]]) -> None:
        self.request, self._values = request, values

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def all(self, name: str) -> list[str]:
        """Return the non-empty values of a repeatable argument, each once."""
        return [value for value in dict.fromkeys(self._values[name]) if value]

    @property
    def limit(self) -> int:
        """The maximum number of items per page."""
        return int(self["limit"])

    def cursor(self, kind: type[_T], start: _T) -> _T:
        """Return the cursor that :meth:`next_url` encoded; raises BadRequestError."""
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

    def next_url(self, path: str, cursor: object, **values: str | int | Sequence[str]) -> str:
        """Return the URL of the next page of the result.

        Parameters
        ----------
        path
            The path below the root of the API.
        cursor
            The end of this page, which :meth:`cursor` returns for the next one.
        values
            The other parameters; empty ones are omitted.
        """
        token = urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")
        parameters = {name: value for name, value in values.items() if value != ""}
        query = urlencode({**parameters, "after": token}, doseq=True)
        return f"{self.request.site_url}{ROOT}{path}?{query}"

    def page(
        self, rows: Iterable[_T], path: str, cursor: Callable[[_T], object], **values: str
    ) -> tuple[list[_T], str | None]:
        """Return the rows of this page, and the URL of the next one if there are more.

        Parameters
        ----------
        rows
            The rows, one more than the limit if there are more.
        path, values
            As those of :meth:`next_url`.
        cursor
            Returns the cursor after a row.
        """
        found = list(islice(rows, self.limit + 1))
        if len(found) <= self.limit:
            return found, None
        end = cursor(found[self.limit - 1])
        return found[:-1], self.next_url(path, end, **values, limit=self.limit)


Handler = Callable[[Call], Awaitable[Answer]]


def of_index(answer: Callable[[Call, Index], Answer]) -> Handler:
    """Return a handler whose answer is made in a query of the index."""

    @wraps(answer)
    async def handler(call: Call) -> Answer:
        return await call.request.query_index(lambda index: answer(call, index))

    return handler


def of_version(answer: Callable[[Call, Index, VersionRow], Answer]) -> Handler:
    """Return a handler whose answer about a version is made in a query of the index."""

    @of_index
    @wraps(answer)
    def handler(call: Call, index: Index) -> Answer:
        return answer(call, index, index.versions.resolve(call["name"], call["version"]))

    return handler


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

    def route(self, path: str | None = None) -> Route:
        """Return a route that validates the arguments, responds, and links to the next page.

        Its path is by default that of the operation.
        """

        @view
        async def respond(request: CatalogueRequest) -> Response:
            content = await self.handler(self._call(request))
            reply = request.json_response(content)
            if following := getattr(content, "next", None):
                reply.headers["link"] = f'<{following}>; rel="next"'
            return reply

        quoted = re.sub(r"\{(\w+)\}", lambda found: _PATH_PARTS[found[1]], self.path)
        return Route(ROOT + quoted if path is None else path, respond)

    def _call(self, request: CatalogueRequest) -> Call:
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
        return Call(
            request,
            {
                name: [one.validate(text) for text in arguments.get(name, ())] or [one.default]
                for name, one in known.items()
            }
            | {name: [request.path_parameter(name)] for name in self.path_names},
        )


_PATH_PARTS = {"name": "{name:name}", "version": "{version:segment}"}


_REFERENCE = "#/components/schemas/{name}"
_PROBLEMS = {
    "400": "A parameter is invalid.",
    "404": "Not found.",
    "410": "The dataset was withdrawn; `detail` has the time and the reason.",
    "429": "Your address exceeds the rate limit for this kind of request; see `Retry-After`.",
    "503": "The index is being written or rebuilt, or is too busy; retry later.",
}
_PATH_PARAMETERS = {
    "name": ("A dataset, as `<mirror>:<id>`.", "dandi:000027"),
    "version": (
        "A label, `latest`, `draft`, or the first digits of a commit's id; the response contains "
        "the label.",
        "latest",
    ),
}
_DESCRIPTION = """\
Read-only access to the catalogue, public and with CORS enabled. `HEAD` is supported wherever
`GET` is.

Lists are paginated: `next` (and the header `Link` with `rel="next"`) is the URL of the next page,
null on the last one. `after` is an opaque cursor. Entries recorded between two requests neither
duplicate nor hide rows.

Every response has an `ETag`; send it as `If-None-Match` to get a 304 without a body if nothing
changed. Errors are `application/problem+json` (RFC 9457).

File content is outside of this API: `at` of a version and of a file is its URL in the gateway,
`/at/<dataset>@<version>/<path>`, for `GET` and `HEAD` with `Range`, `If-None-Match`, `If-Match` and
`If-Range`. An address that ends with `/` lists a folder; `?format=json` returns a folder, or the
description of a file, as JSON.
"""


def openapi_document(operations: Sequence[Operation], title: str, address: str) -> dict[str, Any]:
    """Return the OpenAPI document of the operations, for the site at the URL ``address``."""
    references, definitions = msgspec.json.schema_components(
        [*(one.shape for one in operations), responses.ProblemDetails], ref_template=_REFERENCE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{title}: the catalogue's API",
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
            "x-neuromirror": __version__,
        },
        "servers": [{"url": address + ROOT}],
        "paths": {
            one.path: {"get": _operation(one, references[number])}
            for number, one in enumerate(operations)
        },
        "components": {
            "schemas": definitions,
            "headers": {
                "ETag": {
                    "description": "Changes with the response.",
                    "required": True,
                    "schema": {"type": "string", "pattern": '^W/"[0-9a-f]{32}"$'},
                },
                "Link": {
                    "description": 'The next page, as `<address>; rel="next"`.',
                    "schema": {"type": "string", "pattern": '^<[^>]+>; rel="next"$'},
                },
            },
            "responses": {
                code: {
                    "description": text,
                    "content": {
                        "application/problem+json": {"schema": references[len(operations)]}
                    },
                }
                for code, text in _PROBLEMS.items()
            },
        },
    }


def _operation(one: Operation, schema: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = inspect.cleandoc(one.handler.__doc__ or "").partition("\n")
    etag = {"ETag": {"$ref": "#/components/headers/ETag"}}
    headers = dict(etag)
    if "next" in one.shape.__struct_fields__:
        headers["Link"] = {"$ref": "#/components/headers/Link"}
    missing = one.path_names or any(known.names_resource for known in one.parameters)
    codes = [code for code in _PROBLEMS if missing or code not in ("404", "410")]
    return {
        "operationId": getattr(one.handler, "__name__", ""),
        "summary": summary.rstrip("."),
        **({"description": rest.strip()} if rest.strip() else {}),
        "parameters": [
            *(_path_parameter(name) for name in one.path_names),
            *(_query_parameter(known) for known in one.parameters),
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "ETags of responses that you have, or `*`.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {
                "description": summary,
                "headers": headers,
                "content": {"application/json": {"schema": schema}},
            },
            "304": {"description": "The response has not changed.", "headers": etag},
            **{code: {"$ref": f"#/components/responses/{code}"} for code in codes},
        },
    }


def _path_parameter(name: str) -> dict[str, Any]:
    about, example = _PATH_PARAMETERS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": about,
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    }


def _query_parameter(one: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if one.maximum:
        schema = {"type": "integer", "minimum": 1, "maximum": one.maximum}
    elif one.choices:
        schema["enum"] = list(one.choices)
    elif one.required:
        schema["minLength"] = 1
    if one.default:
        schema["default"] = int(one.default) if one.maximum else one.default
    if one.repeatable:
        schema = {"type": "array", "items": schema}
    parameter: dict[str, Any] = {
        "name": one.name,
        "in": "query",
        "required": one.required,
        "description": f"{one.description[0].upper()}{one.description[1:]}.",
        "schema": schema,
    }
    if one.example:
        parameter["example"] = [one.example] if one.repeatable else one.example
    return parameter
