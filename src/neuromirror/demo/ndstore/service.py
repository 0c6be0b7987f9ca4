"""The demo ndstore as a running thing: one server on loopback, its faults, its mirror file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from neuromirror.demo.ndstore.state import NdstoreState

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from werkzeug.wrappers import Request

    from neuromirror.demo.faults import Fault, Watched
    from neuromirror.demo.volumes import Voxels

_SERVER: Final = "ndstore"
_VOXELS: Final = r"/(npz|raw|zip|blosc|hdf5)/\d+/"

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
}
"""Every fault with the defaults of its options; those of all are in ``faults.Fault``.

``status`` 429 says nothing of when to come again, unless ``retry_after`` does. ``wrong_shape``
lacks a row, ``zeros`` is what cuboids that were never written read as.
"""

VERBS: Final = (
    "clear_faults",
    "clear_requests",
    "describe",
    "edit",
    "lose_lims",
    "move_storage",
    "propagate",
    "remove",
    "restore",
    "set_propagate",
    "set_public",
)
"""The methods that can be called as ``POST <control_url>/<verb>``."""


class DemoNdstore(NdstoreState):
    """An ndstore on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    It answers as neurodata/ndstore did, below ``/nd/ca/``, ``/nd/sd/`` and ``/nd/ramon/``, and
    takes nothing in. ``directory`` gets the mirror file, in ``mirrors``; it is removed at the end.
    ``port`` 0 takes a free one. With ``empty`` nothing is in it. Equal calls give equal voxels.
    """

    token: Final = "5f0c2b8e71d94a36" + "2" * 24
    """The owner's token (``Authorization: Token …``): reads all."""

    def __init__(self, directory: Path | str, *, port: int = 0, empty: bool = False) -> None:
        super().__init__()
        self.mirrors = Path(directory).absolute() / "mirrors"
        self.url = ""
        """``http://127.0.0.1:<port>``, while it runs."""
        self._port = port
        self._empty = empty
        self._stack = ExitStack()
        self._watch = self._watched()

    def _watched(self) -> Watched:
        from neuromirror.demo.control import Controlled
        from neuromirror.demo.faults import Faults, Watched
        from neuromirror.demo.ndstore.answers import Answers

        self._faults = Faults(None, FAULTS, server=_SERVER)
        verbs: dict[str, Callable[..., object]] = {name: getattr(self, name) for name in VERBS}
        for name in ("fault", "throttle"):
            verbs[name] = _silent(getattr(self, name))
        self._answers = Answers(self.projects, self.token, _spoilt)
        app = Controlled(self._serve, verbs, lambda: self.requests)
        return Watched(app, _SERVER, self._faults, None)

    def start(self) -> Self:
        """Serve from now on."""
        from neuromirror.demo.ndstore.contents import projects
        from neuromirror.demo.server import LoopbackServer

        with ExitStack() as undo:
            undo.push(self._stack)
            if not self._empty:
                self.projects.update((project.token, project) for project in projects())
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
        """``http://127.0.0.1:<port>/nd/ca``."""
        return f"{self.url}/nd/ca"

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
        """The requests so far, in order: ``"GET /nd/ca/public_tokens/"``."""
        return list(self._watch.log)

    def count_requests(self, pattern: str = "") -> int:
        """How many requests hold this regular expression."""
        return sum(bool(re.search(pattern, one)) for one in self.requests)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._watch.log.clear()

    # -- parts

    def _write_mirror(self) -> None:
        self.mirrors.mkdir(parents=True, exist_ok=True)
        target = self.mirrors / "demo-neurodata.toml"
        target.write_text(
            'source = "ndstore"\ntitle = "ndstore (loopback)"\n\n'
            f'[options]\napi = "{self.api}"\nblock = [64, 64, 16]\nhash = "fetch"\n'
        )
        self._stack.callback(target.unlink, missing_ok=True)

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from werkzeug.wrappers import Request

        with self.lock:
            response = self._answers.answer(Request(environ))
        return response(environ, start_response)


def _spoilt(request: Request, voxels: Voxels) -> Voxels:
    """The voxels of a cutout as the faults that strike this request leave them."""
    for fault in request.environ["neuromirror.demo.struck"]:
        if fault.name == "wrong_shape":
            voxels = voxels[..., :-1, :]
        elif fault.name == "wrong_dtype":
            voxels = voxels.astype("uint16" if voxels.dtype.name == "uint8" else "uint8")
        elif fault.name == "zeros":
            voxels = voxels * 0
    return voxels


def _silent(verb: Callable[..., object]) -> Callable[..., object]:
    """A verb whose result is no JSON."""

    def called(**given: Any) -> None:
        verb(**given)

    return called
