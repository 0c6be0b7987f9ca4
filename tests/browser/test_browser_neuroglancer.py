"""Neuroglancer draws pinned volumes from the gateway as it draws them after a download."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from neuromirror.lab.plain_files import download
from neuromirror_demo.bucket_contents import FUSION
from support.browser_session import SharedBrowser, launched
from support.client_programs import client_command
from support.command_shell import Shell
from support.loopback_http import serving
from support.mirror_harness import MirrorHarness
from support.running_catalogue import run_catalogue
from support.volume_archives import EM, LAYER, VolumeArchives, volumes

__all__ = ["volumes"]

CELLS = LAYER.replace("/em", "/cells")
ZARR = f"demo-aind:{FUSION}"

_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Without a graphics card."""


@dataclass
class Viewer:
    """Neuroglancer's Python package, and the browser that shows its viewers."""

    process: subprocess.Popen[str]
    browser: Browser
    folder: Path

    def draw(self, kind: str, source: str, name: str) -> np.ndarray:
        """Return the pixels of a layer when all its parts are drawn."""
        picture = self.folder / f"{name}.png"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([kind, source, str(picture)]), file=self.process.stdin, flush=True)
        page = self.browser.new_page(viewport={"width": 400, "height": 300})
        page.goto(self.process.stdout.readline().strip())
        assert self.process.stdout.readline().strip() == str(picture)
        page.close()
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB"))


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
        yield Viewer(process, browser, folder)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def mirror(volumes: VolumeArchives) -> MirrorHarness:
    """A store with a volume of a BOSS, precomputed layers and a Zarr."""
    found = volumes.mirror_harness
    name = "demo-aind.toml"
    (found.mirrors / name).write_text((volumes.buckets.mirrors / name).read_text("utf-8"))
    found.sync(ZARR)
    return found


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


@pytest.mark.parametrize(
    ("name", "kind", "source", "colors"),
    [
        (ZARR, "image", "zarr://{}/fused.zarr/", 20),
        (EM, "image", "zarr://{}/0/", 20),
        (f"demo-precomputed:{LAYER}", "image", "precomputed://{}", 20),
        (f"demo-precomputed:{CELLS}", "segmentation", "precomputed://{}", 4),
    ],
    ids=["zarr", "boss", "precomputed", "segmentation"],
)
def test_neuroglancer_draws_what_a_download_has(
    mirror: MirrorHarness,
    viewer: Viewer,
    tmp_path: Path,
    name: str,
    kind: str,
    source: str,
    colors: int,
) -> None:
    folder = tmp_path / "download"
    if name == EM:
        shell = Shell(mirror.mirrors, mirror.folder)
        shell.run("export", name, "--format", "zarr", "-o", str(folder))
        # the archive's other levels are not in the export
        next(folder.glob("*.zarr/0")).rename(folder / "0")
    else:
        url = f"ria+{mirror.folder.as_uri()}#~{name.replace(':', '--').replace('/', '--')}"
        assert {one.status for one in download(url, None, folder, jobs=2)} == {"ok"}
    with serving(lambda *a: _Files(*a, directory=str(folder))) as plain:
        expected = viewer.draw(kind, source.format(plain), "download")
    with run_catalogue(mirror.store, "--gateway=proxy") as site:
        found = viewer.draw(kind, source.format(f"{site.address}/at/{name}@latest"), "gateway")
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > colors
    assert np.array_equal(found, expected)
