"""What a mirror file may say about a BOSS."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

from neuromirror.sources.volumes import VolumeOptions

_VERSIONS: Final = ("v1", "latest")


class BossOptions(VolumeOptions):
    """The ``[options]`` of a mirror of a BOSS; what is not said here is as in its base.

    ``api`` may end in the API's version (``https://api.bossdb.io/v1``, or ``/latest``); it is 1
    where it does not. ``restricted`` says what becomes of channels that only those with a token may
    read: they are passed over (``skip``), or mirrored like all others into the same store
    (``mirror``).
    """

    restricted: Literal["skip", "mirror"] = "skip"

    @property
    def service(self) -> str:
        """The address without the API's version."""
        head, _, last = self.api.rpartition("/")
        return head if last in _VERSIONS else self.api

    @property
    def base(self) -> str:
        """The address with the API's version."""
        return self.api if self.service != self.api else f"{self.api}/{_VERSIONS[0]}"

    @property
    def host(self) -> str:
        """The host as it stands in an address, with its port if it has one."""
        return urlsplit(self.service).netloc

    @property
    def prefix(self) -> str:
        """What stands between host and names, empty or ending in a slash."""
        path = urlsplit(self.service).path.strip("/")
        return f"{path}/" if path else ""

    @property
    def is_secure(self) -> bool:
        """Whether the host is asked over https."""
        return urlsplit(self.service).scheme == "https"
