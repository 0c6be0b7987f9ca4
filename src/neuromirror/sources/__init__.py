"""The archives that can be mirrored, behind one protocol."""

from neuromirror.sources.errors import (
    DatasetNotFound,
    ListingNotProven,
    MalformedId,
    PartContradicted,
    PartRefused,
    PartUnavailable,
    UnexpectedReply,
)
from neuromirror.sources.options import SourceOptions
from neuromirror.sources.protocol import (
    ChecksPending,
    Estimate,
    Known,
    KnownContent,
    Listing,
    Part,
    Source,
)
from neuromirror.sources.registry import open_source, source_kinds

__all__ = [
    "ChecksPending",
    "DatasetNotFound",
    "Estimate",
    "Known",
    "KnownContent",
    "Listing",
    "ListingNotProven",
    "MalformedId",
    "Part",
    "PartContradicted",
    "PartRefused",
    "PartUnavailable",
    "Source",
    "SourceOptions",
    "UnexpectedReply",
    "open_source",
    "source_kinds",
]
