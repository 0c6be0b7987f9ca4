"""Routes of the pages, the more specific first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromirror.web.api import datasets as api
from neuromirror.web.gateway import pages as gateway
from neuromirror.web.pages import (
    dataset,
    diff,
    downloads,
    feeds,
    file,
    file_download,
    front,
    lock,
    machine_readable,
    preview,
    search,
    status,
    version,
    volume,
)

_NAME = r"(?P<name>[^@?]+)"
_VERSION = rf"{_NAME}@(?P<label>.+)"

ROUTES: Sequence[tuple[str, Any]] = (
    (r"/$", search.front),
    (r"/search$", search.search),
    (r"/find$", search.find),
    (rf"/dataset/{_VERSION}$", version.version),
    (rf"/dataset/{_NAME}$", dataset.dataset),
    (rf"/file/{_VERSION}$", file.file),
    (rf"/download/{_VERSION}$", file_download.download),
    (r"/at/(?P<address>.+)$", gateway.deliver),
    (rf"/checksums/{_VERSION}$", downloads.checksums),
    (rf"/cite/{_VERSION}$", downloads.citation),
    (rf"/croissant/{_VERSION}\.json$", machine_readable.croissant),
    (rf"/badge/{_VERSION}\.svg$", downloads.badge),
    (rf"/volume/{_VERSION}$", volume.volume),
    (rf"/slice/{_VERSION}\.png$", volume.picture),
    (rf"/preview/{_VERSION}$", preview.preview),
    (rf"/thumbnail/{_VERSION}$", preview.thumbnail),
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
    (r"/api$", status.api_page),
    (r"/feed\.atom$", feeds.global_feed),
    (r"/feed/(?P<name>.+)\.atom$", feeds.scoped_feed),
    (r"/sitemap\.xml$", feeds.sitemap),
    (r"/sitemap/(?P<number>[0-9]{1,6})\.xml$", feeds.sitemap_page),
    (r"/robots\.txt$", feeds.robots),
    (r"/harvest\.json$", machine_readable.harvest),
    (r"/opensearch\.xml$", machine_readable.open_search),
    *api.ROUTES,
    (r"/index(?:[/.].*)?$", status.removed_tables),
    (r"/(?P<rest>.+)$", status.not_found),
)
