"""A public S3 bucket as a source of datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from neuromirror.model import DatasetHint, DatasetRef
from neuromirror.net import NetError, Session
from neuromirror.sources.errors import DatasetNotFoundError, UnexpectedReplyError
from neuromirror.sources.s3 import docdb, local_ids
from neuromirror.sources.s3.aind import AIND
from neuromirror.sources.s3.bucket_source import BucketSource
from neuromirror.sources.s3.discovery import DatasetLayout, Segments, UnassignedObjects, find_roots
from neuromirror.sources.s3.options import S3Options
from neuromirror.sources.s3.plain import PLAIN
from neuromirror.sources.s3.profile import Profile

_PROFILES: Final[Mapping[str, Profile]] = {"plain": PLAIN, "aind": AIND}
_SHOWN: Final = 5


class S3Source(BucketSource):
    """A bucket as a :class:`~neuromirror.sources.Source`."""

    Options: ClassVar[type[S3Options]] = S3Options

    def __init__(self, mirror: str, options: S3Options, session: Session) -> None:
        self.options = options
        self._layout = DatasetLayout(options)
        profile = _PROFILES[options.profile]
        super().__init__(mirror, options, session, profile, whole_bucket=self._layout.is_root(()))

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all datasets, in order of their prefixes, and notices about what is none.

        A notice has a local id that begins with ``==`` and says in ``unavailable`` what lies
        above the depth, or what DocDB and the bucket do not agree about.
        """
        times, trouble = self._docdb_times()
        unassigned = UnassignedObjects()
        found: set[Segments] = set()
        for segments in find_roots(self.bucket, self._layout, unassigned):
            if times:
                found.add(segments)
            yield self._hint(segments, times.get(self._location(segments)))
        notices = {"above": unassigned.summary(), "docdb": trouble or self._missing(times, found)}
        for name, summary in notices.items():
            if summary is not None:
                ref = DatasetRef(self.mirror, f"{local_ids.NOTICE}{name}", f"{self.uri}#{name}")
                yield DatasetHint(ref, None, unavailable=summary)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dataset's hint; raises :class:`DatasetNotFoundError` when its prefix lists empty."""
        segments = self._segments(dataset.local_id)
        reason = None
        if self._layout.is_excluded(segments):
            reason = "excluded in the mirror's file"
        elif not self._layout.is_root(segments):
            reason = "no dataset: the mirror's file puts the roots at another depth"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        if next(self.bucket.list_level(local_ids.prefix_of(segments)), None) is None:
            raise DatasetNotFoundError(f"{dataset.name}: {dataset.source_uri} holds no object")
        time = None
        if self.options.docdb is not None:
            try:
                time = docdb.times_of(self.session, self.options.docdb, self._location(segments))
            except (NetError, UnexpectedReplyError):
                time = None  # the bucket alone says what there is
        return self._hint(segments, time)

    def _hint(self, segments: Segments, time: str | None) -> DatasetHint:
        local_id = self._local_id(segments)
        if local_id is None:
            return self._too_long_notice(segments)
        # A change of the options that shape a dataset must not be skipped either.
        fingerprint = f"{time} {self._shape}" if time else None
        return DatasetHint(self._ref(segments, local_id), fingerprint, title=local_id)

    def _location(self, segments: Segments) -> str:
        """Where DocDB says that an asset is."""
        path = b"/".join(segments).decode("utf-8", "replace")
        return f"s3://{self.options.bucket}/{path}"

    def _docdb_times(self) -> tuple[Mapping[str, str], str | None]:
        if self.options.docdb is None:
            return {}, None
        try:
            where = f"s3://{self.options.bucket}/{self.options.prefix}"
            return docdb.all_times(self.session, self.options.docdb, where), None
        except (NetError, UnexpectedReplyError) as error:
            return {}, (
                f"DocDB gave no list ({error}), so nothing tells what changed and every dataset"
                " is visited"
            )

    def _missing(self, times: Mapping[str, str], found: set[Segments]) -> str | None:
        """What DocDB knows and the bucket does not; None where there is nothing."""
        top = self._location(())
        listed = {self._location(segments) for segments in found}
        lost: list[str] = []
        for location in sorted(times.keys() - listed):
            path = location.removeprefix(top)
            segments = tuple(path.encode("utf-8", "surrogatepass").split(b"/"))
            if not self._layout.is_excluded(segments):
                lost.append(path)
        if not lost:
            return None
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        return (
            f"in DocDB, but no dataset of the bucket ({len(lost)}): "
            f"{', '.join(lost[:_SHOWN])}{more}"
        )
