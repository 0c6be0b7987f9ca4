"""Answer requests of git-annex that need no transfer, without loading heavy packages.

For one ``git annex get`` git-annex starts the program up to four times, and only the process that
transfers needs the network and the decoders. Keep the imports of this module few.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from annexremote import RemoteError, SpecialRemote  # type: ignore[import-untyped]

from neuromirror.sources.volumes.schemes import SCHEMES

if TYPE_CHECKING:
    from neuromirror.volume.remote_transfers import RemoteTransfers

_COST: Final = 250
"""The remote's cost, above the web remote's (200), which needs no cut-outs or credentials."""

_API_URL: Final = re.compile(
    r"https://(?:api\.(?:sandbox\.)?dandiarchive\.org|api-dandi\.(?:sandbox\.)?emberarchive\.org"
    r"|(?:staging-)?api\.lincbrain\.org)/api/(?:assets/[^/]+/download/?|zarr/[^/]+/files/?\?.*)\Z"
)
"""Downloads of the instances in :mod:`neuromirror.sources.dandi_client`, whose import is slow."""
_CLAIMED: Final = (*SCHEMES, "s3")
_READ_ONLY: Final = (
    "this remote reads the blocks of a volume from their archive; nothing can be {} in it"
)


class LazyRemote(SpecialRemote):  # type: ignore[misc]
    """The special remote as git-annex starts it; it imports the transfers when they are needed.

    ``annex`` is the connection to git-annex.
    """

    def __init__(self, annex: Any) -> None:
        super().__init__(annex)
        self.configs = {
            "host": "host of the service for which the token of the environment is stored"
        }
        self._loaded: RemoteTransfers | None = None

    def initremote(self) -> None:
        """Check, or store, the token of the configured host; without one there is nothing to do."""
        if self.annex.getconfig("host"):
            self._transfers.initremote()

    def prepare(self) -> None:
        """Do nothing: each URL contains all that is needed."""

    def getcost(self) -> int:
        """Return git-annex's cost of the remote."""
        return _COST

    def getavailability(self) -> str:
        """Return that the remote is available on every machine."""
        return "global"

    def claimurl(self, url: str) -> bool:
        """Return whether a URL is that of a block, a private object, or a file of an API."""
        return url.partition("://")[0] in _CLAIMED or _API_URL.match(url) is not None

    def checkurl(self, url: str) -> bool | list[dict[str, str | int]]:
        """Return the size of a block if its URL states it."""
        return self._transfers.checkurl(url)

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes."""
        self._transfers.transfer_retrieve(key, filename)

    def checkpresent(self, key: str) -> bool:
        """Return whether the service, or the archive, still has a key's bytes."""
        return self._transfers.checkpresent(key)

    def transfer_store(self, key: str, filename: str) -> None:
        """Refuse."""
        raise RemoteError(_READ_ONLY.format("stored"))

    def remove(self, key: str) -> None:
        """Refuse."""
        raise RemoteError(_READ_ONLY.format("removed"))

    @property
    def _transfers(self) -> RemoteTransfers:
        """The part that does the transfers, loaded when it is first used."""
        if self._loaded is None:
            from neuromirror.volume.remote_transfers import RemoteTransfers

            self._loaded = RemoteTransfers(self.annex)
        return self._loaded
