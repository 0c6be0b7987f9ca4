"""Lists of datasets, versions and archives as CSV, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from neuromirror.web.request import BadRequestError, CatalogueRequest

_FORMULA_PREFIXES: Final = (
    *("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"),
    # spreadsheets ignore these and evaluate the rest
    *("\ufeff", "\0"),
)
"""Characters at which a spreadsheet recognizes a formula."""
_CELL_WITHIN: Final = re.compile(rf"([;\t][\s\"]*)(?=[{re.escape(''.join(_FORMULA_PREFIXES))}])")
"""The start of a formula after a character that a spreadsheet may take as a separator."""


def is_csv(request: CatalogueRequest) -> bool:
    """Return whether a request is for CSV (``format=csv``) instead of a page."""
    form = request.query_parameter("format")
    if form not in ("", "csv"):
        raise BadRequestError(f"format must be csv, not {form[:40]!r}")
    return form == "csv"


def csv_response(
    request: CatalogueRequest, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> Response:
    """Return a CSV file with these columns of the rows; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    reply = request.etag_response(text.getvalue(), "text/csv; charset=utf-8")
    reply.headers["content-disposition"] = f'attachment; filename="{name}.csv"'
    return reply


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        value = "; ".join(value)
    return escape_cell(value)


def escape_cell(value: Any) -> Any:
    """Return a CSV value with a quote before text that a spreadsheet would evaluate."""
    if not isinstance(value, str):
        return value
    first = value[:1] if value.startswith(_FORMULA_PREFIXES) else ""
    rest = _CELL_WITHIN.sub(r"\1'", value[len(first) :])
    return f"'{first}{rest}" if first else rest
