"""Sources: one subpackage per kind of archive, behind one protocol.

A source of your own has a subclass of ``Source`` (an archive), of ``Listing`` (the files of one
version) and of ``SourceOptions`` (the options of its mirror file). A listing yields the records of
``neuromirror.model``: a ``FileRecord`` per file, or a ``ComponentEntry`` for a tree such as a Zarr;
both are a ``ListingEntry``. ``VisitContext`` has the ``memo`` and the ``KnownContent`` of earlier
visits. What may fail:

- ``MalformedIdError``: no dataset can have this id.
- ``DatasetNotFoundError``: upstream states that it does not exist.
- ``UnreliableListingError``: the listing may be incomplete.
- ``UnexpectedReplyError``: a reply is not of the documented form.

Optional protocols of a source: ``SupportsLocate`` (addresses of the archive),
``SupportsPendingCheck`` (digests that come later), ``EmbargoAwareSource`` (private datasets);
``Estimate`` is the cost of a first visit. ``python -m pydoc neuromirror.sources.NAME`` prints each.

Names are imported on first use, because git-annex starts the special remote of a clone often, and
it needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.sources.errors import (
        ComponentMismatchError,
        ComponentRefusedError,
        ComponentUnavailableError,
        DatasetNotFoundError,
        MalformedIdError,
        UnexpectedReplyError,
        UnreliableListingError,
        UpstreamChangingError,
    )
    from neuromirror.sources.options import SourceOptions
    from neuromirror.sources.protocol import (
        EMBARGOED,
        ComponentEntry,
        EmbargoAwareSource,
        Estimate,
        KnownContent,
        Listing,
        ListingEntry,
        LocatedDataset,
        Source,
        SupportsLocate,
        SupportsPendingCheck,
        VisitContext,
    )
    from neuromirror.sources.registry import open_source, source_kinds, source_options

__all__ = [
    "EMBARGOED",
    "ComponentEntry",
    "ComponentMismatchError",
    "ComponentRefusedError",
    "ComponentUnavailableError",
    "DatasetNotFoundError",
    "EmbargoAwareSource",
    "Estimate",
    "KnownContent",
    "Listing",
    "ListingEntry",
    "LocatedDataset",
    "MalformedIdError",
    "Source",
    "SourceOptions",
    "SupportsLocate",
    "SupportsPendingCheck",
    "UnexpectedReplyError",
    "UnreliableListingError",
    "UpstreamChangingError",
    "VisitContext",
    "open_source",
    "source_kinds",
    "source_options",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("errors", "options", "protocol", "registry"):
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
