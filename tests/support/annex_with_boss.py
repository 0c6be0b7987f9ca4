"""A BOSS on loopback, and git-annex repositories with its blocks."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from neuromirror.annex import link_target, sha256e_key
from neuromirror.sources.volumes.urls import VOLUME_REMOTE
from neuromirror.volume.remote_transfers import RemoteTransfers
from neuromirror_demo.boss import DemoBoss


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@dataclass
class AnnexRepository:
    """A repository with git-annex, in which the special remote is enabled."""

    path: Path

    def run(self, *arguments: str, ok: bool = True, lines: str = "") -> str:
        """Run ``git annex`` and return both output streams; check that it succeeds, or fails."""
        done = subprocess.run(
            ["git", "annex", *arguments],
            cwd=self.path,
            input=lines,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output
        return output

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, capture_output=True, text=True, check=True
        )
        return done.stdout

    def put(self, name: str, content: bytes, *urls: str) -> Path:
        """Add a file with this content, whose key has these URLs and no local copy."""
        key = sha256e_key(len(content), hashlib.sha256(content).hexdigest(), name)
        link = self.path / name
        link.symlink_to(link_target(key, name.encode()).decode())
        self.git("add", name)
        if urls:
            self.run("registerurl", "--batch", lines="".join(f"{key} {url}\n" for url in urls))
        return link


@pytest.fixture(scope="session")
def annex_template(tmp_path_factory: pytest.TempPathFactory) -> AnnexRepository:
    """Return a copy of a prepared repository for each test."""
    folder = Path(sys.executable).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{name}_NAME", "Tests")
            patch.setenv(f"GIT_{name}_EMAIL", "tests@example.invalid")
        made = AnnexRepository(tmp_path_factory.mktemp("made") / "annex")
        made.path.mkdir()
        made.git("init", "-q")
        made.run("init", "-q")
        kind = [f"externaltype={VOLUME_REMOTE.externaltype}", "encryption=none", "autoenable=true"]
        made.run("initremote", VOLUME_REMOTE.name, "type=external", *kind)
    return made


class RemoteInProcess:
    """The special remote in this process, with the replies that git-annex gives it.

    Each object is what a new process of the program would be; ``folder`` has the repository.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = AnnexRepository(folder)
        self.repository.git("init", "-q")
        self.remote = RemoteTransfers(self)
        self._urls: list[str] = []

    def get(self, content: bytes, *urls: str) -> bytes:
        """Retrieve a content that has these URLs; raises RemoteError."""
        self._urls = list(urls)
        target = self.folder / "retrieved"
        key = sha256e_key(len(content), hashlib.sha256(content).hexdigest(), "block")
        self.remote.transfer_retrieve(key, str(target))
        return target.read_bytes()

    def geturls(self, key: str, prefix: str) -> list[str]:
        return [one for one in self._urls if one.startswith(prefix)]

    def getgitdir(self) -> str:
        return str(self.folder / ".git")

    def getcreds(self, setting: str) -> dict[str, str]:
        return {"user": "", "password": ""}

    def progress(self, done: int) -> None:
        pass


@pytest.fixture
def remote(tmp_path: Path) -> RemoteInProcess:
    return RemoteInProcess(tmp_path)


@pytest.fixture
def annex(tmp_path: Path, annex_template: AnnexRepository) -> AnnexRepository:
    shutil.copytree(annex_template.path, tmp_path / "annex", symlinks=True)
    return AnnexRepository(tmp_path / "annex")


def chunk(
    boss: DemoBoss,
    path: str,
    box: tuple[tuple[int, int], ...],
    level: int = 0,
    shape: tuple[int, int, int] | None = None,
) -> bytes:
    """Return the chunk file of a box: voxels in C order (z, y, x), zero-padded to ``shape``."""
    (x0, x1), (y0, y1), (z0, z1) = box
    voxels = np.asarray(boss.voxels(path, level))
    starts = [start for start, _ in boss.box(path, level)]
    cut = voxels[
        ...,
        z0 - starts[2] : z1 - starts[2],
        y0 - starts[1] : y1 - starts[1],
        x0 - starts[0] : x1 - starts[0],
    ]
    cut = cut.reshape(cut.shape[-3:])
    if shape is not None:
        x, y, z = shape
        whole = np.zeros((z, y, x), cut.dtype)
        whole[: cut.shape[0], : cut.shape[1], : cut.shape[2]] = cut
        cut = whole
    return np.ascontiguousarray(cut.astype(cut.dtype.newbyteorder("<"))).tobytes()


def url(boss: DemoBoss, path: str, box: tuple[tuple[int, int], ...], level: int = 0) -> str:
    ranges = "/".join(f"{start}:{stop}" for start, stop in box)
    return f"boss://{boss.host}/{path}/{level}/{ranges}"
