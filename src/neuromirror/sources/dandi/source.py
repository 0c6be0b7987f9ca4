"""A source for DANDI and archives with the same API (EMBER, LINC, the DANDI sandbox).

The API is documented at ``<api>/docs/swagger/``. Comments name behavior that is known only
from the archive's source code.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

from neuromirror.model import ConfigurationError, DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.net import AccessDeniedError, NotFoundError, Session
from neuromirror.sources.dandi.archive import VERSION_PATTERN, DandiArchive, read_pages
from neuromirror.sources.dandi.listing import DandisetListing, is_still_pending
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.versions import (
    DRAFT,
    OPEN,
    RECENT_SECONDS,
    clean,
    fingerprint,
    parse_version,
)
from neuromirror.sources.dandi.zarr_listing import LOCAL_PREFIX
from neuromirror.sources.dandi_client import archive_at
from neuromirror.sources.errors import DatasetNotFoundError, MalformedIdError, UnexpectedReplyError
from neuromirror.sources.protocol import EMBARGOED, Listing, LocatedDataset, Source, VisitContext

_ID: Final = r"(?P<id>[0-9]{6})"
_IDENTIFIER: Final = re.compile(
    rf"(?P<instance>[A-Za-z][A-Za-z-]*):{_ID}(?:[/@](?P<version>[^/@]+))?/?\Z"
)
_CLIENT_URL: Final = re.compile(
    rf"dandi://(?P<instance>[^/]+)/{_ID}(?:@(?P<version>[^/]+))?(?:/(?P<path>.*))?\Z"
)
_DOI: Final = re.compile(
    r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?10\.[0-9]{4,9}/"
    rf"(?P<instance>[a-z-]+)\.{_ID}(?:/(?P<version>[^/]+))?/?\Z",
    re.IGNORECASE,
)
_API_PATH: Final = re.compile(rf"/dandisets/{_ID}(?:/versions/(?P<version>[^/]+))?(?:/.*)?\Z")
_PAGE_PATH: Final = re.compile(rf"/dandiset/{_ID}(?:/(?P<version>[^/]+))?(?:/files)?/?\Z")


def _locate(
    api: str, mirror: str, address: str, fetch_gui: Callable[[], str]
) -> LocatedDataset | None:
    """Parse an address of a dandiset; None if it is not in this archive.

    Parameters
    ----------
    api
        The URL of the archive's API.
    mirror
        The name of the mirror.
    address
        An identifier (``DANDI:000027``), a DOI, or a URL of the API, of a web page or of ``dandi``.
    fetch_gui
        Requests the URL of the web pages, for the page of an archive that is not built in.
    """
    for form in (_IDENTIFIER, _CLIENT_URL, _DOI):
        if (found := form.match(address)) is not None:
            if not _is_archive(found["instance"], api, mirror):
                return None
            path = unquote(found.groupdict().get("path") or "", errors="surrogateescape")
            return LocatedDataset(found["id"], found["version"], path.strip("/") or None)
    if not address.startswith(("https://", "http://")):
        return None
    if address.startswith(f"{api}/"):
        return _locate_page(address.removeprefix(api), _API_PATH, "path")
    page = urlsplit(address)
    if "/dandiset/" not in f"{page.path}{page.fragment}":
        return None
    archive = archive_at(api)
    host = urlsplit(archive.gui if archive else fetch_gui()).netloc.lower()
    if page.netloc.lower() not in {host, f"gui.{host}"}:
        return None
    # older pages have their path after the #
    rest = page.fragment or f"{page.path}?{page.query}"
    return _locate_page(rest, _PAGE_PATH, "location")


def _locate_page(rest: str, form: re.Pattern[str], parameter: str) -> LocatedDataset | None:
    path, _, query = rest.partition("?")
    found = form.match(path)
    if found is None:
        return None
    values = parse_qs(query, errors="surrogateescape").get(parameter, [""])
    return LocatedDataset(found["id"], found["version"], values[0].strip("/") or None)


def _is_archive(name: str, api: str, mirror: str) -> bool:
    """Return whether a name in an address is that of the mirror or of its archive."""
    lowered = name.lower()
    if lowered == mirror:
        return True
    archive = archive_at(api)
    known = archive.name if archive else ""
    return lowered in (known, known.removesuffix("-dandi"), known.removeprefix("ember-")) and (
        lowered != "dandi" or known == "dandi"
    )


_LOCAL_ID: Final = re.compile(r"[0-9]{6}\Z")
OPENED: Final = "opened"
"""Why a dandiset without embargo is unavailable in the source of the embargoed ones."""


class DandiSource(Source):
    """A DANDI archive as a :class:`~neuromirror.sources.Source`.

    For an embargoed dandiset it returns only the fact that it is embargoed. :meth:`private` returns
    a second source, for the embargoed dandisets only.
    """

    Options: ClassVar[type[DandiOptions]] = DandiOptions

    def __init__(
        self, mirror: str, options: DandiOptions, session: Session, *, is_private: bool = False
    ) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"{options.api}/"
        self._is_private = is_private
        self._archive = DandiArchive(mirror, options, session, is_private=is_private)
        self._zarrs = self._archive.zarrs
        self._listed_versions: tuple[DatasetRef | None, float, list[dict[str, Any]]]
        """The versions that the last hint listed, for the visit that follows it."""
        self._listed_versions = None, 0.0, []

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the reference of a dandiset, or of ``zarr/<id>``.

        Parameters
        ----------
        local_id
            The local id of the dataset, as in ``<mirror>:<local id>``.

        Returns
        -------
        DatasetRef
            The reference.

        Raises
        ------
        MalformedIdError
            The text is not an id of this archive.
        """
        if local_id.startswith(LOCAL_PREFIX):
            return self._zarrs.dataset(local_id)
        if not _LOCAL_ID.match(local_id):
            raise MalformedIdError(
                f"{self.mirror}: {local_id!r} is not a dandiset id, which has six digits, such "
                "as 000027"
            )
        return DatasetRef(self.mirror, local_id, f"{self.options.api}/dandisets/{local_id}/")

    def locate(self, address: str) -> LocatedDataset | None:
        """Return the dandiset, version and path that an address names.

        Only the page of an archive that is not built in takes a request, for the archive's
        ``/info/``.

        Parameters
        ----------
        address
            An identifier or URL.

        Returns
        -------
        LocatedDataset or None
            None if it is not an address of this archive.
        """
        return _locate(self.options.api, self.mirror, address, self._archive.web_pages)

    @property
    def is_private_only(self) -> bool:
        """False: with ``embargoed = "all"``, the public run still records the archive."""
        return False

    def private(self) -> DandiSource | None:
        """Return a source of the embargoed dandisets; None if the options skip them.

        Its records have no location except the API's download URL, which requires the token.

        Returns
        -------
        DandiSource or None
            The source with credentials, or None.

        Raises
        ------
        ConfigurationError
            If there is no token.
        """
        options = self.options
        if options.embargoed == "skip" or self._is_private:
            return None
        if not options.has_token:
            # where nothing is open, "skip" would put all of it into the public store
            otherwise = ', or write embargoed = "skip"' if options.embargoed == "private" else ""
            raise ConfigurationError(
                f'mirror {self.mirror!r}: embargoed = "{options.embargoed}" needs a token; set '
                f"{options.token.label if options.token else 'token_env'}{otherwise}; the "
                "other mirrors can be synced by name: neuromirror sync MIRROR"
            )
        return type(self)(self.mirror, options, self.session, is_private=True)

    def is_open(self, dataset: DatasetRef) -> bool:
        """Return whether the dandiset and its draft's assets are readable without the token.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether everyone may read it.
        """
        with self.session.anonymous() as session:
            try:
                row = session.get_json(dataset.source_uri)
                session.get_json(f"{dataset.source_uri}versions/{DRAFT}/assets/?page_size=1")
            except (AccessDeniedError, NotFoundError):
                return False
        return isinstance(row, dict) and row.get("embargo_status") == OPEN

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Return whether a dataset that the archive calls open may be published.

        If there is a token, the dandiset and its draft's assets are requested once without it.
        Zarrs are checked in :meth:`hint`. Without a token every request is anonymous anyway.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether the dataset may be published.
        """
        if not self.options.has_token or _is_zarr(dataset):
            return True
        return self.is_open(dataset)

    def is_listed(self, dataset: DatasetRef) -> bool:
        """Return whether :meth:`datasets` would yield it; Zarrs are not in the archive's list.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether the list of the archive includes it.
        """
        return not _is_zarr(dataset)

    def _is_zarr_open(self, zarr: DatasetRef) -> bool:
        """Return whether the archive returns a Zarr without the token."""
        if self.options.embargoed == "all":
            return False
        with self.session.anonymous() as session:
            try:
                session.get_json(zarr.source_uri)
            except (AccessDeniedError, NotFoundError):
                return False
        return True

    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all dandisets that are not hidden, in order of id.

        With a token this includes the embargoed dandisets that it can read, as unavailable. If one
        dandiset is deleted and another created between two pages, a third can be missing without
        an error. Request the :meth:`hint` of a missing dandiset before treating it as removed.

        Yields
        ------
        DatasetHint
            The hint of a dataset, or of a problem.

        Raises
        ------
        UnexpectedReplyError
            A row of the list is malformed.
        UnreliableListingError
            Possibly after the first hints: completeness is known only at the end.
        """
        what = f"{self.mirror}: the list of dandisets"
        query = {"ordering": "id", "draft": "true", "empty": "true"}
        if self.options.has_token:
            query["embargoed"] = "true"
        for rows in read_pages(
            self.session,
            f"{self.options.api}/dandisets/",
            query,
            what=what,
            page_size=self.options.page_size,
            key="identifier",
            shrink=True,
        ):
            for row in rows:
                identifier = row.get("identifier") if isinstance(row, dict) else None
                if not isinstance(identifier, str) or not _LOCAL_ID.match(identifier):
                    raise UnexpectedReplyError(f"{what} has a row without a dandiset id")
                published = row.get("most_recent_published_version")
                hint = self._hint(self.dataset(identifier), row, published)
                if not (self._is_private and hint.unavailable):
                    yield hint

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one dandiset's hint.

        An embargoed dandiset is not in the list; it is recognized by the HTTP status of the reply.

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
            The archive reports that it does not exist.
        UnexpectedReplyError
            The reply does not describe the dandiset.
        """
        if _is_zarr(dataset):
            found = self._zarrs.hint(dataset)
            if self.options.has_token and not self._is_private and not self._is_zarr_open(dataset):
                return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
            return found
        try:
            row = self.session.get_json(dataset.source_uri)
            published = None
            if isinstance(row, dict) and row.get("most_recent_published_version") is not None:
                # The list names the version that was created last, this reply the one that was
                # saved last. They differ after an older version is saved. Both must give the same
                # fingerprint, so look up the version that was created last.
                versions = self._version_rows(dataset)
                self._listed_versions = dataset, time.monotonic(), versions
                published = max(
                    (version for version in versions if version.get("version") != DRAFT),
                    key=lambda one: (str(one.get("created")), str(one.get("version"))),
                    default=None,
                )
        except NotFoundError as error:
            raise self._not_found_error(dataset, error) from error
        except AccessDeniedError as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            # An archive that refuses every anonymous request refuses its list too: raise that.
            self.session.get_json(f"{self.options.api}/dandisets/?page_size=1")
            return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
        if not isinstance(row, dict) or row.get("identifier") != dataset.local_id:
            raise UnexpectedReplyError(f"{dataset.name}: the reply describes no such dandiset")
        return self._hint(dataset, row, published)

    def _not_found_error(self, dataset: DatasetRef, error: NotFoundError) -> Exception:
        """Return the error for a 404: only one with the API's JSON means that it was removed."""
        if error.detail is None:
            return error
        missing = DatasetNotFoundError(
            f"{dataset.name}: {error.url} reports that there is no such dandiset: {error.detail}"
        )
        missing.owner_may_delete = True
        return missing

    def _hint(self, dataset: DatasetRef, row: Mapping[str, Any], published: Any) -> DatasetHint:
        draft = row.get("draft_version")
        embargo = row.get("embargo_status")
        if not isinstance(embargo, str):
            raise UnexpectedReplyError(f"{dataset.name}: the reply lacks the embargo status")
        if self._is_private != (embargo != OPEN or self.options.embargoed == "all"):
            # without title or fingerprint, so that nothing about it can leak
            reason = OPENED if self._is_private else EMBARGOED
            return DatasetHint(dataset, reason, unavailable=reason)
        if not isinstance(draft, dict):
            # the visit of this dandiset raises the error; the others are visited all the same
            return DatasetHint(dataset, None)
        name = draft.get("name")
        return DatasetHint(
            dataset,
            fingerprint(draft, published, embargo),
            title=str(clean(name)) if isinstance(name, str) else "",
        )

    def _version_rows(self, dataset: DatasetRef) -> list[dict[str, Any]]:
        what = f"{dataset.name}: the list of versions"
        found: list[dict[str, Any]] = []
        for rows in read_pages(
            self.session,
            f"{dataset.source_uri}versions/",
            {"order": "created"},
            what=what,
            page_size=self.options.page_size,
            key="version",
            shrink=True,
        ):
            for row in rows:
                label = row.get("version") if isinstance(row, dict) else None
                if not isinstance(label, str) or not (
                    label == DRAFT or VERSION_PATTERN.match(label)
                ):
                    raise UnexpectedReplyError(f"{what} has a row without a version")
                found.append(row)
        if not any(row["version"] == DRAFT for row in found):
            # Every dandiset has a draft: without it the list is incomplete.
            raise UnexpectedReplyError(f"{what} lacks the draft")
        return found

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return published versions, oldest first, then the draft; of a Zarr, its current state.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        list[VersionRef]
            The versions.

        Raises
        ------
        DatasetNotFoundError
            If the archive reports that it does not exist.
        """
        if _is_zarr(dataset):
            return self._zarrs.versions(dataset)
        listed, at, rows = self._listed_versions
        self._listed_versions = None, 0.0, []
        if listed != dataset or time.monotonic() - at > RECENT_SECONDS:
            try:
                rows = self._version_rows(dataset)
            except NotFoundError as error:
                raise self._not_found_error(dataset, error) from error
        refs = [
            parse_version(dataset, row["version"], row, private=self._is_private) for row in rows
        ]
        refs.sort(key=lambda ref: (ref.kind is VersionKind.OBSERVED, ref.time, ref.upstream))
        self._archive.recent_versions.remember(refs)
        return refs

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return a Zarr's earlier states; empty for a dandiset, whose drafts are not kept.

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
        return self._zarrs.history(dataset, since) if _is_zarr(dataset) else []

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a dandiset's version or of a Zarr's state.

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
        if _is_zarr(version.dataset):
            return self._zarrs.listing(version, context)
        return DandisetListing(self._archive, version, context)

    def is_still_pending(self, dataset: DatasetRef, pending: bytes) -> bool:
        """Return whether the archive has completed none of the draft's pending items.

        Parameters
        ----------
        dataset
            The dataset.
        pending
            The bytes from :meth:`~neuromirror.sources.Listing.pending_items`.

        Returns
        -------
        bool
            False if a visit should be made.
        """
        return is_still_pending(
            pending,
            self.session,
            self.options.api,
            lambda local_id: self._zarrs.state(self.dataset(local_id)).checksum,
            self.options.connections,
        )


def _is_zarr(dataset: DatasetRef) -> bool:
    return dataset.local_id.startswith(LOCAL_PREFIX)
