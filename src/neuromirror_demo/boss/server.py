"""The demo BOSS as a running thing: one server on loopback, its faults, its mirror file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo.boss.contents import fill
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.demo_server import DemoServer

if TYPE_CHECKING:
    from neuromirror_demo.boss.cutouts import BossCutouts

_VOXELS: Final = "/cutout/"

FAULTS: Final[Mapping[str, dict[str, Any]]] = {
    "status": {"path": ".", "status": 503, "retry_after": None},
    "html": {"path": "."},
    "hang": {"path": ".", "seconds": 30.0},
    "slow": {"path": _VOXELS, "delay": 0.05, "chunk": 4096},
    "cut": {"path": _VOXELS, "keep": 0.5, "lying": False},
    "wrong_bytes": {"path": _VOXELS},
    "wrong_shape": {"path": _VOXELS},
    "wrong_dtype": {"path": _VOXELS},
    "zeros": {"path": _VOXELS},
    "bad_token": {"path": "."},
}
"""Every fault with the defaults of its options; those of all are in ``faults.Fault``.

``status`` 429 says nothing of when to come again, unless ``parse_retry_after`` does; other
statuses are
pages. ``wrong_shape`` lacks a row, ``zeros`` is what a lost object reads as, ``bad_token`` takes
every token for a wrong one.
"""

VERBS: Final = (
    "add_collection",
    "add_channel",
    "add_experiment",
    "add_frame",
    "clear_faults",
    "clear_requests",
    "describe",
    "downsample",
    "edit",
    "move_storage",
    "purge",
    "restore",
    "set_metadata",
    "set_public",
    "set_status",
    "soft_delete",
)
"""The methods that can be called as ``POST <control_url>/<verb>``."""


class DemoBoss(DemoServer, BossState):
    """A BOSS on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    ``directory`` gets the mirror file, in ``mirrors``; it is removed at the end. ``port`` 0 takes
    a free one. With ``empty`` nothing is in it; what it holds outlasts a stop. ``limit`` is the
    most bytes of voxels in a request, by default as upstream's.
    """

    token: Final = "6f1d8b07c2e94a53" + "0" * 24
    """The owner's token (``Authorization: Token …``): reads all and writes."""

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
        for name in ("blosc", "numpy", "PIL"):
            import_module(name)  # better missed now than in a request
        if not self._empty and not self.collections:
            fill(self)

    # -- addresses

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, while it runs."""
        return self._address

    @property
    def api(self) -> str:
        """The base address, to which clients add ``/v1/…``."""
        return self.url

    def addresses(self) -> dict[str, Any]:
        """What ``serve`` prints."""
        return {"api": self.api, "token": self.token, "control": self.control_url}

    @property
    def limit(self) -> int:
        """The most bytes of voxels in a request."""
        return self._cutouts.max_bytes

    @limit.setter
    def limit(self, most: int) -> None:
        self._cutouts.max_bytes = most

    # -- parts

    def _make_cutouts(self, limit: int | None) -> BossCutouts:
        from neuromirror_demo.boss.cutouts import MAX_REQUEST_BYTES, BossCutouts

        return BossCutouts(self, MAX_REQUEST_BYTES if limit is None else limit)

    def _make_fault_injector(self) -> None:
        from neuromirror_demo.boss.api import BossApi
        from neuromirror_demo.boss.documents import OWNER, PUBLIC
        from neuromirror_demo.boss.fault_injector import BossFaultInjector
        from neuromirror_demo.control_api import ControlMiddleware
        from neuromirror_demo.faults import Faults

        self._faults = Faults(None, FAULTS, server="boss")
        tokens = {self.token: OWNER, self.public_token: PUBLIC}
        verbs = self._verbs(VERBS, ("fault", "throttle"))
        app = ControlMiddleware(BossApi(self, self._cutouts, tokens), verbs, lambda: self.requests)
        self._fault_injector = BossFaultInjector(app, "boss", self._faults, None)

    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        options = f'api = "{self.api}"\nblock = [64, 64, 16]\nhash = "fetch"\n'
        return {"demo-boss": ("boss", "BOSS", options)}
