"""What sources of channels have in common: their names, and the one state that upstream has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final
from urllib.parse import quote

from neuromirror.model import DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.sources.errors import MalformedIdError
from neuromirror.sources.s3 import local_ids

CURRENT: Final = "current"
UNNAMEABLE: Final = "no dataset can have such a name: it is too long, or a dot, or two"
_DOT_SEGMENTS: Final = frozenset({"", ".", ".."})


class ChannelSource:
    """A service whose channels are datasets, each within so many names.

    Local ids are these names with ``/`` between, and other signs than letters, digits and
    ``._+,-`` written as ``=XX``; what is above a channel is a super-dataset.
    """

    levels: ClassVar[tuple[str, ...]]
    """What the names are of: ``("collection", "experiment", "channel")``."""

    mirror: str
    uri: str

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset of a channel; raises :class:`MalformedIdError` (a ValueError)."""
        segments = segments_of(local_id)
        if len(segments) != len(self.levels):
            raise MalformedIdError(
                f"{self.mirror}: {local_id[:200]!r} is no dataset's name; it is"
                f" {'/'.join(self.levels)}, with other signs than letters, digits, . _ - + ,"
                f" written as =XX ('neuromirror sync {self.mirror} --dry-run' names all)"
            )
        return self._ref(segments, local_id)

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """The super-dataset of what is above a channel."""
        segments = segments_of(id_prefix)
        above = 0 < len(segments) < len(self.levels)
        return self._ref(segments, id_prefix) if above else None

    def _ref(self, segments: Sequence[str], local_id: str) -> DatasetRef:
        path = "/".join(quote(one, safe="") for one in segments)
        return DatasetRef(self.mirror, local_id, f"{self.uri}/{path}")

    def _notice(self, segments: Sequence[str], why: str) -> DatasetHint:
        """What is told instead of datasets; its local id begins with ``==``."""
        path = "/".join(segments)
        suffix = local_id_of(segments) or hashlib.sha256(path.encode()).hexdigest()[:8]
        return DatasetHint(
            self._ref(segments, f"{local_ids.NOTICE}{suffix}"), None, unavailable=why
        )

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """The current state, which is all that upstream has; no request is made."""
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """None: upstream keeps no earlier states."""
        return []

    def capabilities(self) -> Mapping[str, str]:
        """Nothing that differs from one such service to another."""
        return {}

    @staticmethod
    def _check_current(version: VersionRef) -> None:
        if version.upstream != CURRENT:
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )


def segments_of(local_id: str) -> tuple[str, ...]:
    """The names in a local id; empty where it is none."""
    try:
        found = tuple(one.decode() for one in local_ids.segments_of(local_id))
    except ValueError:
        return ()
    return () if _DOT_SEGMENTS & set(found) else found


def local_id_of(segments: Sequence[str]) -> str | None:
    """The local id of names; None where there is none that leads back to them."""
    made = local_ids.local_id([one.encode() for one in segments])
    return made if made is not None and segments_of(made) == tuple(segments) else None
