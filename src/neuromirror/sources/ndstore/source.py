"""A source for ndstore, NeuroData's service before BOSS: each channel is a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import quote, unquote

from pydantic import Field, field_validator

from neuromirror.model import DatasetHint, DatasetRef, ExcludedEntry, NeuromirrorError, VersionRef
from neuromirror.net import (
    AccessDeniedError,
    HttpError,
    InvalidJsonError,
    NetError,
    NotFoundError,
    ServerError,
    Session,
)
from neuromirror.sources.errors import (
    DatasetNotFoundError,
    UnexpectedReplyError,
    UnreliableListingError,
)
from neuromirror.sources.ndstore.channel_info import (
    UNDER_PROPAGATION,
    NdstoreChannelInfo,
    documents,
    facts,
    is_name,
    level_shifts,
    parse_channels,
    shift_levels,
    volume_of,
)
from neuromirror.sources.protocol import Estimate, Listing, LocatedDataset, VisitContext
from neuromirror.sources.volumes.channels import (
    RESTRICTED,
    UNNAMEABLE,
    ChannelSource,
    estimate_volume,
    local_id_of,
    plan_volume,
    segments_of,
)
from neuromirror.sources.volumes.grid import Volume, zarr_documents
from neuromirror.sources.volumes.listing import VolumeListing
from neuromirror.sources.volumes.options import VolumeOptions

_SAME = "/sd"
_USUAL = "/ca"


class NdstoreOptions(VolumeOptions):
    """The ``[options]`` of a mirror of an ndstore.

    Attributes
    ----------
    api
        The service's base URL, which ends with ``/nd/ca`` or its synonym ``/nd/sd``.
    tokens
        The projects to mirror; by default all public ones.
    restricted
        What to do with projects that require a token: ``skip``, or ``mirror`` them like the others
        into the same store.
    unit
        The unit of voxel sizes, which the service does not state.
    """

    tokens: tuple[Annotated[str, Field(pattern=r"^[^/]{1,255}$")], ...] = ()
    restricted: Literal["skip", "mirror"] = "skip"
    unit: Literal["nanometer", "micrometer", "millimeter"] = "nanometer"

    @field_validator("api")
    @classmethod
    def _one_name(cls, api: str) -> str:
        return api.removesuffix(_SAME) + _USUAL if api.endswith(_SAME) else api

    def may_include(self, token: str) -> bool:
        """Return whether the options can include a channel of a project.

        ``token`` is encoded as in a local id.

        Parameters
        ----------
        token
            The token of the project, encoded as in a local id.

        Returns
        -------
        bool
            False if no pattern can match.
        """
        if any(one.endswith("*") and fnmatchcase(f"{token}/", one) for one in self.exclude):
            return False
        return not self.include or any(_may_match(token, one) for one in self.include)


def _may_match(token: str, pattern: str) -> bool:
    """Return whether a pattern can match a token, a slash and a channel's name."""
    before, slash, rest = pattern.partition("/")
    if not slash or "/" in rest or "[" in pattern:
        return True
    return fnmatchcase(token, before)


REQUEST_LIMIT: Final = 256 << 20
"""Bytes of voxels per request, as in ndstore's client; the service states no limit."""
PROPAGATING: Final = (
    "its coarser levels are being created (propagate is 1); it is visited once they are finished"
)
_ATTEMPTS: Final = 3
"""Attempts per request: few, because some of the hundreds of projects always fail."""


class NdstoreProjectNotPublicError(NeuromirrorError):
    """A project requires a token, and is read without one because of the mirror's options."""


class NdstoreSource(ChannelSource):
    """An ndstore as a :class:`~neuromirror.sources.Source`.

    Local ids are ``token/channel``, in which characters other than letters, digits and ``._+,-``
    are written as ``=XX``. Voxels that were never written are zeros, like other zeros. Levels that
    were never created are excluded by name.
    """

    levels = ("token", "channel")
    Options: ClassVar[type[NdstoreOptions]] = NdstoreOptions

    def __init__(self, mirror: str, options: NdstoreOptions, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"ndstore://{options.host}/{options.prefix}".rstrip("/")
        # anonymous requests show what is public; no field states it
        self._reader = session if options.restricted == "mirror" else session.anonymous()

    def locate(self, address: str) -> LocatedDataset | None:
        """Return the channel that a URL names; no request is made.

        Parameters
        ----------
        address
            An identifier or URL.

        Returns
        -------
        LocatedDataset or None
            None if it is not an address of this archive.
        """
        for base in (f"{self.uri}/", f"{self.options.api}/"):
            if address.startswith(base):
                names = re.split("[?#]", address.removeprefix(base))[0].split("/")[:2]
                local_id = local_id_of([unquote(name) for name in names])
                if local_id is None or len(names) < 2:
                    return None
                return LocatedDataset(local_id, is_included=self.options.includes(local_id))
        return None

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all channels that the options include, token by token.

        A project that cannot be read is reported by a hint whose local id starts with ``==``.

        Yields
        ------
        DatasetHint
            The hint of a dataset, or of a problem.
        """
        for token in self.options.tokens or self._public_tokens():
            local_id = local_id_of([token])
            if local_id is not None and not self.options.may_include(local_id):
                continue
            try:
                found = self._channels(token, attempts=_ATTEMPTS)
            except (
                *(DatasetNotFoundError, NdstoreProjectNotPublicError, UnexpectedReplyError),
                *(AccessDeniedError, NotFoundError, InvalidJsonError, ServerError),
            ) as error:
                yield self._notice([token], str(error))
                continue
            for channel, info in found.items():
                local_id = local_id_of([token, channel])
                if local_id is None:
                    yield self._notice([token, channel], UNNAMEABLE)
                elif self.options.includes(local_id):
                    yield self._hint(info, self._ref([token, channel], local_id))

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one channel's hint.

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
            The channel does not exist.
        """
        if not self.options.includes(dataset.local_id):
            return DatasetHint(dataset, None, unavailable="excluded by the mirror's configuration")
        try:
            return self._hint(self._fetch_channel_info(dataset), dataset)
        except NdstoreProjectNotPublicError:
            return DatasetHint(dataset, None, unavailable=RESTRICTED)

    def _hint(self, found: NdstoreChannelInfo, ref: DatasetRef) -> DatasetHint:
        # no fingerprint: no cheap request shows whether voxels were written
        title = f"{found.token}/{found.name}"
        try:
            is_moving = found.propagation == UNDER_PROPAGATION
        except UnexpectedReplyError:
            is_moving = False  # the channel's own visit reports it
        return DatasetHint(ref, None, title, unavailable=PROPAGATING if is_moving else None)

    def _public_tokens(self) -> list[str]:
        """Return the tokens of all public projects, sorted."""
        url = f"{self.options.api}/public_tokens/"
        found = self.session.get_json(url)
        if not isinstance(found, list) or not all(is_name(one) for one in found):
            raise UnexpectedReplyError(f"{url} returned no list of tokens")
        return sorted(set(found))

    # --- channel info

    def _fetch_channel_info(self, dataset: DatasetRef) -> NdstoreChannelInfo:
        """Fetch a channel's info; raise as :meth:`_channels` does."""
        token, channel = segments_of(dataset.local_id)
        found = self._channels(token)
        if channel not in found:
            raise DatasetNotFoundError(
                f"{dataset.name}: {self.options.api} lists no such channel of {token}"
            )
        return found[channel]

    def _channels(self, token: str, attempts: int | None = None) -> dict[str, NdstoreChannelInfo]:
        """Return all channels of a project by name.

        Raises
        ------
        DatasetNotFoundError
            If the project does not exist.
        NdstoreProjectNotPublicError
            If it requires a token.
        """
        try:
            return parse_channels(self._info(self._reader, token, attempts), token)
        except (AccessDeniedError, NotFoundError) as error:
            self._raise_cause(token, error)
            raise

    def _info(self, session: Session, token: str, attempts: int | None = None) -> Any:
        url = f"{self.options.api}/{quote(token, safe='')}/info/"
        return session.get_json(url, attempts=attempts)

    def _raise_cause(self, token: str, error: HttpError) -> None:
        """Raise a more specific error for a refused request, if its cause can be determined.

        The service refuses removed and private projects alike, and the refusal may also come from a
        proxy. The list of public projects shows the difference. If private projects are mirrored, a
        refusal may mean an expired token, which ndstore treats like none.
        """
        if self._reader is self.session:
            if isinstance(error, AccessDeniedError):
                return
        elif self._may_read(token):
            raise NdstoreProjectNotPublicError(f"{self.mirror}:{token}: {RESTRICTED}") from error
        if token not in self._public_tokens():
            raise DatasetNotFoundError(
                f"{self.mirror}: {self.options.api} lists no public project {token}, and returns"
                f" HTTP {error.status} for it: it was removed, or requires a token"
            ) from error

    def _may_read(self, token: str) -> bool:
        """Return whether a project is readable with the session's token, if it has one."""
        try:
            self._info(self.session, token, _ATTEMPTS)
        except NetError:
            return False
        return True

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a channel's blocks.

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
        DatasetNotFoundError, NdstoreProjectNotPublicError
            If the channel does not exist or requires a token.
        UnreliableListingError
            While levels are being created.
        MalformedIdError
            For another version than the current one.
        """
        dataset = version.dataset
        self._check_current(version)
        info = self._fetch_channel_info(dataset)
        volume, excluded = self._plan(dataset, info)
        return VolumeListing(
            version,
            volume,
            context,
            self.session,
            self.options,
            facts=facts(info, self.options.api),
            documents=shift_levels([*documents(info), *zarr_documents(volume)], level_shifts(info)),
            reload_volume=lambda: self._plan(dataset, self._fetch_channel_info(dataset))[0],
            signal=info.signal,
            excluded=excluded,
        )

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """Return the cost of a first visit; raise as :meth:`listing` does.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        Estimate or None
            The cost, or None if it is unknown.
        """
        volume, _ = self._plan(dataset, self._fetch_channel_info(dataset))
        return estimate_volume(volume, self.options)

    def _plan(
        self, dataset: DatasetRef, info: NdstoreChannelInfo
    ) -> tuple[Volume, list[ExcludedEntry]]:
        if info.propagation == UNDER_PROPAGATION:
            raise UnreliableListingError(f"{dataset.name}: {PROPAGATING}")
        options = self.options
        volume, left_out = volume_of(
            info,
            host=options.host,
            prefix=options.prefix,
            secure=options.is_secure,
            unit=options.unit,
        )
        # levels that the options do not select are not reported as excluded
        return plan_volume(
            volume, options, REQUEST_LIMIT
        ), left_out if options.levels == "all" else []
