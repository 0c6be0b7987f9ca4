"""The interface between an archive's source and the crawler.

Sources are registered in the entry point group ``neuromirror.sources``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from msgspec import Struct
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

EMBARGOED: Final = "embargoed"
"""Why a dataset that needs credentials is unavailable to everyone else."""


class KnownContent(Struct, frozen=True):
    """Recorded properties of an object's content, found by its ETag.

    Attributes
    ----------
    size
        Size in bytes; None if unknown.
    part_size
        Part size in bytes of a multipart upload; None for another ETag, or if unknown.
    sha256
        The digest that upstream once stated; None if it stated none.
    """

    size: int | None
    part_size: int | None
    sha256: Digest | None


class VisitContext(Protocol):
    """The results of earlier visits, which a source looks up to avoid repeated requests.

    The crawler implements it and passes it to :meth:`Source.listing`.
    """

    @property
    def deep(self) -> bool:
        """Whether the source must read everything again that it can, and trust no memo."""
        ...

    @property
    def memo(self) -> bytes | None:
        """The :meth:`Listing.memo` of the last accepted listing of this version, if any."""
        ...

    @property
    def workspace(self) -> Path:
        """A folder for this version, created on first use.

        It survives an interrupted visit, and is removed once the listing has been read.
        """
        ...

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """Return, for each URL, the last known location with a version id.

        Parameters
        ----------
        urls
            URLs of objects.

        Returns
        -------
        list[Location | None]
            One location or None per URL, in the same order.
        """
        ...

    def record_refusal(self, url: str) -> bool:
        """Record that a bucket refuses an object, and return whether the refusal is lasting.

        A refusal is lasting if visits over a day or longer all met it. Thread-safe.

        Parameters
        ----------
        url
            The URL of the object.

        Returns
        -------
        bool
            Whether the file can be left out as refused.
        """
        ...

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """Return the known content of each ETag (``<md5>`` or ``<md5>-<parts>``).

        Parameters
        ----------
        etags
            ETags without quotes.

        Returns
        -------
        list[KnownContent | None]
            One content or None per ETag, in the same order.
        """
        ...


class Listing(ABC):
    """One reading of a version's files; a source subclasses it.

    The crawler first calls :meth:`is_unchanged` if it has a memo. If that is False, it reads
    :meth:`entries` to the end, once, and then calls :meth:`confirm_version`. The other methods are
    called after that.

    Parameters
    ----------
    version
        The version; a subclass may replace it while its entries are read.
    facts, documents
        Descriptive metadata and metadata files; a subclass may complete both until its last entry
        was read.
    web_remotes, special_remotes
        Remotes that a clone needs for the files' locations.
    late_sha256
        Whether upstream will state a sha256 of every file later.
    loss_hint
        Upstream's explanation why files may be missing; shown to the operator who has to approve
        a loss.
    unversioned
        Whether the bucket keeps no old object versions.
    manifest_only
        Whether the version is one array with too many files for git, to be listed in a manifest
        only.
    can_find_present
        Whether :meth:`find_present` can look up missing files; needless if upstream states totals,
        which the listing is compared with.

    Attributes
    ----------
    lacks_sizes
        Whether upstream's total counts bytes of entries that are being written, whose rows state
        none: then it is a limit of the listed bytes. Complete after the last entry.
    """

    lacks_sizes = False

    def __init__(
        self,
        version: VersionRef,
        facts: DatasetFacts,
        documents: tuple[Document, ...] = (),
        *,
        web_remotes: tuple[WebRemote, ...] = (),
        special_remotes: tuple[SpecialRemote, ...] = (),
        late_sha256: bool = False,
        loss_hint: str = "",
        unversioned: bool = False,
        manifest_only: bool = False,
        can_find_present: bool = False,
    ) -> None:
        self.version = version
        self.facts = facts
        self.documents = documents
        self.web_remotes = web_remotes
        self.special_remotes = special_remotes
        self.late_sha256 = late_sha256
        self.loss_hint = loss_hint
        self.unversioned = unversioned
        self.manifest_only = manifest_only
        self.can_find_present = can_find_present

    @abstractmethod
    def entries(self) -> Iterator[ListingEntry]:
        """Yield the files, exclusions and components, in any order; called once.

        Returns
        -------
        Iterator[ListingEntry]
            A file, exclusion or component.

        Raises
        ------
        UnreliableListingError
            If the listing may be incomplete or inconsistent.
        NetError
            If upstream cannot be read.
        """

    @abstractmethod
    def confirm_version(self) -> VersionRef:
        """Return the version as upstream states it after the last entry.

        A difference from :attr:`version` means that upstream changed during the listing.

        Returns
        -------
        VersionRef
            The version, with upstream's summary.

        Raises
        ------
        UnreliableListingError
            If the source itself finds that upstream changed.
        """

    def is_unchanged(self) -> bool:
        """Return whether upstream still matches :attr:`VisitContext.memo`, without its entries.

        Returns
        -------
        bool
            False if the entries must be read.
        """
        return False

    def memo(self) -> bytes | None:
        """Return the data by which :meth:`is_unchanged` compares in the next visit, or None.

        Returns
        -------
        bytes | None
            Any bytes; the crawler stores them with the state.
        """
        return None

    def renewed_memo(self) -> bytes | None:
        """Return a memo to replace the stored one after :meth:`is_unchanged`; None to keep it.

        Returns
        -------
        bytes | None
            Any bytes, as from :meth:`memo`.
        """
        return None

    def pending_items(self) -> bytes | None:
        """Return the items that upstream has yet to complete, for :class:`SupportsPendingCheck`.

        None if only another visit can detect whether they are complete.

        Returns
        -------
        bytes | None
            Any bytes, which only the source reads.
        """
        return None

    def find_present(self, paths: Sequence[bytes]) -> list[bytes]:
        """Return the given paths that upstream still has, although the listing lacks them.

        It is called only if :attr:`can_find_present` is set.

        Parameters
        ----------
        paths
            Upstream's paths.

        Returns
        -------
        list[bytes]
            The paths that upstream still has.
        """
        return []

    def describe_checks(self) -> str:
        """Describe the part of the version that was compared, such as a sample; empty if all was.

        Returns
        -------
        str
            A sentence, or an empty text.
        """
        return ""

    def problems(self) -> Sequence[str]:
        """Return one line for each item that is left out because upstream contradicts itself.

        A listing with problems makes the visit partial, and the next visit reads it again.

        Returns
        -------
        Sequence[str]
            The lines, for the operator.
        """
        return ()

    def archived_count(self) -> int:
        """Return the number of files that must be restored before they can be read.

        Returns
        -------
        int
            The number of files.
        """
        return 0

    def refused_count(self) -> int:
        """Return the number of files that upstream lists but refuses to serve.

        Returns
        -------
        int
            The number of files.
        """
        return 0


class ComponentEntry(Struct, frozen=True):
    """An entry that is a dataset of its own, such as a Zarr asset.

    Attributes
    ----------
    path
        The component's path in the listed version.
    size
        The component's bytes in upstream's totals, where it counts as one file.
    version
        The component's version. ``version.upstream`` is upstream's checksum, if there is one;
        ``version.claimed_totals`` are upstream's totals.
    listing
        Opens the listing of its files, which raises
        :class:`~neuromirror.sources.UnreliableListingError` unless they match the checksum.
    """

    path: bytes
    size: int
    version: VersionRef
    listing: Callable[[VisitContext], Listing]

    @property
    def dataset(self) -> DatasetRef:
        """The component's dataset."""
        return self.version.dataset


ListingEntry = FileRecord | ExcludedEntry | ComponentEntry


class Estimate(Struct, frozen=True):
    """The cost of mirroring a dataset for the first time.

    Attributes
    ----------
    files, bytes
        Totals of the listed files.
    fetched
        Bytes that the visit reads once, to compute checksums.
    requests
        Minimum number of requests.
    """

    files: int
    bytes: int
    fetched: int = 0
    requests: int = 0


@runtime_checkable
class SupportsPendingCheck(Protocol):
    """A source that can check the pending items of a dataset without a visit."""

    def is_still_pending(self, dataset: DatasetRef, pending: bytes) -> bool:
        """Return whether upstream has completed none of :meth:`Listing.pending_items`.

        The result is also False if this cannot be determined, so that a visit is made.

        Parameters
        ----------
        dataset
            The dataset.
        pending
            The bytes from :meth:`Listing.pending_items`.

        Returns
        -------
        bool
            False if a visit should be made.
        """
        ...


@runtime_checkable
class EmbargoAwareSource(Protocol):
    """A source with datasets that only their owners may read."""

    @property
    def is_private_only(self) -> bool:
        """Whether nothing of the archive may be in the public store."""
        ...

    def private(self) -> Source | None:
        """Return the source of the private datasets, with credentials; None if they are skipped.

        Returns
        -------
        Source | None
            The source.

        Raises
        ------
        ConfigurationError
            An option or the credentials are missing.
        """
        ...

    def is_open(self, dataset: DatasetRef) -> bool:
        """Return whether everyone may read a dataset.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            False while only its owners may read it.
        """
        ...

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Return whether a dataset that upstream calls open may go into the public store.

        Checked with a request without a token, unless no request has a token.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether the dataset may be published.
        """
        ...


class LocatedDataset(Struct, frozen=True):
    """The dataset that an address of upstream names, with version and path if it names them.

    Attributes
    ----------
    local_id
        The id of the dataset in the mirror.
    version
        The label of a version; None if the address names no version.
    path
        The path of a file or folder in the dataset, without a final slash; None for the dataset.
    is_included
        Whether the mirror's options include the dataset.
    """

    local_id: str
    version: str | None = None
    path: str | None = None
    is_included: bool = True


@runtime_checkable
class SupportsLocate(Protocol):
    """A source that understands upstream's own addresses."""

    def locate(self, address: str) -> LocatedDataset | None:
        """Resolve an address of this archive, if possible without a request.

        Parameters
        ----------
        address
            An identifier or URL.

        Returns
        -------
        LocatedDataset or None
            None if it is not an address of this archive.
        """
        ...


class Source(Protocol):
    """One archive, bound to a mirror's name and options.

    A subclass overrides :meth:`history`, :meth:`capabilities`, :meth:`estimate` and
    :meth:`superdataset` only if its archive has something to return.

    Parameters
    ----------
    mirror
        The mirror's name.
    """

    Options: ClassVar[type[BaseModel]]
    """The pydantic model of the mirror file's ``[options]`` table."""

    mirror: str
    uri: str
    """The archive's URI, from which the id of the mirror's superdataset is derived."""

    def __init__(self, mirror: str, options: Any, session: Session) -> None: ...

    @abstractmethod
    def dataset(self, local_id: str) -> DatasetRef:
        """Return the reference for a local id, without a request.

        Parameters
        ----------
        local_id
            The local id, as in ``<mirror>:<local id>``.

        Returns
        -------
        DatasetRef
            The reference.

        Raises
        ------
        MalformedIdError
            If no dataset can have this id.
        """
        ...

    @abstractmethod
    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all datasets of the archive, with as few requests as possible.

        Returns
        -------
        Iterator[DatasetHint]
            The hint of a dataset; equal fingerprints in two calls mean that nothing changed.
        """
        ...

    @abstractmethod
    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return the hint of one dataset.

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
            If upstream states that it does not exist.
        """
        ...

    @abstractmethod
    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return published versions, oldest first, then observed ones (a draft).

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        list[VersionRef]
            The versions.
        """
        ...

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return earlier states that upstream can still list, newer than ``since``, oldest first.

        Each has a time and can be passed to :meth:`listing`. Empty if upstream keeps no earlier
        states, or if :meth:`versions` has all of them.

        Parameters
        ----------
        dataset
            The dataset.
        since
            The time of the last known state; None for all states.

        Returns
        -------
        list[VersionRef]
            The states.
        """
        return []

    def capabilities(self) -> Mapping[str, str]:
        """Return the capabilities that were detected upstream, by name; empty if they never vary.

        Returns
        -------
        Mapping[str, str]
            The value by the name of the capability.
        """
        return {}

    @abstractmethod
    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a version.

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
        """
        ...

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """Return the cost of a first visit; None if only the listing has the sizes.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        Estimate | None
            The cost.
        """
        return None

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """Return the superdataset of all datasets whose local ids start with ``id_prefix/``.

        Its URI is upstream's for that level (a collection, an experiment). None if those datasets
        belong to the mirror's own superdataset.

        Parameters
        ----------
        id_prefix
            The first segments of the local ids.

        Returns
        -------
        DatasetRef | None
            The reference of the superdataset.
        """
        return None
