"""The base class of the demo services: start and stop, address, faults, request log."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from neuromirror_demo.faults import Fault, FaultInjector, Faults


class DemoServer(ABC):
    """A service on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    The mirror files are written to ``directory/mirrors``, and removed at the end. ``port`` 0
    selects a free port. A subclass sets ``_watch`` and ``_faults``, and implements :meth:`_prepare`
    and :meth:`_mirror_files`.
    """

    _fault_injector: FaultInjector
    _faults: Faults

    def _initialize(self, directory: Path | str, port: int) -> None:
        """Initialize a service that is not running yet."""
        self.mirrors = Path(directory).absolute() / "mirrors"
        self._address = ""
        self._port = port
        self._stack = ExitStack()

    @abstractmethod
    def _prepare(self) -> None:
        """Prepare the service before it accepts requests."""

    @abstractmethod
    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        """Return source type, title and options of each mirror file, by the mirror's name."""

    def start(self) -> Self:
        """Start to serve."""
        from neuromirror_demo.loopback_server import LoopbackServer

        with ExitStack() as undo:
            undo.push(self._stack)
            self._prepare()
            server = LoopbackServer(self._fault_injector, self._port)
            self._stack.callback(server.stop)
            # In reverse order: hanging responses are released before the server waits for them.
            self._stack.callback(self._faults.clear)
            self._address = server.url
            self._write_mirrors()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop, and remove the mirror files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_mirrors(self) -> None:
        self.mirrors.mkdir(parents=True, exist_ok=True)
        for name, (source, title, options) in self._mirror_files().items():
            target = self.mirrors / f"{name}.toml"
            target.write_text(
                f'source = "{source}"\ntitle = "{title} (simulated)"\n\n[options]\n{options}'
            )
            self._stack.callback(target.unlink, missing_ok=True)

    # -- addresses

    @property
    def host(self) -> str:
        """``127.0.0.1:<port>``."""
        return self._address.partition("://")[2]

    # -- faults and requests

    def fault(self, name: str, **options: Any) -> Fault:
        """Enable a fault of ``FAULTS``, until its ``clear`` or the end of a ``with`` block."""
        return self._faults.set(name, **options)

    def throttle(self, times: int | None = None, **how: Any) -> Fault:
        """Return 429 without Retry-After a number of times (None: until it is cleared)."""
        return self.fault("status", status=429, times=times, **how)

    def clear_faults(self) -> None:
        """Disable all faults."""
        self._faults.clear()

    @property
    def requests(self) -> list[str]:
        """Return the requests so far, in order: ``"GET /v1/collection/"``."""
        return list(self._fault_injector.log)

    def count_requests(self, pattern: str = "") -> int:
        """Return the number of requests that match this regular expression."""
        return sum(bool(re.search(pattern, one)) for one in self.requests)

    def clear_requests(self) -> None:
        """Clear the request log."""
        self._fault_injector.log.clear()


def volume_faults(voxels: str) -> dict[str, dict[str, Any]]:
    """Return the faults of a service of volumes, with the default values of their options.

    ``voxels`` is the regular expression of the paths of cutouts.
    """
    return {
        "status": {"path": ".", "status": 503, "retry_after": None},
        "html": {"path": "."},
        "hang": {"path": ".", "seconds": 30.0},
        "slow": {"path": voxels, "delay": 0.05, "chunk": 4096},
        "cut": {"path": voxels, "keep": 0.5, "lying": False},
        "wrong_bytes": {"path": voxels},
        "wrong_shape": {"path": voxels},
        "wrong_dtype": {"path": voxels},
        "zeros": {"path": voxels},
    }


class VolumeServer(DemoServer):
    """A service of volumes, with one mirror file.

    A subclass sets ``token``, the token of the owner (``Authorization: Token …``), and
    ``mirror_name``: the name, source type and title of the mirror file.
    """

    token: ClassVar[str]
    mirror_name: ClassVar[tuple[str, str, str]]

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, while the server runs."""
        return self._address

    @property
    @abstractmethod
    def api(self) -> str:
        """The base URL of the service in mirror files."""

    def addresses(self) -> dict[str, Any]:
        """Return what ``serve`` prints."""
        return {"api": self.api, "token": self.token}

    def _mirror_files(self) -> dict[str, tuple[str, str, str]]:
        name, source, title = self.mirror_name
        options = f'api = "{self.api}"\nblock = [128, 128, 16]\nhash = "fetch"\n'
        return {name: (source, title, options)}
