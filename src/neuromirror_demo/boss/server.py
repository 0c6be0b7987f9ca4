"""The demo BOSS: one server on loopback with its faults and its mirror file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo.boss.contents import fill
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.demo_server import VolumeServer, volume_faults

if TYPE_CHECKING:
    from neuromirror_demo.boss.cutouts import BossCutouts

_VOXELS: Final = "/cutout/"

FAULTS: Final[Mapping[str, dict[str, Any]]] = {
    **volume_faults(_VOXELS),
    "bad_token": {"path": "."},
}
"""Every fault with the default values of its options; ``faults.Fault`` has the common ones.

``status`` 429 states no time for a retry unless ``parse_retry_after`` is set; other statuses are
pages. ``wrong_shape`` lacks a row, ``zeros`` is the content of a lost object, ``bad_token`` rejects
every token.
"""


class DemoBoss(VolumeServer, BossState):
    """A BOSS on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    The mirror file is written to ``directory/mirrors``, and removed at the end. ``port`` 0 selects
    a free port. With ``empty`` the service has no contents. Contents survive a stop. ``limit`` is
    the maximum size of the voxels in a request in bytes, by default upstream's.
    """

    token = "6f1d8b07c2e94a53" + "0" * 24
    """The token of the owner (``Authorization: Token …``), which can read and write everything."""

    mirror_name = ("demo-boss", "boss", "BOSS")

    public_token: Final = "public"
    """Token of the public user, which can read public data."""

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        empty: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self._initialize(directory, port)
        self._empty = empty
        self._cutouts = self._make_cutouts(limit)
        self._make_fault_injector()

    def _prepare(self) -> None:
        for name in ("blosc", "numpy"):
            import_module(name)  # fail here rather than in a request
        if not self._empty and not self.collections:
            fill(self)

    # -- addresses

    @property
    def api(self) -> str:
        """The base URL, to which clients append ``/v1/…``."""
        return self.url

    @property
    def limit(self) -> int:
        """The maximum size of the voxels in a request in bytes."""
        return self._cutouts.max_bytes

    @limit.setter
    def limit(self, most: int) -> None:
        self._cutouts.max_bytes = most

    # -- helpers

    def _make_cutouts(self, limit: int | None) -> BossCutouts:
        from neuromirror_demo.boss.cutouts import MAX_REQUEST_BYTES, BossCutouts

        return BossCutouts(self, MAX_REQUEST_BYTES if limit is None else limit)

    def _make_fault_injector(self) -> None:
        from neuromirror_demo.boss.api import BossApi
        from neuromirror_demo.boss.documents import OWNER, PUBLIC
        from neuromirror_demo.boss.fault_injector import BossFaultInjector
        from neuromirror_demo.faults import Faults

        self._faults = Faults(None, FAULTS, server="boss")
        tokens = {self.token: OWNER, self.public_token: PUBLIC}
        app = BossApi(self, self._cutouts, tokens)
        self._fault_injector = BossFaultInjector(app, "boss", self._faults, None)
