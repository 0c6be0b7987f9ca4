"""Precomputed layers in a public bucket as a source of datasets: one a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from neuromirror.model import DatasetHint, DatasetRef, VersionRef
from neuromirror.net import Session
from neuromirror.sources.errors import DatasetNotFoundError
from neuromirror.sources.precomputed.encodings import EncodingNaming
from neuromirror.sources.precomputed.layer import is_volume, layer_profile, read_info
from neuromirror.sources.precomputed.memo import LayerMemo, load_layer_memo
from neuromirror.sources.precomputed.options import PrecomputedOptions
from neuromirror.sources.precomputed.search import LayerScope, LayerSearch
from neuromirror.sources.protocol import Listing, VisitContext
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.bucket_source import BucketSource
from neuromirror.sources.s3.discovery import Segments
from neuromirror.sources.s3.history import moment_of


class PrecomputedSource(BucketSource):
    """A bucket of layers as a :class:`~neuromirror.sources.Source`.

    Local ids are the layers' prefixes, mostly ``collection/experiment/channel``, written as those
    of any bucket are.
    """

    Options: ClassVar[type[PrecomputedOptions]] = PrecomputedOptions

    def __init__(self, mirror: str, options: PrecomputedOptions, session: Session) -> None:
        self.options = options
        self._scope = LayerScope(options)
        super().__init__(
            mirror,
            options,
            session,
            layer_profile(self._address, self._local_id_at),
            whole_bucket=not (options.depth or options.prefix),
            shaping=("encodings",),
        )

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """The super-dataset of all layers below a folder; None for what is no folder's name."""
        try:
            segments = local_ids.segments_of(id_prefix)
        except ValueError:
            return None
        is_within = self._scope.is_below(segments) and self._scope.level(segments) > 0
        return self._ref(segments, id_prefix) if is_within else None

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all layers, and notices about what is in none of them.

        A notice has a local id that begins with ``==``, and says in ``unavailable`` what there is.
        """
        search = LayerSearch(self.bucket, self._scope, self.options.connections)
        for segments in search.layers():
            yield self._hint(segments)
        for name, summary in search.summaries().items():
            ref = DatasetRef(self.mirror, f"{local_ids.NOTICE}{name}", f"{self.uri}#{name}")
            yield DatasetHint(ref, None, unavailable=summary)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One layer's hint; raises :class:`DatasetNotFoundError` when its folder has no ``info``.

        Raises :class:`~neuromirror.sources.UnexpectedReplyError` for an ``info`` that is broken.
        """
        segments = self._segments(dataset.local_id)
        reason = None
        if not self._scope.is_selected(segments):
            reason = "excluded in the mirror's file"
        elif not self._scope.is_layer_position(segments):
            reason = "the mirror's file looks for layers elsewhere"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        info = read_info(self.bucket, local_ids.prefix_of(segments))
        if info is None or not is_volume(info):
            raise DatasetNotFoundError(f"{dataset.name}: there is no layer at {dataset.source_uri}")
        return self._hint(segments)

    def _hint(self, segments: Segments) -> DatasetHint:
        local_id = self._local_id(segments)
        if local_id is None:
            return self._too_long_notice(segments)
        return DatasetHint(self._ref(segments, local_id), None, title=local_id)

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """The objects of a layer's state; raises :class:`MalformedIdError` for another version."""
        if moment_of(version.upstream) is not None:
            return self._read(version, context, None, None)
        remembered, kept = load_layer_memo(context.memo, self._shape)
        return self._read(version, context, remembered, kept)

    def _read(
        self,
        version: VersionRef,
        context: VisitContext,
        before: LayerMemo | None,
        kept: bytes | None,
    ) -> Listing:
        encodings = EncodingNaming(
            local_ids.prefix_of(self._segments(version.dataset.local_id)),
            self._profile.is_document,
            head_each=self.options.encodings == "each",
            memo=before,
            folder=context.workspace if context.workspace.is_dir() else None,
        )
        listing = self._listing(version, context, kept, encodings)
        listing.manifest_only = True
        listing.entries = encodings.with_document(listing.entries, listing)
        if before is not None:
            # what stays where nothing has changed, and nothing is read
            listing.facts = replace(listing.facts, links=before.links)
        pages = listing.memo

        def remembered() -> bytes | None:
            content = pages()
            if content is None:
                return None
            links = listing.facts.links
            return LayerMemo(self._shape, encodings.newest, encodings.mixed, links).dump(content)

        listing.memo = remembered
        return listing

    # --- facts

    def _address(self, local_id: str) -> str:
        prefix = local_ids.prefix_of(self._segments(local_id))
        return self.bucket.object_url(prefix).rstrip("/")

    def _local_id_at(self, bucket: str, path: str) -> str | None:
        segments = local_ids.split_prefix(path.encode("utf-8", "surrogateescape") + b"/")
        if bucket != self.options.bucket or not self._scope.is_layer_position(segments):
            return None
        return self._local_id(segments)
