"""The common part of sources whose datasets are channels with one current state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Final
from urllib.parse import quote

from neuromirror.model import DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.sources.errors import MalformedIdError
from neuromirror.sources.protocol import Source
from neuromirror.sources.s3 import local_ids

CURRENT: Final = "current"
RESTRICTED: Final = (
    'it requires a token and is skipped, unless the mirror\'s options have restricted = "mirror"'
)
UNNAMEABLE: Final = "no local id is possible for this name: it is too long, or . or .."
_DOT_SEGMENTS: Final = frozenset({"", ".", ".."})


class ChannelSource(Source):
    """A service whose channels are datasets, identified by a fixed number of names.

    A local id is these names joined by ``/``, in which characters other than letters, digits and
    ``._+,-`` are written as ``=XX``. Each level above a channel is a superdataset.
    """

    levels: ClassVar[tuple[str, ...]]
    """The levels that the names are of: ``("collection", "experiment", "channel")``."""

    mirror: str
    uri: str

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of a channel.

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
            The text is not an id of this service.
        """
        segments = segments_of(local_id)
        if len(segments) != len(self.levels):
            raise MalformedIdError(
                f"{self.mirror}: {local_id[:200]!r} is not a dataset id; write"
                f" {'/'.join(self.levels)}, and every character except letters, digits and"
                f" . _ - + , as =XX ('neuromirror sync {self.mirror} --dry-run' lists all ids)"
            )
        return self._ref(segments, local_id)

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """Return the superdataset of a level above channels; None for other ids.

        Parameters
        ----------
        id_prefix
            The first segments of the local ids.

        Returns
        -------
        DatasetRef or None
            The reference of the superdataset, or None.
        """
        segments = segments_of(id_prefix)
        above = 0 < len(segments) < len(self.levels)
        return self._ref(segments, id_prefix) if above else None

    def _ref(self, segments: Sequence[str], local_id: str) -> DatasetRef:
        path = "/".join(quote(one, safe="") for one in segments)
        return DatasetRef(self.mirror, local_id, f"{self.uri}/{path}")

    def _notice(self, segments: Sequence[str], why: str) -> DatasetHint:
        """Return a hint that reports a problem; its local id starts with ``==``."""
        path = "/".join(segments)
        suffix = local_id_of(segments) or hashlib.sha256(path.encode()).hexdigest()[:8]
        return DatasetHint(
            self._ref(segments, f"{local_ids.NOTICE}{suffix}"), None, unavailable=why
        )

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the current state; no request is made.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        list[VersionRef]
            The versions.
        """
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    @staticmethod
    def _check_current(version: VersionRef) -> None:
        if version.upstream != CURRENT:
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )


def segments_of(local_id: str) -> tuple[str, ...]:
    """Return the names in a local id; empty if it is malformed.

    Parameters
    ----------
    local_id
        The local id of a dataset.

    Returns
    -------
    tuple[str, ...]
        The names, such as collection, experiment and channel.
    """
    try:
        found = tuple(one.decode() for one in local_ids.segments_of(local_id))
    except ValueError:
        return ()
    return () if _DOT_SEGMENTS & set(found) else found


def local_id_of(segments: Sequence[str]) -> str | None:
    """Return the local id of names; None if it could not be converted back to them.

    Parameters
    ----------
    segments
        The names, such as collection, experiment and channel.

    Returns
    -------
    str | None
        The local id.
    """
    made = local_ids.local_id([one.encode() for one in segments])
    return made if made is not None and segments_of(made) == tuple(segments) else None
