"""Read a listing, resolve its components and validate the result."""

from __future__ import annotations

from pathlib import Path

from neuromirror.crawl.visit.listed_entries import ListedEntries
from neuromirror.crawl.visit.snapshot import (
    ComponentResolver,
    ResolvedComponents,
    SpooledSnapshot,
)
from neuromirror.crawl.visit.validate import check_summary, validate_listing
from neuromirror.mint import LineSorter
from neuromirror.sources import ComponentEntry, Listing


def read_listing(
    listing: Listing, scratch: Path, resolver: ComponentResolver | None = None
) -> SpooledSnapshot:
    """Read a listing to its end into ``scratch``, and return the validated snapshot.

    Components may be prefetched before the summary confirms the listing, and are used only then.

    Parameters
    ----------
    listing
        The listing.
    scratch
        A folder for the files of the snapshot.
    resolver
        Resolves the components of the listing; None if it has none.

    Returns
    -------
    SpooledSnapshot
        The snapshot; its files are in ``scratch``.

    Raises
    ------
    UnreliableListingError
        If the listing is not whole, or a record is malformed.
    ListingTooLongError
        If it has too many components or exceptions.
    NeuromirrorError
        Whatever the source raises.
    """
    with LineSorter(scratch) as sorter:
        entries = ListedEntries(listing.version, sorter)
        for entry in listing.entries():
            entries.add(entry)
            if isinstance(entry, ComponentEntry) and resolver is not None:
                resolver.prefetch(entry, scratch)
        # a source may complete its version while the entries are read
        check_summary(entries, listing.version, listing.confirm_version())
        resolved = _resolve_components(entries, resolver, scratch)
        return validate_listing(listing, entries, resolved, scratch)


def _resolve_components(
    entries: ListedEntries, resolver: ComponentResolver | None, scratch: Path
) -> ResolvedComponents:
    """Add the entries of the components; return the resolved components."""
    if not entries.components:
        return ResolvedComponents()
    if resolver is None:
        raise TypeError(f"{entries.version.dataset.name}: components without a resolver")
    for entry in resolver.resolve(entries.components, scratch):
        entries.add_resolved(entry)
    resolved = resolver.result
    for inline in resolved.inline:
        entries.note_time(inline.newest)
    return resolved
