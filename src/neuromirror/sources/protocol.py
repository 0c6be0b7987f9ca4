"""What a source of datasets must offer.

Sources are registered in the entry point group ``neuromirror.sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    Location,
    SpecialRemote,
    VersionRef,
    WebRemote,
)
from neuromirror.net import Session


@dataclass(frozen=True, slots=True)
class KnownContent:
    """What is known of a content that upstream names by its ETag alone.

    ``part_size`` in bytes, of a multipart ETag; ``sha256`` as upstream once claimed it.
    """

    size: int | None
    part_size: int | None
    sha256: Digest | None


class VisitContext(Protocol):
    """What earlier visits learnt, so that a source need not ask again.

    ``memo`` is what :attr:`AnnexedFileListing.memo` gave when this version was last taken whole,
    None where
    nothing is remembered. ``workspace`` is a folder of this version's own (it exists, and is
    empty at first) that stays when a visit is killed, and is removed once its listing was taken.
    ``deep`` asks for the thorough way: nothing that could be read again is to be believed.
    """

    @property
    def deep(self) -> bool:
        """Whether the visit is a deep one."""
        ...

    @property
    def memo(self) -> bytes | None:
        """What :attr:`AnnexedFileListing.memo` gave the last time."""
        ...

    @property
    def workspace(self) -> Path:
        """The folder, made when it is first asked for."""
        ...

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """The exact location last learnt for each plain URL."""
        ...

    def record_refusal(self, url: str) -> bool:
        """Record that a bucket refuses an object, and return whether that is no passing fault.

        It is none once the object was refused in visits of a day or longer. May be called by any
        thread.
        """
        ...

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """What is known of the content of each ETag: ``<md5>`` or ``<md5>-<parts>``."""
        ...


def _never_unchanged() -> bool:
    return False


def _no_memo() -> bytes | None:
    return None


def _no_text() -> str:
    return ""


def _no_problems() -> Sequence[str]:
    return ()


@dataclass(slots=True)
class Listing:
    """One reading of a version's files.

    ``entries`` may be read once, in any order upstream gives; it raises
    :class:`~neuromirror.sources.UnreliableListingError` or a :class:`~neuromirror.net.NetError`
    when
    the listing cannot be trusted to be whole. After the last entry ``closing`` asks upstream for
    the version once more: the proof is that nothing moved meanwhile.

    ``unchanged`` asks upstream whether all is as it was when ``known.memo`` was made, without
    reading the entries; ``memo``, after the last entry, gives what that takes (None: the source
    does not offer it). ``renewed``, after ``unchanged`` said yes, gives what is to be remembered in
    its place (None: the same). ``checked`` says in words, after either, what was compared, where
    that is less than everything (upstream gives no checksums, and a sample was read).

    ``pending``, after the last entry, names what upstream has yet to complete, as
    :meth:`SupportsPendingCheck.still_pending` takes it (None: only a visit can tell).

    ``loss_hint`` says why files may be missing that an earlier listing had, where upstream tells:
    it is shown to the operator whose approval a loss needs.

    ``problems``, after either, returns a line for each thing that is left out, or incomplete,
    because upstream contradicts itself: the visit is partial and looks at it again each time.
    ``refused`` returns how many files upstream lists and refuses to be asked about: what it said
    in the listing is all that is known of them.

    ``find_present`` gives those of some missing paths that upstream has after all; None where the
    listing proves itself by a summary.
    """

    version: VersionRef
    facts: DatasetFacts
    documents: tuple[Document, ...]  # both may be set until the last entry was read
    entries: Iterator[FileRecord | ExcludedEntry | ComponentEntry]
    confirm_version: Callable[[], VersionRef] = field(repr=False)
    web_remotes: tuple[WebRemote, ...] = ()
    special_remotes: tuple[SpecialRemote, ...] = ()
    late_sha256: bool = False  # upstream will tell a sha256 of every file some time later
    loss_hint: str = ""
    unversioned: bool = False  # the bucket keeps no old object versions
    manifest_only: bool = (
        False  # it is one array: too large for git, its files are in a manifest alone
    )
    is_unchanged: Callable[[], bool] = field(default=_never_unchanged, repr=False)
    memo: Callable[[], bytes | None] = field(default=_no_memo, repr=False)
    renewed_memo: Callable[[], bytes | None] = field(default=_no_memo, repr=False)
    pending_items: Callable[[], bytes | None] = field(default=_no_memo, repr=False)
    find_present: Callable[[Sequence[bytes]], list[bytes]] | None = field(default=None, repr=False)
    describe_checks: Callable[[], str] = field(default=_no_text, repr=False)
    problems: Callable[[], Sequence[str]] = field(default=_no_problems, repr=False)
    refused_count: Callable[[], int] = field(default=lambda: 0, repr=False)


@dataclass(frozen=True, slots=True)
class ComponentEntry:
    """An entry of a listing that is a dataset of its own: a Zarr asset.

    ``path`` is its place in the version listed, ``size`` in bytes what upstream's summary counts
    it as (one file of that many bytes). ``version`` names its state: ``version.upstream`` is
    upstream's checksum of it where there is one, and then the label too; ``version.claimed``
    counts its entries. ``listing`` reads them; it raises
    :class:`~neuromirror.sources.UnreliableListingError` when they do not add up to the checksum.
    """

    path: bytes
    size: int
    version: VersionRef
    listing: Callable[[VisitContext], Listing] = field(repr=False)

    @property
    def dataset(self) -> DatasetRef:
        """The dataset that the part is."""
        return self.version.dataset


@dataclass(frozen=True, slots=True)
class Estimate:
    """What mirroring a dataset would take, told before it begins.

    ``files`` and ``bytes`` are what it would list; ``fetched`` bytes would be read once to learn
    checksums, ``requests`` be made at least.
    """

    files: int
    bytes: int
    fetched: int = 0
    requests: int = 0


@runtime_checkable
class SupportsPendingCheck(Protocol):
    """A source that can ask about the pending items of a dataset alone."""

    def is_still_pending(self, dataset: DatasetRef, pending: bytes) -> bool:
        """Return whether upstream has completed none of the items of
        :attr:`AnnexedFileListing.pending`.

        False also where that cannot be found out: then a visit is made.
        """
        ...


class Source(Protocol):
    """One upstream archive, bound to a mirror's name and options."""

    Options: ClassVar[type[BaseModel]]
    """The pydantic model of the mirror file's ``[options]`` table."""

    mirror: str
    uri: str
    """Upstream's own URI, of which the mirror's super-dataset id is made."""

    def __init__(self, mirror: str, options: Any, session: Session) -> None: ...

    def dataset(self, local_id: str) -> DatasetRef:
        """The reference of a local id; no request is made; ValueError for a malformed id."""
        ...

    def datasets(self) -> Iterator[DatasetHint]:
        """All datasets of the archive, with the fewest requests."""
        ...

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dataset's hint, asked for alone; raises :class:`DatasetNotFoundError`."""
        ...

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Published versions, oldest first, then what can only be observed (a draft)."""
        ...

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Earlier states that upstream can still list, oldest first, younger than ``since``.

        Their times are set, and each can be given to :meth:`listing`. Empty where upstream keeps
        none, or its versions are all in :meth:`versions`.
        """
        ...

    def capabilities(self) -> Mapping[str, str]:
        """What upstream was found to allow, in words by name; a few requests; empty if fixed."""
        ...

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """The files of a version."""
        ...

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """What a first visit would take; None where only listing it can tell."""
        ...

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """The super-dataset of all datasets whose local id begins with ``local_ids`` and a slash.

        None where there is none between them and the mirror's own. Its URI is upstream's of what
        the datasets have in common (a collection, an experiment).
        """
        ...
