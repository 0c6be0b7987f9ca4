"""A BOSS (BossDB, and others that run its software) as a source of datasets: one a channel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any, ClassVar, Final
from urllib.parse import quote

from neuromirror.model import (
    DatasetHint,
    DatasetRef,
    NamedException,
    NeuromirrorError,
    VersionKind,
    VersionRef,
)
from neuromirror.net import Forbidden, NotFound, Session
from neuromirror.sources.boss.client import BossClient
from neuromirror.sources.boss.described import Described, volume_of
from neuromirror.sources.boss.documents import documents, facts
from neuromirror.sources.boss.options import BossOptions
from neuromirror.sources.boss.through_intern import is_name
from neuromirror.sources.errors import DatasetNotFound, MalformedId, UnexpectedReply
from neuromirror.sources.protocol import Estimate, Known, Listing
from neuromirror.sources.s3 import names
from neuromirror.sources.volumes import Volume, estimated, planned, volume_listing

CURRENT: Final = "current"
RESTRICTED: Final = (
    "only those with a token may read it; it is passed over, as long as the mirror's options do not"
    ' say restricted = "mirror"'
)
_NOWHERE: Final = frozenset({".", ".."})
_DEPTH: Final = 3
_FIXED: Final = re.compile(r"[^*?\[]*")

Names = tuple[str, str, str]
"""Of a collection, an experiment in it, and a channel of that."""


class NotPublic(NeuromirrorError):
    """A channel that only those with a token may read."""


class BossSource:
    """A BOSS as a :class:`~neuromirror.sources.Source`.

    Local ids are ``collection/experiment/channel``, with other signs than letters, digits and
    ``._+,-`` written as ``=XX``.
    """

    Options: ClassVar[type[BossOptions]] = BossOptions

    def __init__(self, mirror: str, options: BossOptions, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"boss://{options.host}/{options.prefix}".rstrip("/")
        self._client = BossClient(session, options.base, options.token_env)
        # What a stranger is shown is public; an experiment that is may be in a collection that
        # is not.
        self._reader = (
            self._client
            if options.restricted == "mirror" or options.token_env is None
            else BossClient(session.anonymous(), options.base, None)
        )

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset of a channel; raises :class:`MalformedId` (a ValueError)."""
        components = _components(local_id)
        if len(components) != _DEPTH:
            raise MalformedId(
                f"{self.mirror}: {local_id[:200]!r} is no dataset's name; it is"
                " collection/experiment/channel, with other signs than letters, digits, . _ - + ,"
                f" written as =XX ('neuromirror sync {self.mirror} --dry-run' names all)"
            )
        return self._ref(components, local_id)

    def group(self, local_ids: str) -> DatasetRef | None:
        """The super-dataset of a collection, or of an experiment (``collection/experiment``)."""
        components = _components(local_ids)
        return self._ref(components, local_ids) if 0 < len(components) < _DEPTH else None

    def _ref(self, components: Sequence[str], local_id: str) -> DatasetRef:
        path = "/".join(quote(one, safe="") for one in components)
        return DatasetRef(self.mirror, local_id, f"{self.uri}/{path}")

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all channels that the mirror's options want, in order of their names.

        A collection or experiment whose list may not be read is told in a notice: its local id
        begins with ``==``, and it says why.
        """
        for collection in self._client.collections():
            if not self._may_want(collection):
                continue
            try:
                experiments = self._client.experiments(collection)
            except Forbidden as error:
                yield self._notice(error, collection)
                continue
            for experiment in experiments:
                if self._may_want(collection, experiment):
                    yield from self._channels(collection, experiment)

    def _channels(self, collection: str, experiment: str) -> Iterator[DatasetHint]:
        try:
            channels = self._client.channels(collection, experiment)
        except Forbidden as error:
            yield self._notice(error, collection, experiment)
            return
        for channel in channels:
            found = collection, experiment, channel
            local_id = _local_id(found)
            if local_id is None:
                cut = hashlib.sha256("/".join(found).encode()).hexdigest()[:8]
                ref = self._ref(found, f"{names.NOTICE}too-long-{cut}")
                why = f"its names are too long for a dataset's: {ref.source_uri}"
                yield DatasetHint(ref, None, unavailable=why)
            elif self.options.wants(local_id):
                restricted = self._is_restricted(found)
                yield self._hint(found, local_id, RESTRICTED if restricted else None)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One channel's hint; raises :class:`DatasetNotFound`."""
        found = _names(dataset)
        if not self.options.wants(dataset.local_id):
            return self._hint(found, dataset.local_id, "excluded in the mirror's file")
        self._channel(dataset, found, self._client)
        restricted = self._is_restricted(found)
        return self._hint(found, dataset.local_id, RESTRICTED if restricted else None)

    def _hint(self, found: Names, local_id: str, unavailable: str | None) -> DatasetHint:
        # Nothing that is cheap to ask for tells of written voxels.
        ref = self._ref(found, local_id)
        return DatasetHint(ref, None, title="/".join(found), unavailable=unavailable)

    def _notice(self, error: Forbidden, *components: str) -> DatasetHint:
        ref = self._ref(components, f"{names.NOTICE}{_local_id(components) or 'too-long'}")
        why = f"its list may not be read, so none of its channels is mirrored: {error}"
        return DatasetHint(ref, None, unavailable=why)

    def _may_want(self, *components: str) -> bool:
        """Whether a channel below may be wanted: only a pattern's fixed beginning tells."""
        begins = "".join(f"{_local_id([one])}/" for one in components)
        fixed = [_FIXED.match(pattern) for pattern in self.options.include]
        wanted = [found.group() for found in fixed if found is not None]
        return not wanted or any(one.startswith(begins) or begins.startswith(one) for one in wanted)

    def _is_restricted(self, found: Names) -> bool:
        """Whether a channel must be passed over, because only the token lets it be read."""
        is_asked = self._reader is not self._client and self._client.has_token
        return is_asked and not self._reader.may_read(*found)

    def _channel(self, dataset: DatasetRef, found: Names, client: BossClient) -> dict[str, Any]:
        """A channel's JSON; raises :class:`DatasetNotFound` when upstream has it no more.

        Raises :class:`NotPublic` where only those with the token may read it.
        """
        try:
            return client.channel(*found)
        except Forbidden as error:
            if client is self._client:
                raise
            raise NotPublic(f"{dataset.name}: {RESTRICTED}") from error
        except NotFound as error:
            if self._is_listed(*found):
                raise
            raise DatasetNotFound(
                f"{dataset.name}: {self.options.service} does not list such a channel, and says"
                f" that there is none ({error.url}); it may be marked for deletion"
            ) from error

    def _is_listed(self, collection: str, experiment: str, channel: str) -> bool:
        """Whether the lists lead to a channel.

        A 404 may come from anything on the way; that a list does not have it comes from the
        service. From above, since the list of what is missing itself is no 404 but a 500.
        """
        client = self._client
        return (
            collection in client.collections()
            and experiment in client.experiments(collection)
            and channel in client.channels(collection, experiment)
        )

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """The current state, which is all that upstream has; no request is made."""
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """None: upstream keeps no earlier states."""
        return []

    def capabilities(self) -> Mapping[str, str]:
        """Nothing that differs from one BOSS to another."""
        return {}

    # --- listing

    def listing(self, version: VersionRef, known: Known) -> Listing:
        """A channel's blocks; raises :class:`DatasetNotFound` and :class:`NotPublic`.

        Raises :class:`MalformedId` for a version of another name.
        """
        dataset, found = version.dataset, _names(version.dataset)
        if version.upstream != CURRENT:
            raise MalformedId(f"{dataset.name}: there is no version {version.upstream!r}")
        described = self._described(found, self._channel(dataset, found, self._reader))
        volume, left_out = self._planned(described)
        listing = volume_listing(
            version,
            volume,
            known,
            self.session,
            self.options,
            facts=facts(described, self._address(found)),
            documents=documents(described),
            again=lambda: self._planned(self._geometry(found, self._reader.channel(*found)))[0],
            signal=described.status,
        )
        listing.entries = chain(left_out, listing.entries)
        return listing

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """The blocks that a first visit takes; raises :class:`DatasetNotFound`."""
        found = _names(dataset)
        channel = self._channel(dataset, found, self._reader)
        volume, _ = self._planned(self._geometry(found, channel))
        return estimated(volume, self.options)

    def _planned(self, described: Described) -> tuple[Volume, list[NamedException]]:
        options = self.options
        volume, left_out = volume_of(
            described, host=options.host, prefix=options.prefix, secure=options.is_secure
        )
        volume = planned(volume, options)
        taken = {level.name.encode() for level in volume.levels}
        wanted = taken if options.levels != "all" else None
        return volume, [one for one in left_out if wanted is None or one.path in wanted]

    def _described(self, found: Names, channel: Mapping[str, Any]) -> Described:
        reader = self._reader
        return replace(
            self._geometry(found, channel),
            collection=reader.collection(found[0]),
            metadata=tuple(reader.metadata(found[:depth]) for depth in range(1, _DEPTH + 1)),
        )

    def _geometry(self, found: Names, channel: Mapping[str, Any]) -> Described:
        """As much of a description as its volume takes."""
        reader = self._reader
        experiment = reader.experiment(found[0], found[1])
        frame = experiment.get("coord_frame")
        if not is_name(frame):
            raise UnexpectedReply(
                f"{self.mirror}: the experiment {found[0]}/{found[1]} names no coordinate frame"
            )
        return Described(
            names=found,
            collection=None,
            experiment=experiment,
            channel=channel,
            frame=reader.frame(frame),
            downsampled=reader.downsampled(*found),
            metadata=(),
        )

    def _address(self, found: Names) -> str:
        return "/".join([self.options.service, *(quote(one, safe="") for one in found)])


def _names(dataset: DatasetRef) -> Names:
    collection, experiment, channel = _components(dataset.local_id)
    return collection, experiment, channel


def _components(local_id: str) -> tuple[str, ...]:
    """The names in a local id; empty where it is none."""
    try:
        found = tuple(one.decode() for one in names.components_of(local_id))
    except ValueError:
        return ()
    return found if all(one and one not in _NOWHERE for one in found) else ()


def _local_id(found: Sequence[str]) -> str | None:
    """The local id of names; None where it would be too long."""
    return names.local_id([one.encode() for one in found])
