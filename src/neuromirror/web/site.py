"""The site of a store: the objects that all pages of the catalogue share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from neuromirror.store import Store
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.cutouts import CutoutService
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewayService
from neuromirror.web.lookups import ExampleSearches
from neuromirror.web.previews import PreviewService
from neuromirror.web.rate_limits import RequestLimiter, parse_limits
from neuromirror.web.readmes import ReadmeService
from neuromirror.web.rendering import operator_variables


class SiteSettings(Struct, frozen=True):
    """The settings of a site.

    Attributes
    ----------
    title, address
        Title and public URL of the site.
    cutouts
        Whether visitors may request voxels, previews and small files, and READMEs be read, from
        upstream.
    archives
        Titles of archives by the name of their mirror.
    modes
        How the content of files is delivered below ``/at/``; by default by redirects.
    """

    title: str = "neuromirror"
    address: str = ""
    cutouts: bool = True
    archives: Mapping[str, str] = field(default_factory=dict)
    modes: GatewayModes = field(default_factory=GatewayModes)


class Site:
    """The objects that all pages of the catalogue share.

    Parameters
    ----------
    store, index_path
        The store and its index.
    settings
        The settings.
    limiter
        Limits expensive requests, by default as :data:`~neuromirror.web.rate_limits.REQUEST_KINDS`.
    """

    def __init__(
        self,
        store: Store,
        index_path: Path,
        settings: SiteSettings,
        limiter: RequestLimiter | None = None,
    ) -> None:
        self.store, self.settings = store, settings
        self.title, self.address = settings.title, settings.address
        self.reader = AsyncIndexReader(index_path)
        self.cutouts = CutoutService(store, is_allowed=settings.cutouts)
        self.previews = PreviewService(store, is_allowed=settings.cutouts)
        self.limiter = limiter or RequestLimiter(parse_limits(()))
        self.operator_variables = operator_variables()
        self.readmes = ReadmeService(store, is_allowed=settings.cutouts)
        self.examples = ExampleSearches()
        self.gateway = GatewayService(store, self.reader, settings.modes, relays=settings.cutouts)

    @property
    def counts(self) -> dict[str, int]:
        """Refused requests by kind, and results of the gateway, as ``gateway`` and their names."""
        results = {f"gateway {name}": count for name, count in self.gateway.counts.items()}
        return {**self.limiter.refused, **results}

    def archive_title(self, mirror: str) -> str:
        """Return the title of an archive for visitors; the name of the mirror without one."""
        return self.settings.archives.get(mirror, mirror)

    def close(self) -> None:
        """Drop the work of the gateway that has not started."""
        self.gateway.close()
