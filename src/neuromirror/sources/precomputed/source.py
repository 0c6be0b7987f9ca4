"""A source for volumes in a bucket: each precomputed layer, OME-Zarr and N5 volume is a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Final

from msgspec.structs import replace

from neuromirror.model import DatasetHint, DatasetRef, VersionRef
from neuromirror.net import Session
from neuromirror.sources.errors import DatasetNotFoundError
from neuromirror.sources.precomputed.encodings import EncodingNaming, LayerMemo, load_layer_memo
from neuromirror.sources.precomputed.layer import (
    LayerScope,
    LayerSearch,
    PrecomputedOptions,
    layer_profile,
)
from neuromirror.sources.protocol import (
    EMBARGOED,
    Listing,
    ListingEntry,
    LocatedDataset,
    VisitContext,
)
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.bucket_listing import BucketListing, BucketReading
from neuromirror.sources.s3.bucket_source import BucketSource
from neuromirror.sources.s3.discovery import Segments
from neuromirror.sources.s3.history import moment_of

_METADATA: Final = re.compile(
    rb"/(?:info|\.z(?:array|attrs|group|metadata)|zarr\.json|attributes\.json)\Z"
)


class PrecomputedSource(BucketSource):
    """A bucket of volumes as a :class:`~neuromirror.sources.Source`.

    Local ids are the volumes' prefixes, usually ``collection/experiment/channel``, encoded as those
    of any bucket.
    """

    Options: ClassVar[type[PrecomputedOptions]] = PrecomputedOptions

    def __init__(
        self,
        mirror: str,
        options: PrecomputedOptions,
        session: Session,
        *,
        is_private: bool = False,
    ) -> None:
        self.options = options
        self._scope = LayerScope(options)
        super().__init__(
            mirror,
            options,
            session,
            layer_profile(self._address, self._local_id_at),
            whole_bucket=not (options.depth or options.prefix),
            is_private=is_private,
            shaping=("encodings",),
        )

    def locate(self, address: str) -> LocatedDataset | None:
        """Return the volume that a URL names, or whose metadata it names; no request is made.

        Below the maximum depth of layers, the rest is a path in the layer.

        Parameters
        ----------
        address
            An identifier or URL.

        Returns
        -------
        LocatedDataset or None
            None if it is not an address of this archive.
        """
        key = self.key_of(address)
        if key is None:
            return None
        prefix = _METADATA.sub(b"", key.rstrip(b"/"))
        segments = local_ids.split_prefix(prefix + b"/") if prefix else ()
        deepest = len(segments) - max(0, self._scope.level(segments) - self._scope.depth)
        segments, below = segments[:deepest], segments[deepest:]
        if not self._scope.is_layer_position(segments):
            return None
        local_id = self._local_id(segments)
        path = b"/".join(below).decode("utf-8", "surrogateescape")
        if local_id is None:
            return None
        is_included = self._scope.is_selected(segments)
        return LocatedDataset(local_id, path=path or None, is_included=is_included)

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """Return the superdataset of all layers below a folder; None if it is not a folder.

        Parameters
        ----------
        id_prefix
            The first segments of the local ids.

        Returns
        -------
        DatasetRef or None
            The reference of the superdataset, or None.
        """
        try:
            segments = local_ids.segments_of(id_prefix)
        except ValueError:
            return None
        is_within = self._scope.is_below(segments) and self._scope.level(segments) > 0
        return self._ref(segments, id_prefix) if is_within else None

    def private(self) -> PrecomputedSource | None:
        """Return the source for the private store; None if the bucket is public.

        Returns
        -------
        PrecomputedSource or None
            The source with credentials, or None.

        Raises
        ------
        CredentialsError
            If there are no valid credentials.
        """
        if not self._has_private_source():
            return None
        return PrecomputedSource(self.mirror, self.options, self.session, is_private=True)

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all volumes, and hints that report objects outside of them.

        Such a hint has a local id that starts with ``==`` and a description in ``unavailable``.

        Yields
        ------
        DatasetHint
            The hint of a dataset, or of a problem.
        """
        if self._is_concealed:
            return
        search = self._search()
        for segments in search.layers():
            yield self._hint(segments)
        for name, summary in search.summaries().items():
            ref = DatasetRef(self.mirror, f"{local_ids.NOTICE}{name}", f"{self.uri}#{name}")
            yield DatasetHint(ref, None, unavailable=summary)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one layer's hint.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        DatasetHint
            The hint, as :meth:`datasets` yields it.

        Raises
        ------
        DatasetNotFoundError
            If its folder is no volume.
        UnexpectedReplyError
            If its metadata are malformed.
        """
        segments = self._segments(dataset.local_id)
        if self._is_concealed:
            return DatasetHint(dataset, None, unavailable=EMBARGOED)
        reason = None
        if not self._scope.is_selected(segments):
            reason = "excluded by the mirror's configuration"
        elif not self._scope.is_layer_position(segments):
            reason = "the mirror's configuration searches for layers in other folders"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        found = self._search().folder(segments).format
        if found is None:
            raise DatasetNotFoundError(
                f"{dataset.name}: there is no layer at {dataset.source_uri}",
                suggestions=self._layers_above(segments),
            )
        if found not in self._scope.formats:
            why = f"the mirror's configuration excludes the format {found}"
            return DatasetHint(dataset, None, unavailable=why)
        return self._hint(segments)

    def _search(self) -> LayerSearch:
        return LayerSearch(self.bucket, self._scope, self.options.connections)

    def _layers_above(self, segments: Segments) -> list[str]:
        """Return the name of the layer that contains a folder, such as that of a scale."""
        for end in range(len(segments) - 1, 0, -1):
            above = segments[:end]
            if self._scope.is_layer_position(above) and self._search().folder(above).format:
                return [f"{self.mirror}:{self._local_id(above)}"]
        return []

    def _hint(self, segments: Segments) -> DatasetHint:
        local_id = self._local_id(segments)
        if local_id is None:
            return self._too_long_notice(segments)
        return DatasetHint(self._ref(segments, local_id), None, title=local_id)

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a state.

        Parameters
        ----------
        version
            The version, from :meth:`versions` or :meth:`history`.
        context
            Results of earlier visits.

        Returns
        -------
        Listing
            The listing; its entries are read once.

        Raises
        ------
        MalformedIdError
            The name of the version is not that of a state.
        """
        layer_memo, bucket_memo = None, None
        if moment_of(version.upstream) is None:
            layer_memo, bucket_memo = load_layer_memo(context.memo, self._shape)
        naming = EncodingNaming(
            local_ids.prefix_of(self._segments(version.dataset.local_id)),
            head_each=self.options.encodings == "each",
            memo=layer_memo,
            folder=context.workspace if context.workspace.is_dir() else None,
        )
        profile = replace(self._profile, is_document=naming.is_document)
        reading = self._read(version, context, bucket_memo, naming, profile)
        return LayerListing(reading, naming, layer_memo, is_private=self._is_private)

    # --- facts

    def _address(self, local_id: str) -> str:
        prefix = local_ids.prefix_of(self._segments(local_id))
        return self.bucket.object_url(prefix).rstrip("/")

    def _local_id_at(self, bucket: str, path: str) -> str | None:
        segments = local_ids.split_prefix(path.encode("utf-8", "surrogateescape") + b"/")
        if bucket != self.options.bucket or not self._scope.is_layer_position(segments):
            return None
        return self._local_id(segments)


class LayerListing(BucketListing):
    """The listing of a volume; paths of encoded objects of a precomputed layer have a suffix.

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
