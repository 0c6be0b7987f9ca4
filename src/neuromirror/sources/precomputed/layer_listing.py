"""The listing of a precomputed layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from neuromirror.sources.precomputed.encodings import EncodingNaming
from neuromirror.sources.precomputed.memo import LayerMemo
from neuromirror.sources.protocol import ListingEntry
from neuromirror.sources.s3.bucket_listing import BucketListing, BucketReading


class LayerListing(BucketListing):
    """The listing of a precomputed layer; paths of encoded objects have a suffix.

    Parameters
    ----------
    reading
        How the objects are read.
    naming
        Assigns the paths.
    memo
        The memo of the last visit.
    is_private
        Whether the objects need credentials.
    """

    def __init__(
        self,
        reading: BucketReading,
        naming: EncodingNaming,
        memo: LayerMemo | None,
        *,
        is_private: bool = False,
    ) -> None:
        super().__init__(reading, manifest_only=True, is_private=is_private)
        self._naming = naming
        if memo is not None:
            # an unchanged layer is not read, and keeps its links
            self.facts = replace(self.facts, links=memo.links)

    def entries(self) -> Iterator[ListingEntry]:
        """Yield the objects; then add the encodings to the documents and facts."""
        yield from super().entries()
        self.documents = (*self.documents, self._naming.document())
        attributes = {*self.facts.attributes, *self._naming.attributes()}
        self.facts = replace(self.facts, attributes=tuple(sorted(attributes)))

    def memo(self) -> bytes | None:
        """Return the pages' memo, the folders of mixed encodings, and the links."""
        pages = super().memo()
        if pages is None:
            return None
        memo = LayerMemo(
            self._reading.shape, self._naming.newest, self._naming.mixed, self.facts.links
        )
        return memo.dump(pages)
