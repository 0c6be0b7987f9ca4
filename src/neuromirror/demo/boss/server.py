"""The demo BOSS as a running thing: one server on loopback, its faults, its mirror file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from neuromirror.demo.boss.contents import fill
from neuromirror.demo.boss.state import BossState

if TYPE_CHECKING:
    from neuromirror.demo.boss.cutouts import Cutouts
    from neuromirror.demo.faults import Fault

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

``status`` 429 says nothing of when to come again, unless ``retry_after`` does; other statuses are
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


class DemoBoss(BossState):
    """A BOSS on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    ``directory`` gets the mirror file, in ``mirrors``; it is removed at the end. ``port`` 0 takes
    a free one. With ``empty`` nothing is in it; what it holds outlasts a stop. ``limit`` is the
    most bytes of voxels in a request, by default as upstream's.
    """

    token: Final = "6f1d8b07c2e94a53" + "0" * 24
    """The owner's token (``Authorization: Token …``): reads all and writes."""

    public_token: Final = "public"
    """Everybody's token: reads what is public."""

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int = 0,
        empty: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.mirrors = Path(directory).absolute() / "mirrors"
        self.url = ""
        """``http://127.0.0.1:<port>``, while it runs."""
        self._port = port
        self._empty = empty
        self._stack = ExitStack()
        self._cutouts = self._made_cutouts(limit)
        self._watched()

    def start(self) -> Self:
        """Serve from now on."""
        from neuromirror.demo.server import LoopbackServer

        for name in ("blosc", "numpy", "PIL"):
            import_module(name)  # better missed now than in a request
        with ExitStack() as undo:
            undo.push(self._stack)
            if not self._empty and not self.collections:
                fill(self)
            server = LoopbackServer(self._watch, self._port)
            self._stack.callback(server.stop)
            # Last in, first out: what hangs is let go before the server waits for it.
            self._stack.callback(self._faults.clear)
            self.url = server.url
            self._write_mirror()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Serve no more, and leave nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- addresses

    @property
    def api(self) -> str:
        """The base address, to which clients add ``/v1/…``."""
        return self.url

    @property
    def host(self) -> str:
        """``127.0.0.1:<port>``."""
        return self.url.partition("://")[2]

    @property
    def control_url(self) -> str:
        """Where the verbs can be called: ``POST <control_url>/<verb>`` with a JSON object."""
        return f"{self.url}/_demo"

    def addresses(self) -> dict[str, Any]:
        """What ``serve`` prints."""
        return {"api": self.api, "token": self.token, "control": self.control_url}

    @property
    def limit(self) -> int:
        """The most bytes of voxels in a request."""
        return self._cutouts.most

    @limit.setter
    def limit(self, most: int) -> None:
        self._cutouts.most = most

    # -- faults and requests

    def fault(self, name: str, **options: Any) -> Fault:
        """Switch a fault of ``FAULTS`` on; off by its ``clear`` or at the end of a ``with``."""
        return self._faults.set(name, **options)

    def throttle(self, times: int | None = None, **how: Any) -> Fault:
        """Answer 429 without Retry-After, as many times as said (None: until it is cleared)."""
        return self.fault("status", status=429, times=times, **how)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._faults.clear()

    @property
    def requests(self) -> list[str]:
        """The requests so far, in order: ``"GET /v1/collection/"``."""
        return list(self._watch.log)

    def count_requests(self, pattern: str = "") -> int:
        """How many requests hold this regular expression."""
        return sum(bool(re.search(pattern, one)) for one in self.requests)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._watch.log.clear()

    # -- parts

    def _made_cutouts(self, limit: int | None) -> Cutouts:
        from neuromirror.demo.boss.cutouts import MOST, Cutouts

        return Cutouts(self, MOST if limit is None else limit)

    def _watched(self) -> None:
        from neuromirror.demo.boss.api import BossApi
        from neuromirror.demo.boss.documents import OWNER, PUBLIC
        from neuromirror.demo.boss.watched import WatchedBoss
        from neuromirror.demo.control import Controlled
        from neuromirror.demo.faults import Faults

        self._faults = Faults(None, FAULTS, server="boss")
        tokens = {self.token: OWNER, self.public_token: PUBLIC}
        verbs: dict[str, Callable[..., object]] = {name: getattr(self, name) for name in VERBS}
        for name in ("fault", "throttle"):
            verbs[name] = _silent(getattr(self, name))
        app = Controlled(BossApi(self, self._cutouts, tokens), verbs, lambda: self.requests)
        self._watch = WatchedBoss(app, "boss", self._faults, None)

    def _write_mirror(self) -> None:
        self.mirrors.mkdir(parents=True, exist_ok=True)
        target = self.mirrors / "demo-boss.toml"
        target.write_text(
            'source = "boss"\ntitle = "BOSS (loopback)"\n\n'
            f'[options]\napi = "{self.api}"\nblock = [64, 64, 16]\nhash = "fetch"\n'
        )
        self._stack.callback(target.unlink, missing_ok=True)


def _silent(verb: Callable[..., object]) -> Callable[..., object]:
    """A verb whose result is no JSON."""

    def called(**given: Any) -> None:
        verb(**given)

    return called
