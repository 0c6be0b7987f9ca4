"""OpenAPI 3.1 document of the API, generated from its operations."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec

from neuromirror import __version__
from neuromirror.web.api import responses
from neuromirror.web.api.operations import ROOT, Operation, Parameter

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
