"""The listing of a volume's blocks, their digests, and the detection of changed blocks.

Storage of a volume's block digests between visits.

A memo consists of a JSON line, one byte per block (compressed with zlib), and the sha256 of each
known block, 32 bytes each in order of their numbers. While a volume is being read, digests are also
appended to a file in the visit's workspace, so that an interrupted visit can be resumed.

The listing of a volume's blocks, and the detection of changed blocks.

Upstream states no checksums, no ETags and no history. The sha256 of a block's chunk file is learned
by reading the block once. Later visits check in tiers whether it is unchanged: the metadata, a
random sample of blocks, and a rolling pass that reads every block in time. If one block differs,
all known ones are read again, because a changed block rarely comes alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from neuromirror.model import (
    CHECKED_BY_VISIT,
    DatasetFacts,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    Location,
    Retention,
    VersionRef,
    metadata_digest,
)
from neuromirror.net import Session
from neuromirror.sources.errors import UpstreamChangingError
from neuromirror.sources.protocol import Listing, ListingEntry, VisitContext
from neuromirror.sources.volumes.channels import check_size
from neuromirror.sources.volumes.fetching import BlockHasher
from neuromirror.sources.volumes.grid import Block, Volume, blocks, blocks_by_number
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.urls import VOLUME_REMOTE

SIZE: Final = 32
UNKNOWN: Final = 0
KNOWN: Final = 1
"""Only used for comparison, and not in the file's record."""
RECORDED: Final = 2
CHANGED: Final = 3
"""Recorded because the block changed."""

_FORMAT: Final = 1
_ENTRY: Final = struct.Struct(">I32sI")


class BlockDigests:
    """The sha256 of each block of a volume, by the block's number, with a state per block.

    The state is whether the digest is unknown, is known, or is also in the mirrored record.
    """

    def __init__(self, count: int) -> None:
        self.states = bytearray(count)
        self._values = bytearray(count * SIZE)

    def __len__(self) -> int:
        return len(self.states)

    def get(self, number: int) -> bytes | None:
        """Return a block's digest (32 bytes); None if unknown."""
        if self.states[number] == UNKNOWN:
            return None
        return bytes(self._values[number * SIZE : number * SIZE + SIZE])

    def put(self, number: int, digest: bytes, state: int) -> None:
        """Set a block's digest and state."""
        self._values[number * SIZE : number * SIZE + SIZE] = digest
        self.states[number] = state

    def known(self) -> list[int]:
        """Return the numbers of the known blocks."""
        return [number for number, state in enumerate(self.states) if state]

    def dump(self) -> bytes:
        """Return the digests in the memo's format."""
        packed = zlib.compress(bytes(self.states))
        parts: list[bytes | bytearray] = [struct.pack(">I", len(packed)), packed]
        if UNKNOWN in self.states:
            parts += [self._values[n * SIZE : n * SIZE + SIZE] for n in self.known()]
        else:
            parts.append(self._values)
        return b"".join(parts)


def load_digests(count: int, stored: bytes) -> BlockDigests:
    """Decode the output of :meth:`BlockDigests.dump`.

    ``count`` is the number of blocks. Raises ValueError if ``stored`` is invalid.
    """
    made = BlockDigests(count)
    if len(stored) < 4:
        raise ValueError("too short")
    (length,) = struct.unpack_from(">I", stored)
    try:
        inflate = zlib.decompressobj()
        states = inflate.decompress(stored[4 : 4 + length], count + 1)
    except zlib.error as error:
        raise ValueError("damaged") from error
    made.states[:] = states
    values = stored[4 + length :]
    if len(states) != count or len(values) != SIZE * (count - states.count(UNKNOWN)):
        raise ValueError("of another volume")
    if UNKNOWN not in states:
        made._values[:] = values
    else:
        for at, number in enumerate(made.known()):
            made.put(number, values[at * SIZE : at * SIZE + SIZE], states[number])
    return made


class CheckProgress(Struct, frozen=True):
    """How far the repeated reading of a volume's blocks has come, kept from visit to visit.

    Attributes
    ----------
    shape
        A digest of the blocks and how they are read.
    metadata
        The digest of all documents.
    signal
        Upstream's value that changes if voxels may have been written.
    visit
        The number of visits.
    cursor
        The number of the next block in the rolling pass.
    began
        The start of the rolling pass (UTC date, ISO 8601).
    """

    shape: str
    metadata: str
    signal: str
    visit: int
    cursor: int
    began: str

    def advanced_by(self, count: int, blocks: int, day: str) -> CheckProgress:
        """Return the progress after a visit that checked ``count`` of ``blocks`` in the pass."""
        cursor = self.cursor + count
        if cursor < blocks:
            return replace(self, visit=self.visit + 1, cursor=cursor)
        return replace(self, visit=self.visit + 1, cursor=0, began=day)


def dump_memo(progress: CheckProgress, digests: BlockDigests) -> bytes:
    """Encode the digests of a volume's blocks and the progress of the check as a memo."""
    head = {"format": _FORMAT, "blocks": len(digests), **to_builtins(progress)}
    line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    return line + b"\n" + digests.dump()


def load_memo(
    memo: bytes | None, shape: str, count: int
) -> tuple[CheckProgress, BlockDigests] | None:
    """Decode the memo of a volume, as :func:`dump_memo` encodes it.

    Parameters
    ----------
    memo
        The memo; None at the first visit.
    shape
        The expected :attr:`CheckProgress.shape`.
    count
        The number of the volume's blocks.

    Returns
    -------
    tuple[CheckProgress, BlockDigests] | None
        The content; None without a memo, and for one that is invalid or of another shape or count.
    """
    head, newline, rest = (memo or b"").partition(b"\n")
    if not newline:
        return None
    try:
        found = json.loads(head)
        if (found.pop("format"), found.pop("blocks"), found["shape"]) != (_FORMAT, count, shape):
            return None
        return CheckProgress(**found), load_digests(count, rest)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class DigestLog:
    """A file of block digests in the order in which they were read, for interrupted visits.

    An entry consists of the block's number, its sha256, and the CRC-32 of both. A broken entry
    comes from a process that was killed; it and everything after it is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether an interrupted visit left a log."""
        return self._path.is_file()

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield the valid entries, and truncate the file after them."""
        if not self.exists():
            return
        whole = 0
        with self._path.open("r+b") as file:
            while len(entry := file.read(_ENTRY.size)) == _ENTRY.size:
                number, digest, check = _ENTRY.unpack(entry)
                if zlib.crc32(entry[:-4]) != check:
                    break
                whole += _ENTRY.size
                yield number, digest
            file.truncate(whole)

    def add(self, number: int, digest: bytes) -> None:
        """Append a digest."""
        entry = _ENTRY.pack(number, digest, 0)[:-4]
        with self._path.open("ab", buffering=0) as file:
            file.write(entry + zlib.crc32(entry).to_bytes(4, "big"))


CLAIMED_BY: Final = "neuromirror"

_SPEC: Final = 1
"""Version of the rules that turn a volume into records; increment it when they change."""


def fingerprint(volume: Volume, options: VolumeOptions) -> str:
    """Return 32 hex digits that change if a volume's blocks change, or the options to read them."""
    levels = [(level.name, level.start, level.stop, level.chunk) for level in volume.levels]
    identity = [
        *(_SPEC, volume.scheme, volume.host, volume.path, volume.secure, volume.dtype),
        *(volume.times, levels, options.hash),
        options.sample_count if options.hash == "none" else None,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


class VolumeListing(Listing):
    """The listing of a volume: its metadata documents, and one file per block.

    Parameters
    ----------
    version
        The version to list.
    volume
        The volume, planned by :func:`~neuromirror.sources.volumes.channels.plan_volume`.
    context, session, options
        Results of earlier visits; the session for requests; the mirror's options.
    facts, documents
        Facts and documents of the volume, including its Zarr metadata. The listing adds an
        attribute to the facts that describes how many blocks were checked.
    reload_volume
        Reads the volume's description again and plans it, to confirm that it is the same.
    signal
        Upstream's value that changes if voxels may have been written (a downsample status). If it
        differs from the memo's, every block is read again.
    excluded
        Entries for levels that are left out.
    loss_hint
        As for :class:`~neuromirror.sources.Listing`.

    Raises
    ------
    TooManyFilesError
        If the volume has more blocks than the options allow.
    """

    def __init__(
        self,
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
        excluded: Sequence[ExcludedEntry] = (),
        loss_hint: str = "",
    ) -> None:
        check_size(volume, options, version.dataset.name)
        super().__init__(
            version,
            facts,
            tuple(sorted(documents, key=lambda document: document.path)),
            special_remotes=(VOLUME_REMOTE,),
            loss_hint=loss_hint,
        )
        self._name = version.dataset.name
        self._seed = version.dataset.dataset_id
        self._volume = volume
        self._options = options
        self._reload_volume = reload_volume
        self._excluded = excluded
        self._count = volume.files
        self._hasher = BlockHasher(session, self._name, options.workers)
        self._shape = fingerprint(volume, options)
        self._hashes_all = options.hash == "fetch"
        self._today = datetime.now(UTC).date().isoformat()
        metadata = metadata_digest(self.documents)
        self._check_progress = CheckProgress(self._shape, metadata, signal, 0, 0, self._today)
        self._digests = BlockDigests(self._count)
        self._before: CheckProgress | None = None
        memo = load_memo(context.memo, self._shape, self._count)
        if memo is not None:
            self._before, self._digests = memo
            self._check_progress = replace(self._before, metadata=metadata, signal=signal)
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
        """Return the log that keeps the digests of an interrupted visit; None if none are read."""
        if not (self._hashes_all or self._options.sample_count or self._options.rolling_count):
            return None
        folder = context.workspace
        if not folder.is_dir():
            return None
        identity = f"{self._shape} {self._check_progress.signal}"
        suffix = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return DigestLog(folder / f"digests-{suffix}")

    def confirm_version(self) -> VersionRef:
        """Return the version.

        Returns
        -------
        VersionRef
            The version.

        Raises
        ------
        UpstreamChangingError
            If the volume's extent or levels changed while it was read.
        """
        if fingerprint(self._reload_volume(), self._options) != self._shape:
            raise UpstreamChangingError(
                f"{self._name}: the volume's extent or levels changed while it was read"
            )
        return self.version

    # --- comparison with the memo

    def is_unchanged(self) -> bool:
        """Return whether the metadata and the checked blocks match the memo.

        Returns
        -------
        bool
            False if the entries must be read.
        """
        if self._before is None or self._before.metadata != self._check_progress.metadata:
            return False
        return self._is_same()

    def describe_checks(self) -> str:
        """Describe the compared blocks; empty if every block was read.

        Returns
        -------
        str
            A sentence, or an empty text.
        """
        return self._check_description

    def memo(self) -> bytes:
        """Return the digests and the progress of the rolling pass.

        Returns
        -------
        bytes
            The memo, or None.
        """
        return dump_memo(self._check_progress, self._digests)

    def renewed_memo(self) -> bytes:
        """Return the memo with the progress of this visit's checks.

        Returns
        -------
        bytes
            The memo, or None.
        """
        return self.memo()

    def _is_same(self) -> bool:
        """Return whether the memo applies: the checked blocks match it."""
        if self._trusts_memo and not self._compared:
            self._compared = True
            self._trusts_memo = self._compare()
        return self._trusts_memo

    def _compare(self) -> bool:
        progress = self._check_progress
        stop = min(progress.cursor + self._options.rolling_count, self._count)
        rolled = range(progress.cursor, stop)
        population = range(self._count) if self._hashes_all else self._digests.known()
        sample = random.Random(f"{self._seed} {progress.visit}").sample(
            population, min(self._options.sample_count, len(population))
        )
        read: list[tuple[int, bytes]] = []
        with closing(self._read(sorted({*sample, *rolled}))) as digests:
            for number, digest in digests:
                read.append((number, digest))
                if self._digests.get(number) not in (None, digest):
                    self._log_changed(read)
                    return False
        for number, digest in read:
            if self._digests.states[number] == UNKNOWN:
                self._digests.put(number, digest, KNOWN)
        self._set_description(len(sample), rolled)
        if read:
            self._check_progress = progress.advanced_by(len(rolled), self._count, self._today)
        return True

    def _log_changed(self, read: Sequence[tuple[int, bytes]]) -> None:
        """Log blocks of which one changed, for the case that this visit is interrupted.

        The next visit checks another sample and could miss the change.
        """
        if self._digest_log is not None:
            for number, digest in read:
                self._digest_log.add(number, digest)

    def _read(
        self, numbers: Iterable[int], note: Callable[[int, bytes], None] | None = None
    ) -> Generator[tuple[int, bytes], None, None]:
        return self._hasher.digests(blocks_by_number(self._volume, numbers), note)

    # --- entries

    def entries(self) -> Iterator[ListingEntry]:
        """Yield the excluded levels and all blocks; then add to the facts what was checked.

        Yields
        ------
        ListingEntry
            A file, exclusion or component.

        Raises
        ------
        BlockReadError
            If a block cannot be read.
        """
        yield from self._excluded
        if self._is_same():
            digests = self._digests
            for number, block in enumerate(blocks(self._volume)):
                yield self._record(block, digests.get(number), digests.states[number])
        else:
            yield from self._read_all()
        attributes = [*self.facts.attributes, (CHECKED_BY_VISIT, self._evidence)]
        self.facts = replace(self.facts, attributes=tuple(sorted(attributes)))

    def _read_all(self) -> Iterator[FileRecord]:
        """Read all blocks whose digests are needed, and yield the records of all blocks.

        Blocks in the log of an interrupted visit are not read again.
        """
        sampled = self._sampled_blocks()
        selected: Collection[int] = range(self._count)
        if not self._hashes_all:
            selected = {*sampled, *self._digests.known()}
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
                        if self._hashes_all or number in sampled
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
        """Return the fixed sample of blocks with recorded checksums; empty if all are hashed."""
        if self._hashes_all:
            return ()
        some = random.Random(self._seed).sample(
            range(self._count), min(self._options.sample_count, self._count)
        )
        return frozenset(some)

    def _state(self, number: int, digest: bytes) -> int:
        """Return the state of a block outside of the sample, given its new digest."""
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
            # the id shows a change of a block that had no checksum before
            upstream_id=f"seen:{sha256[:16]}" if sha256 is not None and state == CHANGED else None,
            retention=Retention.MUTABLE_BUCKET,
        )

    def _set_description(self, sampled: int, rolled: range) -> None:
        """Describe the compared blocks, for messages and for the facts."""
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
