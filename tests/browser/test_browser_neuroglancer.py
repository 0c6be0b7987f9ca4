"""Neuroglancer draws pinned volumes from the gateway as it draws them after a download."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from neuromirror.lab.clone import download
from neuromirror_demo import bucket_contents
from neuromirror_demo.bucket_contents import FUSION
from support.browser_session import SharedBrowser, launched
from support.browser_site import VOLUME, BrowserSite
from support.client_programs import client_command
from support.command_shell import Shell
from support.loopback_http import serving
from support.mirror_harness import MirrorHarness
from support.running_catalogue import run_catalogue

LAYER, CELLS = f"demo-precomputed:{bucket_contents.EM}", f"demo-precomputed:{bucket_contents.CELLS}"
ZARR = f"demo-aind:{FUSION}"

_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Without a graphics card."""


@dataclass
class Viewer:
    """Neuroglancer's Python package, and the page that shows its viewers."""

    process: subprocess.Popen[str]
    page: Page
    folder: Path

    def draw(self, *pictures: Sequence[tuple[str, str]]) -> list[np.ndarray]:
        """Return the pixels of each list of layers when all their parts are drawn."""
        paths = [str(self.folder / f"{number}.png") for number, _ in enumerate(pictures)]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = list(zip(pictures, paths, strict=True))
        print(json.dumps(request), file=self.process.stdin, flush=True)
        self.page.goto(self.process.stdout.readline().strip())
        found = []
        for path in paths:
            assert self.process.stdout.readline().strip() == path
            with Image.open(path) as image:
                found.append(np.asarray(image.convert("RGB")))
        return found


@pytest.fixture(scope="module")
def viewer(
    browser_program: str, shared_browser: SharedBrowser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Viewer]:
    """Neuroglancer and a browser."""
    folder = tmp_path_factory.mktemp("neuroglancer")
    command = client_command("neuroglancer", "neuroglancer_viewer")
    with (
        launched(shared_browser.driver, browser_program, folder, *_WEBGL) as browser,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        page = browser.new_page(viewport={"width": 400, "height": 300})
        yield Viewer(process, page, folder)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def proxy(site: BrowserSite) -> Iterator[str]:
    """The address of a gateway that delivers files itself."""
    with run_catalogue(site.mirror_harness.store, "--gateway=proxy") as running:
        yield f"{running.address}/at"


class _Files(SimpleHTTPRequestHandler):
    """A plain web server for a folder, from which pages of other servers may read."""

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def send_head(self) -> object:
        encoded = {".gz": "gzip", ".br": "br"}
        for suffix, name in encoded.items():
            path = Path(self.translate_path(self.path + suffix))
            if path.is_file():
                self.send_response(200)
                self.send_header("Content-Encoding", name)
                self.send_header("Content-Length", str(path.stat().st_size))
                self.end_headers()
                return path.open("rb")
        return super().send_head()

    def log_message(self, *_: object) -> None:
        pass


def _download(mirror: MirrorHarness, name: str, target: Path) -> None:
    """Export a volume of a BOSS, or download a dataset."""
    if name != VOLUME:
        url = f"ria+{mirror.folder.as_uri()}#~{name.replace(':', '--').replace('/', '--')}"
        assert {one.status for one in download(url, None, target, jobs=2)} == {"ok"}
        return
    shell = Shell(mirror.mirrors, mirror.folder)
    shell.run("export", name, "--format", "zarr", "-o", str(target))
    # the archive's other levels are not in the export
    next(target.glob("*.zarr/0")).rename(target / "0")


@pytest.mark.parametrize(
    "layers",
    [
        [("image", "zarr", ZARR, "fused.zarr/")],
        [("image", "zarr", VOLUME, "0/")],
        [("image", "precomputed", LAYER, ""), ("segmentation", "precomputed", CELLS, "")],
    ],
    ids=["zarr", "boss", "precomputed"],
)
def test_neuroglancer_draws_what_a_download_has(
    site: BrowserSite,
    viewer: Viewer,
    proxy: str,
    tmp_path: Path,
    layers: list[tuple[str, str, str, str]],
) -> None:
    for number, (_, _, name, _) in enumerate(layers):
        _download(site.mirror_harness, name, tmp_path / str(number))
    pinned = [
        (kind, f"{scheme}://{proxy}/{name}@latest/{path}") for kind, scheme, name, path in layers
    ]
    with serving(lambda *a: _Files(*a, directory=str(tmp_path))) as plain:
        downloaded = [
            (kind, f"{scheme}://{plain}/{number}/{path}")
            for number, (kind, scheme, _, path) in enumerate(layers)
        ]
        found, expected = viewer.draw(pinned, downloaded)
    colours = np.unique(found.reshape(-1, 3), axis=0)
    grey = (colours == colours[:, :1]).all(axis=1)
    assert grey.sum() > 20, "no image"
    # three axes are drawn over any image
    assert (int((~grey).sum()) > 10) is any(kind == "segmentation" for kind, *_ in layers)
    assert np.array_equal(found, expected)
