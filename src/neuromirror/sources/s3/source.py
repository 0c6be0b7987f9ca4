"""A public S3 bucket as a source of datasets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from neuromirror.model import DatasetHint, DatasetRef
from neuromirror.net import NetError, Session
from neuromirror.sources.errors import DatasetNotFoundError, UnexpectedReplyError
from neuromirror.sources.protocol import EMBARGOED, LocatedDataset
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.aind import AIND
from neuromirror.sources.s3.bucket_source import BucketSource
from neuromirror.sources.s3.discovery import (
    DatasetLayout,
    Segments,
    UnassignedObjects,
    docdb_times,
    docdb_times_of,
    find_roots,
)
from neuromirror.sources.s3.options import PLAIN, Profile, S3Options

_PROFILES: Final[Mapping[str, Profile]] = {"plain": PLAIN, "aind": AIND}
_SHOWN: Final = 5
_ASSET_NAME: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9-]*_[^/:@]*[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}[^/:@]*\Z"
)


class S3Source(BucketSource):
    """An S3 bucket as a :class:`~neuromirror.sources.Source`.

    Its datasets are the prefixes at the depth that the options state.
    """

    Options: ClassVar[type[S3Options]] = S3Options

    def __init__(
        self, mirror: str, options: S3Options, session: Session, *, is_private: bool = False
    ) -> None:
        self.options = options
        self._layout = DatasetLayout(options)
        profile = _PROFILES[options.layout]
        super().__init__(
            mirror,
            options,
            session,
            profile,
            whole_bucket=self._layout.is_root(()),
            is_private=is_private,
        )

    def private(self) -> S3Source | None:
        """Return the source for the private store; None if the bucket is public.

        Returns
        -------
        S3Source or None
            The source with credentials, or None.

        Raises
        ------
        CredentialsError
            If there are no valid credentials.
        """
        if not self._has_private_source():
            return None
        return S3Source(self.mirror, self.options, self.session, is_private=True)

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all datasets in order of their prefixes, and hints that report problems.

        Such a hint has a local id that starts with ``==``. Its ``unavailable`` describes objects
        above the datasets' depth, or differences between DocDB and the bucket.

        Yields
        ------
        DatasetHint
            The hint of a dataset, or of a problem.
        """
        if self._is_concealed:
            return
        times, trouble = self._docdb_times()
        unassigned = UnassignedObjects()
        roots: set[Segments] = set()
        for segments in find_roots(self.bucket, self._layout, unassigned):
            if times:
                roots.add(segments)
            yield self._hint(segments, times.get(self._location(segments)))
        notices = {"above": unassigned.summary(), "docdb": trouble or self._missing(times, roots)}
        for name, summary in notices.items():
            if summary is not None:
                ref = DatasetRef(self.mirror, f"{local_ids.NOTICE}{name}", f"{self.uri}#{name}")
                yield DatasetHint(ref, None, unavailable=summary)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one dataset's hint.

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
            The prefix has no objects.
        """
        segments = self._segments(dataset.local_id)
        if self._is_concealed:
            return DatasetHint(dataset, None, unavailable=EMBARGOED)
        reason = None
        if self._layout.is_excluded(segments):
            reason = "excluded by the mirror's configuration"
        elif not self._layout.is_root(segments):
            reason = "not a dataset at the depth that the mirror's configuration has"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        if next(self.bucket.list_level(local_ids.prefix_of(segments)), None) is None:
            raise DatasetNotFoundError(f"{dataset.name}: {dataset.source_uri} has no objects")
        time = None
        if self.options.docdb is not None:
            try:
                time = docdb_times_of(self.session, self.options.docdb, self._location(segments))
            except (NetError, UnexpectedReplyError):
                time = None  # only a hint
        return self._hint(segments, time)

    def _hint(self, segments: Segments, time: str | None) -> DatasetHint:
        local_id = self._local_id(segments)
        if local_id is None:
            return self._too_long_notice(segments)
        # includes the options, so that a change of them causes a visit
        fingerprint = f"{time} {self._shape}" if time else None
        return DatasetHint(self._ref(segments, local_id), fingerprint, title=local_id)

    def locate(self, address: str) -> LocatedDataset | None:
        """Return the dataset of a URL or of the name of an AIND asset; no request is made.

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
        if key is None and self.options.layout == "aind" and _ASSET_NAME.match(address):
            key = address.encode()
        if key is None:
            return None
        segments = local_ids.split_prefix(key.rstrip(b"/") + b"/") if key.strip(b"/") else ()
        for end in range(len(segments) + 1):
            if self._layout.is_root(segments[:end]):
                local_id = self._local_id(segments[:end])
                path = b"/".join(segments[end:]).decode("utf-8", "surrogateescape")
                return None if local_id is None else LocatedDataset(local_id, path=path or None)
        return None

    def _location(self, segments: Segments) -> str:
        """Return an asset's location as DocDB has it."""
        path = b"/".join(segments).decode("utf-8", "replace")
        return f"s3://{self.options.bucket}/{path}"

    def _docdb_times(self) -> tuple[Mapping[str, str], str | None]:
        if self.options.docdb is None:
            return {}, None
        try:
            where = f"s3://{self.options.bucket}/{self.options.prefix}"
            return docdb_times(self.session, self.options.docdb, where), None
        except (NetError, UnexpectedReplyError) as error:
            return {}, (
                f"DocDB returned no list ({error}), so changes are unknown and every dataset is"
                " visited"
            )

    def _missing(self, times: Mapping[str, str], roots: set[Segments]) -> str | None:
        """Describe the assets in DocDB that the bucket does not have, if any."""
        top = self._location(())
        listed = {self._location(segments) for segments in roots}
        lost: list[str] = []
        for location in sorted(times.keys() - listed):
            path = location.removeprefix(top)
            segments = tuple(path.encode("utf-8", "surrogatepass").split(b"/"))
            if not self._layout.is_excluded(segments):
                lost.append(path)
        if not lost:
            return None
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        return f"in DocDB, but not in the bucket ({len(lost)}): {', '.join(lost[:_SHOWN])}{more}"
