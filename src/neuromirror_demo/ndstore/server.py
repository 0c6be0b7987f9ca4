"""The demo ndstore: one server on loopback with its faults and its mirror file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo.demo_server import VolumeServer, volume_faults
from neuromirror_demo.ndstore.state import NdstoreState

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from werkzeug.wrappers import Request

    from neuromirror_demo.faults import FaultInjector
    from neuromirror_demo.volumes import Voxels

_SERVER: Final = "ndstore"
_VOXELS: Final = r"/npz/\d+/"

FAULTS: Final[Mapping[str, dict[str, Any]]] = volume_faults(_VOXELS)
"""Every fault with the default values of its options; ``faults.Fault`` has the common ones.

``status`` 429 states no time for a retry unless ``parse_retry_after`` is set. ``wrong_shape`` lacks
a row, ``zeros`` is the content of cuboids that were never written.
"""


class DemoNdstore(VolumeServer, NdstoreState):
    """An ndstore on loopback, from :meth:`start` (or ``with``) to :meth:`stop`.

    It replies like neurodata/ndstore below ``/nd/ca/``, ``/nd/sd/`` and ``/nd/ramon/``, and accepts
    no uploads. The mirror file is written to ``directory/mirrors``, and removed at the end.
    ``port`` 0 selects a free port. With ``empty`` it has no projects. Equal calls give equal
    voxels.
    """

    token = "5f0c2b8e71d94a36" + "2" * 24
    """The token of the owner (``Authorization: Token …``), which can read everything."""

    mirror_name = ("demo-neurodata", "ndstore", "ndstore")

    def __init__(self, directory: Path | str, *, port: int = 0, empty: bool = False) -> None:
        super().__init__()
        self._initialize(directory, port)
        self._empty = empty
        self._fault_injector = self._make_fault_injector()

    def _make_fault_injector(self) -> FaultInjector:
        from neuromirror_demo.faults import FaultInjector, Faults
        from neuromirror_demo.ndstore.api import NdstoreApi

        self._faults = Faults(None, FAULTS, server=_SERVER)
        self._answers = NdstoreApi(self.projects, self.token, _apply_faults)
        return FaultInjector(self._serve, _SERVER, self._faults, None)

    def _prepare(self) -> None:
        from neuromirror_demo.ndstore.contents import projects

        if not self._empty:
            self.projects.update((project.token, project) for project in projects())

    # -- addresses

    @property
    def api(self) -> str:
        """``http://127.0.0.1:<port>/nd/ca``."""
        return f"{self.url}/nd/ca"

    # -- helpers

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from werkzeug.wrappers import Request

        with self.lock:
            response = self._answers.answer(Request(environ))
        return response(environ, start_response)


def _apply_faults(request: Request, voxels: Voxels) -> Voxels:
    """Return the voxels of a cutout with the faults that apply to this request."""
    for fault in request.environ["neuromirror_demo.struck"]:
        if fault.name == "wrong_shape":
            voxels = voxels[..., :-1, :]
        elif fault.name == "wrong_dtype":
            voxels = voxels.astype("uint16" if voxels.dtype.name == "uint8" else "uint8")
        elif fault.name == "zeros":
            voxels = voxels * 0
    return voxels
