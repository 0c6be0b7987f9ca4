"""An ndstore (NeuroData's service before BOSS) as a source of datasets: one a channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final
from urllib.parse import quote

from neuromirror.model import (
    DatasetHint,
    DatasetRef,
    ExcludedEntry,
    NeuromirrorError,
    VersionRef,
)
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
    is_name,
    level_shifts,
    parse_channels,
    volume_of,
)
from neuromirror.sources.ndstore.documents import documents, facts, shift_levels
from neuromirror.sources.ndstore.options import NdstoreOptions
from neuromirror.sources.protocol import Estimate, Listing, VisitContext
from neuromirror.sources.volumes import (
    UNNAMEABLE,
    ChannelSource,
    Volume,
    VolumeListing,
    estimate_volume,
    local_id_of,
    plan_volume,
    segments_of,
    zarr_documents,
)

REQUEST_LIMIT: Final = 256 << 20
"""Bytes of voxels in one request: the service names no limit, and its client asks for no more."""
RESTRICTED: Final = (
    "only those with a token may read it; it is passed over, as long as the mirror's options do not"
    ' say restricted = "mirror"'
)
PROPAGATING: Final = (
    "its coarser levels are being made (propagate is 1); it is visited again when they are done"
)
_ATTEMPTS: Final = 3
"""For each of hundreds of projects, some of which are broken for good."""


class NdstoreProjectNotPublicError(NeuromirrorError):
    """A project that only those with a token may read."""


class NdstoreSource(ChannelSource):
    """An ndstore as a :class:`~neuromirror.sources.Source`.

    Local ids are ``token/channel``, with other signs than letters, digits and ``._+,-`` written as
    ``=XX``. Voxels that were never written come as zeros, which nothing tells from others; levels
    that were never made are told, as named exceptions.
    """

    levels = ("token", "channel")
    Options: ClassVar[type[NdstoreOptions]] = NdstoreOptions

    def __init__(self, mirror: str, options: NdstoreOptions, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"ndstore://{options.host}/{options.prefix}".rstrip("/")
        # What a stranger is shown is public; the service has no other word for it.
        self._reader = session if options.restricted == "mirror" else session.anonymous()

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all channels that the mirror's options want, token by token.

        A project of which the service does not tell is told in a notice: its local id begins with
        ``==``, and it says why.
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
        """One channel's hint; raises :class:`DatasetNotFoundError`."""
        if not self.options.includes(dataset.local_id):
            return DatasetHint(dataset, None, unavailable="excluded in the mirror's file")
        try:
            return self._hint(self._fetch_channel_info(dataset), dataset)
        except NdstoreProjectNotPublicError:
            return DatasetHint(dataset, None, unavailable=RESTRICTED)

    def _hint(self, found: NdstoreChannelInfo, ref: DatasetRef) -> DatasetHint:
        # Nothing that is cheap to ask for tells of written voxels.
        title = f"{found.token}/{found.name}"
        try:
            is_moving = found.propagation == UNDER_PROPAGATION
        except UnexpectedReplyError:
            is_moving = False  # the channel's visit says so, and no other's
        return DatasetHint(ref, None, title, unavailable=PROPAGATING if is_moving else None)

    def _public_tokens(self) -> list[str]:
        """The tokens of all public projects, sorted."""
        url = f"{self.options.api}/public_tokens/"
        found = self.session.get_json(url)
        if not isinstance(found, list) or not all(is_name(one) for one in found):
            raise UnexpectedReplyError(f"{url} gives no list of tokens")
        return sorted(set(found))

    # --- what upstream says

    def _fetch_channel_info(self, dataset: DatasetRef) -> NdstoreChannelInfo:
        """What upstream says of a channel; raises :class:`DatasetNotFoundError`,
        :class:`NotPublic`."""
        token, channel = segments_of(dataset.local_id)
        found = self._channels(token)
        if channel not in found:
            raise DatasetNotFoundError(
                f"{dataset.name}: {self.options.api} says that {token} has no such channel"
            )
        return found[channel]

    def _channels(self, token: str, attempts: int | None = None) -> dict[str, NdstoreChannelInfo]:
        """All channels of a project by name.

        Raises :class:`DatasetNotFoundError` where nothing leads to it any more, and
        :class:`NotPublic`.
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
        """Raises what a refusal means, where more can be said of it than it says itself.

        A project that is gone and one that is private are refused alike, and either may come from
        something on the way. The list of public projects comes from the service. Where private
        ones are mirrored, a refusal may just mean that the user's token has expired: a wrong one
        is to ndstore like none.
        """
        if self._reader is self.session:
            if isinstance(error, AccessDeniedError):
                return
        elif self._may_read(token):
            raise NdstoreProjectNotPublicError(f"{self.mirror}:{token}: {RESTRICTED}") from error
        if token not in self._public_tokens():
            raise DatasetNotFoundError(
                f"{self.mirror}: {self.options.api} lists no public project {token}, and answers"
                f" HTTP {error.status} for it: it is gone, or only those with a token may read it"
            ) from error

    def _may_read(self, token: str) -> bool:
        """Whether the session's token, if it has one, opens a project."""
        try:
            self._info(self.session, token, _ATTEMPTS)
        except NetError:
            return False
        return True

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """A channel's blocks; raises :class:`DatasetNotFoundError` and :class:`NotPublic`.

        Raises UnreliableListingError while levels are being made, and :class:`MalformedIdError`
        for a version
        of another name.
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
        """The blocks that a first visit takes; raises as :meth:`listing`."""
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
        # Levels that the mirror's file leaves out are nobody's exception.
        return plan_volume(
            volume, options, REQUEST_LIMIT
        ), left_out if options.levels == "all" else []
