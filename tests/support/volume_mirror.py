"""A store with channels of a BOSS on loopback, mirrored once, and clones of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import neuromirror.volume
from neuromirror.cli import main
from neuromirror_demo.boss import DemoBoss
from support.annex_with_boss import AnnexRepository

EM, CELLS = "demo_cortex/sections/em", "demo_cortex/sections/cells"
ACTIVITY = "demo_activity/calcium/gcamp"
SKETCH = "demo_cortex/sections/sketch"
"""Nearly all of it is 0: most blocks are the same bytes."""
FLAT = "demo_cortex/sections/flat"
"""All of it is 7: blocks that no edge cuts are the same bytes, and no zeros."""
FIRST_Z = 12
"""Of EM and CELLS upstream; 0 in the array."""

_MIRROR = """
source = "boss"
[options]
api = "{api}"
block = [128, 128, 32]
hash = "{hash}"
include = {include}
"""


@dataclass
class BossMirror:
    """A BOSS, and stores that mirror some of its channels.

    ``held`` has the sha256 of each block, ``plain`` has no checksums.
    """

    boss: DemoBoss
    folder: Path

    @property
    def store(self) -> Path:
        """Return the store with checksums."""
        return self.folder / "held"

    def open(self, path: str = EM, level: int = 0, mirror: str = "held") -> Any:
        """Return the channel in the store."""
        return neuromirror.volume.open(f"{mirror}:{path}", level, store=self.folder / mirror)

    def voxels(self, path: str = EM, level: int = 0) -> Any:
        """Return upstream's voxels, axes ([t,] z, y, x)."""
        return np.asarray(self.boss.voxels(path, level))

    def alias(self, path: str = EM) -> Path:
        """Return the repository in the store."""
        return self.store / "alias" / f"held--{path.replace('/', '--')}"


@contextmanager
def open_boss_mirror(
    folder: Path, held: Sequence[str], plain: Sequence[str]
) -> Iterator[BossMirror]:
    """Mirror channels of a BOSS, which keeps running, with and without checksums."""
    with DemoBoss(folder / "boss") as boss, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("NO_PROXY", "127.0.0.1")
        if FLAT in held:
            boss.add_channel(FLAT, voxels=np.full(boss.voxels(EM).shape, 7, "uint8"))
        for name, hashing, include in (("held", "fetch", held), ("plain", "none", plain)):
            if not include:
                continue
            mirrors = folder / f"mirrors-{name}"
            mirrors.mkdir()
            written = _MIRROR.format(api=boss.api, hash=hashing, include=list(include))
            (mirrors / f"{name}.toml").write_text(written)
            options = ["--mirrors", str(mirrors), "--store", str(folder / name)]
            done = CliRunner().invoke(main, [*options, "sync"])
            assert done.exit_code == 0, done.stderr
        patch.undo()
        yield BossMirror(boss, folder)


@pytest.fixture(scope="session")
def shared_boss_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BossMirror]:
    """A BOSS whose channels were mirrored."""
    channels = (EM, CELLS, ACTIVITY, SKETCH, FLAT)
    with open_boss_mirror(tmp_path_factory.mktemp("mirrored"), channels, [EM]) as mirrored:
        yield mirrored


@pytest.fixture
def boss_mirror(shared_boss_mirror: BossMirror) -> Iterator[BossMirror]:
    """The same for one test, which may configure faults."""
    shared_boss_mirror.boss.clear_requests()
    yield shared_boss_mirror
    shared_boss_mirror.boss.clear_faults()


@pytest.fixture(scope="session")
def clone_template(
    shared_boss_mirror: BossMirror, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a copy of a clone of EM for each test."""
    folder = tmp_path_factory.mktemp("made-clone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{name}_NAME", "Tests")
            patch.setenv(f"GIT_{name}_EMAIL", "tests@example.invalid")
        made = AnnexRepository(folder / "clone")
        subprocess.run(["git", "clone", "-q", shared_boss_mirror.alias(), made.path], check=True)
        made.run("init", "-q")
    return made.path


@pytest.fixture
def clone(clone_template: Path, tmp_path: Path) -> AnnexRepository:
    """Return a clone of EM without one block."""
    shutil.copytree(clone_template, tmp_path / "clone", symlinks=True)
    return AnnexRepository(tmp_path / "clone")


def count_contents(clone: AnnexRepository) -> int:
    """Return the number of contents in a clone."""
    objects = clone.path / ".git" / "annex" / "objects"
    return sum(1 for one in objects.rglob("*") if one.is_file())
