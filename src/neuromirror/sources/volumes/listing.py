"""The files of a volume as a source lists them, and how it is told that they changed.

Upstream has no checksums, no ETags and no history. What is known of a block is the sha256 of its
chunk file, learnt by reading it once; whether it is still the same is told in tiers: the metadata
at each visit, a sample of blocks chosen by lot, and as many in turn, so that every block is read
again in time. Where one is found to differ, all that are known are read again: a changed block is
seldom alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from neuromirror.model import (
    CHECKED_BY_VISIT,
    DatasetFacts,
    Digest,
    Document,
    FileRecord,
    Location,
    Retention,
    VersionRef,
    metadata_digest,
)
from neuromirror.net import Session
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.protocol import Listing, VisitContext
from neuromirror.sources.volumes.digests import (
    CHANGED,
    KNOWN,
    RECORDED,
    UNKNOWN,
    BlockDigests,
    CheckProgress,
    DigestLog,
    dump_memo,
    load_memo,
)
from neuromirror.sources.volumes.grid import Block, Volume, blocks, blocks_by_number
from neuromirror.sources.volumes.hashing import BlockHasher
from neuromirror.sources.volumes.ngff import zarr_documents
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.planning import check_size
from neuromirror.sources.volumes.remote_identity import VOLUME_REMOTE

CLAIMED_BY: Final = "neuromirror"

_SPEC: Final = 1
"""Counted up when the same volume gives other records than before."""


def volume_listing(
    version: VersionRef,
    volume: Volume,
    context: VisitContext,
    session: Session,
    options: VolumeOptions,
    *,
    facts: DatasetFacts,
    documents: Sequence[Document],
    reload_volume: Callable[[], Volume],
    signal: str = "",
) -> Listing:
    """The files of a planned volume, as a source's listing.

    ``documents`` are upstream's own; the Zarr's are added. ``again`` learns the volume anew, to
    prove at the end that it is still the same (planned like ``volume``). ``signal`` is a word of
    upstream that moves when voxels may have been written (a downsample status): where it is not
    the one remembered, every block is read again. Raises :class:`TooManyFilesError` at once;
    reading
    the entries raises :class:`BlockReadError` and UnreliableListingError.
    """
    check_size(volume, options, version.dataset.name)
    every = tuple(sorted([*documents, *zarr_documents(volume)], key=lambda document: document.path))
    reading = _VolumeReader(version, volume, context, session, options, every, signal)

    def once_more() -> VersionRef:
        if fingerprint(reload_volume(), options) != reading.shape:
            raise UnreliableListingError(
                f"{version.dataset.name}: the volume's extent or levels changed while it was read"
            )
        return version

    listing = Listing(
        version=version,
        facts=facts,
        documents=every,
        entries=iter(()),
        confirm_version=once_more,
        special_remotes=(VOLUME_REMOTE,),
        is_unchanged=reading.is_unchanged,
        memo=reading.memo,
        renewed_memo=reading.memo,
        describe_checks=reading.describe_checks,
    )
    listing.entries = reading.entries(listing)
    return listing


def fingerprint(volume: Volume, options: VolumeOptions) -> str:
    """What the blocks of a volume are and how they are read: 32 hex digits."""
    levels = [(one.name, one.start, one.stop, one.chunk) for one in volume.levels]
    identity = [
        *(_SPEC, volume.scheme, volume.host, volume.path, volume.secure, volume.dtype),
        *(volume.times, levels, options.hash),
        options.sample_count if options.hash == "none" else None,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


class _VolumeReader:
    """One visit of a volume."""

    def __init__(
        self,
        version: VersionRef,
        volume: Volume,
        context: VisitContext,
        session: Session,
        options: VolumeOptions,
        documents: Sequence[Document],
        signal: str,
    ) -> None:
        self._name = version.dataset.name
        self._seed = version.dataset.dataset_id
        self._volume = volume
        self._options = options
        self._count = volume.files
        self._hasher = BlockHasher(session, self._name, options.workers)
        self.shape = fingerprint(volume, options)
        self._hashes_all = options.hash == "fetch"
        today = datetime.now(UTC).date().isoformat()
        fresh = CheckProgress(self.shape, metadata_digest(documents), signal, 0, 0, today)
        self._today = today
        self._check_progress = fresh
        self._digests = BlockDigests(self._count)
        self._before: CheckProgress | None = None
        found = load_memo(context.memo, self.shape, self._count)
        if found is not None:
            self._before, self._digests = found
            self._check_progress = replace(self._before, metadata=fresh.metadata, signal=signal)
        self._digest_log = self._open_digest_log(context)
        self._trusts_memo = (
            self._before is not None
            and self._before.signal == signal
            and not context.deep
            and not (self._digest_log is not None and self._digest_log.exists())
        )
        self._compared = False
        self._check_description = self._evidence = ""

    def _open_digest_log(self, context: VisitContext) -> DigestLog | None:
        """Where the digests are kept of a reading that may be broken off."""
        if not (self._hashes_all or self._options.sample_count or self._options.rolling_count):
            return None
        folder = context.workspace
        if not folder.is_dir():
            return None
        suffix = hashlib.sha256(f"{self.shape} {self._check_progress.signal}".encode()).hexdigest()[
            :16
        ]
        return DigestLog(folder / f"digests-{suffix}")

    # --- whether it is the same

    def is_unchanged(self) -> bool:
        """Whether all is as remembered, as far as the metadata and some blocks tell."""
        if self._before is None or self._before.metadata != self._check_progress.metadata:
            return False
        return self._is_same()

    def describe_checks(self) -> str:
        """What was compared, in words; empty where everything was read."""
        return self._check_description

    def memo(self) -> bytes:
        """What the next visit goes on from."""
        return dump_memo(self._check_progress, self._digests)

    def _is_same(self) -> bool:
        """Whether the memo may be believed: a sample of blocks is as remembered."""
        if self._trusts_memo and not self._compared:
            self._compared = True
            self._trusts_memo = self._compare()
        return self._trusts_memo

    def _compare(self) -> bool:
        course = self._check_progress
        turn = range(course.cursor, min(course.cursor + self._options.rolling_count, self._count))
        population = range(self._count) if self._hashes_all else self._digests.known()
        lot = random.Random(f"{self._seed} {course.visit}")
        sample = lot.sample(population, min(self._options.sample_count, len(population)))
        read: list[tuple[int, bytes]] = []
        with closing(self._read(sorted({*sample, *turn}))) as digests:
            for number, digest in digests:
                read.append((number, digest))
                if self._digests.get(number) not in (None, digest):
                    self._log_changed(read)
                    return False
        for number, digest in read:
            if self._digests.states[number] == UNKNOWN:
                self._digests.put(number, digest, KNOWN)
        self._set_description(len(sample), turn)
        if read:
            self._check_progress = course.advanced_by(len(turn), self._count, self._today)
        return True

    def _log_changed(self, read: Sequence[tuple[int, bytes]]) -> None:
        """Lets the next visit know, should this one not come to its end; its lot is another."""
        if self._digest_log is not None:
            for number, digest in read:
                self._digest_log.add(number, digest)

    def _read(
        self, numbers: Iterable[int], note: Callable[[int, bytes], None] | None = None
    ) -> Generator[tuple[int, bytes], None, None]:
        return self._hasher.digests(blocks_by_number(self._volume, numbers), note)

    # --- entries

    def entries(self, listing: Listing) -> Iterator[FileRecord]:
        """Yields the records of all blocks; the facts then say what vouches for them."""
        if self._is_same():
            digests = self._digests
            for number, block in enumerate(blocks(self._volume)):
                yield self._record(block, digests.get(number), digests.states[number])
        else:
            yield from self._read_all()
        attributes = [*listing.facts.attributes, (CHECKED_BY_VISIT, self._evidence)]
        listing.facts = replace(listing.facts, attributes=tuple(sorted(attributes)))

    def _read_all(self) -> Iterator[FileRecord]:
        """Reads whatever is to be known of the blocks, and yields the records of all.

        What an earlier process read of it is not read again.
        """
        lot = self._sampled_blocks()
        selected: Collection[int] = range(self._count)
        if not self._hashes_all:
            selected = {*lot, *self._digests.known()}
        new = BlockDigests(self._count)
        if self._digest_log is not None:
            for number, digest in self._digest_log.read():
                new.put(number, digest, KNOWN)
        had = bytes(new.states)
        due = (number for number in sorted(selected) if had[number] == UNKNOWN)
        note = None if self._digest_log is None else self._digest_log.add
        with closing(self._read(due, note)) as read:
            for number, block in enumerate(blocks(self._volume)):
                if number in selected:
                    digest = new.get(number) or next(read)[1]
                    state = (
                        RECORDED
                        if self._hashes_all or number in lot
                        else self._state(number, digest)
                    )
                    new.put(number, digest, state)
                yield self._record(block, new.get(number), new.states[number])
        self._digests = new
        self._check_progress = replace(
            self._check_progress, visit=self._check_progress.visit + 1, cursor=0, began=self._today
        )
        if self._hashes_all:
            self._evidence = "every block"
        else:
            self._set_description(len(selected), range(0))

    def _sampled_blocks(self) -> Collection[int]:
        """The blocks whose checksums are learnt though not all are: always the same."""
        if self._hashes_all:
            return ()
        some = random.Random(self._seed).sample(
            range(self._count), min(self._options.sample_count, self._count)
        )
        return frozenset(some)

    def _state(self, number: int, digest: bytes) -> int:
        """Whether the record of a block outside of the lot tells its digest."""
        if self._digests.states[number] in (RECORDED, CHANGED):
            return self._digests.states[number]
        return KNOWN if self._digests.get(number) == digest else CHANGED

    def _record(self, block: Block, digest: bytes | None, state: int) -> FileRecord:
        sha256 = None if digest is None or state == KNOWN else digest.hex()
        return FileRecord(
            block.path,
            block.size,
            () if sha256 is None else (Digest("sha256", sha256, CLAIMED_BY, True),),
            (Location(block.url, self._volume.scheme),),
            # Without an id that moved, what had no checksum before would seem to be the same.
            upstream_id=f"seen:{sha256[:16]}" if sha256 is not None and state == CHANGED else None,
            retention=Retention.MUTABLE_BUCKET,
        )

    def _set_description(self, sampled: int, rolled: range) -> None:
        """Says what was compared, for people and for the facts."""
        phrases = ["metadata"]
        if sampled:
            phrases.append(f"{sampled:,} sampled block{'s' if sampled > 1 else ''}")
        if rolled:
            last = f"–{rolled.stop:,}" if len(rolled) > 1 else ""
            phrases.append(
                f"block{'s' if last else ''} {rolled.start + 1:,}{last} of {self._count:,} in the"
                f" rolling pass begun {self._check_progress.began}"
            )
        self._check_description = ", ".join(phrases) if len(phrases) > 1 else "metadata only"
        count = sampled + len(rolled)
        self._evidence = (
            f"metadata and a sample of {count:,} block{'s' if count > 1 else ''}"
            if count
            else "metadata only"
        )
