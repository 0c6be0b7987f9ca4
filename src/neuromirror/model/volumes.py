"""Which datasets are volumes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

VOLUME_SCHEMES: Final = ("boss", "ndstore")
"""The schemes of source URIs and block URLs of services that return cutouts."""


def is_volume(source: str, links: Iterable[tuple[str, str]]) -> bool:
    """Return whether a dataset is a volume: a channel of a cutout service, or a Precomputed layer.

    Parameters
    ----------
    source
        The source URI.
    links
        Kind and URL of its links.
    """
    return source.partition("://")[0] in VOLUME_SCHEMES or any(
        kind == "precomputed" for kind, _ in links
    )


def has_downloads(source: str) -> bool:
    """Return whether the files of a dataset have URLs: the blocks of a volume service have none.

    Parameters
    ----------
    source
        The URI of the dataset at upstream.
    """
    return source.partition("://")[0] not in VOLUME_SCHEMES
