"""A source for BOSS (BossDB and other installations): each channel is a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote, unquote

from msgspec.structs import replace

from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    ExcludedEntry,
    NeuromirrorError,
    VersionRef,
)
from neuromirror.net import AccessDeniedError, NotFoundError, Session, TokenSource
from neuromirror.sources.api_tokens import InternToken
from neuromirror.sources.boss.channel_info import BossChannelInfo, documents, facts, volume_of
from neuromirror.sources.boss.client import BossClient, is_name
from neuromirror.sources.errors import DatasetNotFoundError, UnexpectedReplyError
from neuromirror.sources.options import may_match_below
from neuromirror.sources.protocol import EMBARGOED, Estimate, Listing, LocatedDataset, VisitContext
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
from neuromirror.sources.volumes.urls import token_variable

_VERSIONS: Final = ("v1", "latest")


class BossOptions(VolumeOptions):
    """The ``[options]`` of a mirror of a BOSS.

    Attributes
    ----------
    api
        The service's base URL. It may end with the API's version (``https://api.bossdb.io/v1``, or
        ``/latest``); the default is version 1.
    restricted
        What to do with channels that require a token: ``skip``, mirror them in the ``private``
        store, or ``mirror`` them like the others into the same store.
    """

    restricted: Literal["skip", "private", "mirror"] = "skip"

    @property
    def token(self) -> TokenSource | None:
        """The source of the token; only restricted channels need the file of ``intern``."""
        if self.restricted == "skip":
            return super().token
        variable = self.token_env or token_variable(self.host)
        return InternToken(self.host, variable)

    @property
    def service(self) -> str:
        """The base URL without the API's version."""
        head, _, last = self.api.rpartition("/")
        return head if last in _VERSIONS else self.api

    @property
    def base(self) -> str:
        """The base URL with the API's version."""
        return self.api if self.service != self.api else f"{self.api}/{_VERSIONS[0]}"


OPENED: Final = "opened"
"""Why a public channel is unavailable in the source of the restricted ones."""
LIST_REFUSED: Final = "its list may not be read, so its channels are not mirrored"
_DEPTH: Final = 3

Names = tuple[str, str, str]
"""The names of collection, experiment and channel."""


class BossChannelNotPublicError(NeuromirrorError):
    """A channel requires a token, and is read without one because of the mirror's options."""


class BossSource(ChannelSource):
    """A BOSS as a :class:`~neuromirror.sources.Source`.

    Local ids are ``collection/experiment/channel``, in which characters other than letters, digits
    and ``._+,-`` are written as ``=XX``.
    """

    levels = ("collection", "experiment", "channel")
    Options: ClassVar[type[BossOptions]] = BossOptions

    def __init__(
        self, mirror: str, options: BossOptions, session: Session, *, is_private: bool = False
    ) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"boss://{options.host}/{options.prefix}".rstrip("/")
        self._is_private = is_private
        self._client = BossClient(session, options.base, options.token)
        self._anonymous = BossClient(session.anonymous(), options.base, None)
        # Anonymous requests show what is public. A public experiment may be in a private
        # collection, so lists are read with the token.
        self._reader = (
            self._client
            if is_private or options.restricted == "mirror" or options.token is None
            else self._anonymous
        )

    # --- credentials

    @property
    def is_private_only(self) -> bool:
        """False: a BOSS has public channels too."""
        return False

    def private(self) -> BossSource | None:
        """Return a source of the restricted channels; None if the options do not keep them apart.

        Returns
        -------
        BossSource or None
            The source with credentials, or None.

        Raises
        ------
        ConfigurationError
            If there is no token.
        """
        token = self.options.token
        if self.options.restricted != "private" or self._is_private or token is None:
            return None
        if not token.read():
            raise ConfigurationError(
                f'mirror {self.mirror!r}: restricted = "private" needs a token; set {token.label},'
                ' or write restricted = "skip"'
            )
        return BossSource(self.mirror, self.options, self.session, is_private=True)

    def is_open(self, dataset: DatasetRef) -> bool:
        """Return whether a channel can be read without the token.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether everyone may read it.
        """
        return self._anonymous.may_read(*_names(dataset))

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Return whether a channel may go into the public store.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        bool
            Whether the channel may be published.
        """
        return self.options.restricted != "private" or self.is_open(dataset)

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
        base = re.escape(self.options.service) + r"/(?:v[0-9]+|latest)"
        prefixes = [re.escape(f"{self.uri}/")]
        if self.options.host.endswith("bossdb.io"):
            prefixes.append("bossdb://")
        prefixes.append(f"{base}/(?:cutout|downsample|image)/")
        names = r"([^/?#]+)/([^/?#]+)/([^/?#]+)(?:[/?#].*)?"
        found = re.fullmatch(f"(?:{'|'.join(prefixes)}){names}", address) or re.fullmatch(
            f"{base}/(?:collection/)([^/]+)/experiment/([^/]+)/channel/([^/?#]+)(?:[/?#].*)?",
            address,
        )
        if found is None:
            return None
        local_id = local_id_of([unquote(group) for group in found.groups()])
        if local_id is None:
            return None
        return LocatedDataset(local_id, is_included=self.options.includes(local_id))

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yield all channels that the options include, in order of their names.

        A collection or experiment whose list may not be read is reported by a hint whose local id
        starts with ``==``.

        Yields
        ------
        DatasetHint
            The hint of a dataset, or of a problem.
        """
        for collection in self._client.collections():
            if not self._may_include(collection):
                continue
            try:
                experiments = self._client.experiments(collection)
            except AccessDeniedError as error:
                yield self._notice([collection], f"{LIST_REFUSED}: {error}")
                continue
            for experiment in experiments:
                if self._may_include(collection, experiment):
                    yield from self._channels(collection, experiment)

    def _channels(self, collection: str, experiment: str) -> Iterator[DatasetHint]:
        try:
            channels = self._client.channels(collection, experiment)
        except AccessDeniedError as error:
            yield self._notice([collection, experiment], f"{LIST_REFUSED}: {error}")
            return
        for channel in channels:
            found = collection, experiment, channel
            local_id = local_id_of(found)
            if local_id is None:
                yield self._notice(found, UNNAMEABLE)
            elif self.options.includes(local_id):
                unavailable = self._why_unavailable(found)
                if not (self._is_private and unavailable):
                    yield self._hint(found, local_id, unavailable)

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
        found = _names(dataset)
        if not self.options.includes(dataset.local_id):
            return self._hint(found, dataset.local_id, "excluded by the mirror's configuration")
        self._channel(dataset, found, self._client)
        return self._hint(found, dataset.local_id, self._why_unavailable(found))

    def _hint(self, found: Names, local_id: str, unavailable: str | None) -> DatasetHint:
        # no fingerprint: no cheap request shows whether voxels were written
        ref = self._ref(found, local_id)
        return DatasetHint(ref, None, title="/".join(found), unavailable=unavailable)

    def _may_include(self, *segments: str) -> bool:
        """Return whether a channel below may be included, by the literal start of each pattern."""
        prefix = "".join(f"{local_id_of([segment])}/" for segment in segments)
        return not self.options.include or may_match_below(self.options.include, prefix)

    def _why_unavailable(self, found: Names) -> str | None:
        """Return why a channel is not mirrored by this source; None if it is."""
        if self._is_private:
            return OPENED if self._anonymous.may_read(*found) else None
        if not self._is_restricted(found):
            return None
        return EMBARGOED if self.options.restricted == "private" else RESTRICTED

    def _is_restricted(self, found: Names) -> bool:
        """Return whether a channel must be skipped because it requires the token."""
        must_check = self._reader is not self._client and self._client.has_token
        return must_check and not self._reader.may_read(*found)

    def _channel(self, dataset: DatasetRef, found: Names, client: BossClient) -> dict[str, Any]:
        """Return a channel's JSON.

        Raises
        ------
        DatasetNotFoundError
            If upstream does not have it.
        BossChannelNotPublicError
            If it requires a token.
        """
        try:
            return client.channel(*found)
        except AccessDeniedError as error:
            if client is self._client:
                raise
            raise BossChannelNotPublicError(f"{dataset.name}: {RESTRICTED}") from error
        except NotFoundError as error:
            if self._is_listed(*found):
                raise
            raise DatasetNotFoundError(
                f"{dataset.name}: {self.options.service} neither lists nor returns this channel"
                f" ({error.url}); it may be marked for deletion"
            ) from error

    def _is_listed(self, collection: str, experiment: str, channel: str) -> bool:
        """Return whether the service's lists have a channel.

        A 404 may come from a proxy, but a list without the channel comes from the service. The
        lists are read from the top, because the list of a missing collection is a 500 and not a
        404.
        """
        client = self._client
        return (
            collection in client.collections()
            and experiment in client.experiments(collection)
            and channel in client.channels(collection, experiment)
        )

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
        DatasetNotFoundError, BossChannelNotPublicError
            If the channel does not exist or requires a token.
        MalformedIdError
            For another version than the current one.
        """
        dataset, found = version.dataset, _names(version.dataset)
        self._check_current(version)
        info = self._fetch_channel_info(found, self._channel(dataset, found, self._reader))
        volume, excluded = self._plan(info)
        return VolumeListing(
            version,
            volume,
            context,
            self.session,
            self.options,
            facts=facts(info, self._address(found)),
            documents=[*documents(info), *zarr_documents(volume)],
            reload_volume=lambda: self._reload_volume(found),
            signal=info.status,
            excluded=excluded,
            loss_hint=info.loss_hint,
        )

    def _reload_volume(self, found: Names) -> Volume:
        volume, _ = self._plan(self._geometry(found, self._reader.channel(*found)))
        return volume

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """Return the cost of a first visit.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        Estimate or None
            The cost, or None if it is unknown.

        Raises
        ------
        DatasetNotFoundError
            The channel does not exist.
        """
        found = _names(dataset)
        channel = self._channel(dataset, found, self._reader)
        volume, _ = self._plan(self._geometry(found, channel))
        return estimate_volume(volume, self.options)

    def _plan(self, info: BossChannelInfo) -> tuple[Volume, list[ExcludedEntry]]:
        options = self.options
        volume, left_out = volume_of(
            info, host=options.host, prefix=options.prefix, secure=options.is_secure
        )
        volume = plan_volume(volume, options)
        planned_names = {level.name.encode() for level in volume.levels}
        selected = planned_names if options.levels != "all" else None
        return volume, [one for one in left_out if selected is None or one.path in selected]

    def _fetch_channel_info(self, found: Names, channel: Mapping[str, Any]) -> BossChannelInfo:
        reader = self._reader
        return replace(
            self._geometry(found, channel),
            collection=reader.collection(found[0]),
            metadata=tuple(reader.metadata(found[:depth]) for depth in range(1, _DEPTH + 1)),
        )

    def _geometry(self, found: Names, channel: Mapping[str, Any]) -> BossChannelInfo:
        """Fetch the part of a channel's description that its volume depends on."""
        reader = self._reader
        experiment = reader.experiment(found[0], found[1])
        frame = experiment.get("coord_frame")
        if not is_name(frame):
            raise UnexpectedReplyError(
                f"{self.mirror}: the experiment {found[0]}/{found[1]} names no coordinate frame"
            )
        return BossChannelInfo(
            names=found,
            collection=None,
            experiment=experiment,
            channel=channel,
            frame=reader.frame(frame),
            downsample_info=reader.downsample_info(*found),
            metadata=(),
        )

    def _address(self, found: Names) -> str:
        return "/".join([self.options.service, *(quote(one, safe="") for one in found)])


def _names(dataset: DatasetRef) -> Names:
    collection, experiment, channel = segments_of(dataset.local_id)
    return collection, experiment, channel
