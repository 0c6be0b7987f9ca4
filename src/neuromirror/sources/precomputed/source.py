"""Precomputed layers in a public bucket as a source of datasets: one a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from neuromirror.model import DatasetHint, DatasetRef, VersionRef
from neuromirror.net import Session
from neuromirror.sources.errors import DatasetNotFound
from neuromirror.sources.precomputed.encodings import Encodings
from neuromirror.sources.precomputed.layer import is_volume, layer_profile, read_info
from neuromirror.sources.precomputed.memo import Remembered, load_remembered
from neuromirror.sources.precomputed.options import PrecomputedOptions
from neuromirror.sources.precomputed.search import LayerScope, Search
from neuromirror.sources.protocol import Known, Listing
from neuromirror.sources.s3 import names
from neuromirror.sources.s3.bucket_source import BucketSource
from neuromirror.sources.s3.discovery import Components
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
            layer_profile(self._address, self._known_as),
            whole=not (options.depth or options.prefix),
            shaping=("encodings",),
        )

    def group(self, local_ids: str) -> DatasetRef | None:
        """The super-dataset of all layers below a folder; None for what is no folder's name."""
        try:
            components = names.components_of(local_ids)
        except ValueError:
            return None
        is_within = self._scope.is_below(components) and self._scope.level(components) > 0
        return self._ref(components, local_ids) if is_within else None

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all layers, and notices about what is in none of them.

        A notice has a local id that begins with ``==``, and says in ``unavailable`` what there is.
        """
        search = Search(self.bucket, self._scope, self.options.connections)
        for components in search.layers():
            yield self._hint(components)
        for name, told in search.told().items():
            ref = DatasetRef(self.mirror, f"{names.NOTICE}{name}", f"{self.uri}#{name}")
            yield DatasetHint(ref, None, unavailable=told)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One layer's hint; raises :class:`DatasetNotFound` when its folder has no ``info``.

        Raises :class:`~neuromirror.sources.UnexpectedReply` for an ``info`` that is broken.
        """
        components = self._components(dataset.local_id)
        reason = None
        if not self._scope.is_wanted(components):
            reason = "excluded in the mirror's file"
        elif not self._scope.is_place(components):
            reason = "the mirror's file looks for layers elsewhere"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        info = read_info(self.bucket, names.prefix_of(components))
        if info is None or not is_volume(info):
            raise DatasetNotFound(f"{dataset.name}: there is no layer at {dataset.source_uri}")
        return self._hint(components)

    def _hint(self, components: Components) -> DatasetHint:
        local_id = self._local_id(components)
        if local_id is None:
            return self._too_long(components)
        return DatasetHint(self._ref(components, local_id), None, title=local_id)

    # --- listing

    def listing(self, version: VersionRef, known: Known) -> Listing:
        """The objects of a layer's state; raises :class:`MalformedId` for another version."""
        if moment_of(version.upstream) is not None:
            return self._read(version, known, None, None)
        remembered, kept = load_remembered(known.memo, self._shape)
        return self._read(version, known, remembered, kept)

    def _read(
        self, version: VersionRef, known: Known, before: Remembered | None, kept: bytes | None
    ) -> Listing:
        encodings = Encodings(
            names.prefix_of(self._components(version.dataset.local_id)),
            self._profile.is_document,
            each=self.options.encodings == "each",
            remembered=before,
            folder=known.workspace if known.workspace.is_dir() else None,
        )
        listing = self._listing(version, known, kept, encodings)
        listing.whole = True
        listing.entries = encodings.told_after(listing.entries, listing)
        if before is not None:
            # what stays where nothing has changed, and nothing is read
            listing.facts = replace(listing.facts, links=before.links)
        pages = listing.memo

        def remembered() -> bytes | None:
            content = pages()
            if content is None:
                return None
            links = listing.facts.links
            return Remembered(self._shape, encodings.newest, encodings.mixed, links).dump(content)

        listing.memo = remembered
        return listing

    # --- facts

    def _address(self, local_id: str) -> str:
        prefix = names.prefix_of(self._components(local_id))
        return self.bucket.object_url(prefix).rstrip("/")

    def _known_as(self, bucket: str, path: str) -> str | None:
        components = names.split(path.encode("utf-8", "surrogateescape") + b"/")
        if bucket != self.options.bucket or not self._scope.is_place(components):
            return None
        return self._local_id(components)
