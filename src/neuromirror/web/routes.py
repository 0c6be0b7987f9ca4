"""Routes of the pages, the more specific first; Datasette serves its style sheets only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromirror.web.api import datasets as api
from neuromirror.web.pages import (
    dataset,
    diff,
    downloads,
    feeds,
    file,
    front,
    lock,
    search,
    status,
    tables,
    version,
    volume,
)

_NAME = r"(?P<name>[^@?]+)"
_VERSION = rf"{_NAME}@(?P<label>.+)"

ROUTES: Sequence[tuple[str, Any]] = (
    (r"/$", search.front),
    (r"/find$", search.find),
    (rf"/dataset/{_VERSION}$", version.version),
    (rf"/dataset/{_NAME}$", dataset.dataset),
    (rf"/file/{_VERSION}$", file.file),
    (rf"/download/{_VERSION}$", file.download),
    (rf"/checksums/{_VERSION}$", downloads.checksums),
    (rf"/cite/{_VERSION}$", downloads.citation),
    (rf"/badge/{_VERSION}\.svg$", downloads.badge),
    (rf"/volume/{_VERSION}$", volume.volume),
    (rf"/slice/{_VERSION}\.png$", volume.picture),
    (rf"/cutout/{_VERSION}$", volume.cut),
    (r"/diff$", diff.diff),
    (r"/lock$", lock.lock),
    (r"/lock/datasets\.lock$", lock.lock_file),
    (r"/lock/datasets\.lock\.zip$", lock.lock_archive),
    (r"/lock/(?P<list>files\.[a-z0-9]+)$", lock.file_list),
    (r"/events$", status.events),
    (r"/mirrors$", status.mirrors),
    (r"/changes$", front.changes),
    (r"/help$", status.help_page),
    (r"/feed\.atom$", feeds.global_feed),
    (r"/feed/(?P<name>.+)\.atom$", feeds.scoped_feed),
    (r"/sitemap\.xml$", feeds.sitemap),
    (r"/sitemap/(?P<number>[0-9]{1,6})\.xml$", feeds.sitemap_page),
    (r"/robots\.txt$", feeds.robots),
    *api.ROUTES,
    (r"/index(?:[/.].*)?$", tables.tables),
    (r"/(?!-/|favicon\.ico$)(?P<rest>.+)$", status.not_found),
)
