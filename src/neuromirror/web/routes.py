"""Which page answers which address; the more particular ones first.

What is left to Datasette is the index's tables, and its style sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromirror.web import api, feeds, pages

_NAME = r"(?P<name>[^@?]+)"
_VERSION = rf"{_NAME}@(?P<label>.+)"

ROUTES: Sequence[tuple[str, Any]] = (
    (r"/$", pages.front),
    (r"/find$", pages.find),
    (rf"/dataset/{_VERSION}$", pages.version),
    (rf"/dataset/{_NAME}$", pages.dataset),
    (rf"/file/{_VERSION}$", pages.file),
    (rf"/sums/{_VERSION}$", pages.sums),
    (rf"/cite/{_VERSION}$", pages.citation),
    (rf"/badge/{_VERSION}\.svg$", pages.badge),
    (r"/diff$", pages.diff),
    (r"/events$", pages.events),
    (r"/mirrors$", pages.mirrors),
    (r"/feed\.atom$", feeds.everything),
    (r"/feed/(?P<name>.+)\.atom$", feeds.some),
    (r"/sitemap\.xml$", feeds.sitemap),
    (r"/robots\.txt$", feeds.robots),
    (r"/api/v1/?$", api.start),
    (r"/api/v1/datasets$", api.datasets),
    (rf"/api/v1/datasets/{_VERSION}/files$", api.files),
    (rf"/api/v1/datasets/{_VERSION}$", api.version),
    (rf"/api/v1/datasets/{_NAME}$", api.dataset),
    (r"/api/v1/find$", api.find),
    (r"/api/v1/events$", api.events),
    (r"/api/v1/mirrors$", api.mirrors),
    (r"/(?!index(?:[/.]|$)|-/)(?P<rest>.+)$", pages.unknown),
)
