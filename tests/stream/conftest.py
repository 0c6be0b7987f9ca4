"""Stores of the demo archive, read-only."""

import asyncio
import inspect
from collections.abc import Iterator

import fsspec
import pytest

from neuromirror.stream.fsspec_file_system import LockFileSystem, NeuromirrorFileSystem
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.streamed_zarrs import StreamedZarrs, streamed_zarrs
from support.volume_mirror import ACTIVITY, EM, BossMirror, boss_mirror, open_boss_mirror

__all__ = ["boss_mirror"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the coroutines of zarr's tests."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(autouse=True, scope="session")
def _protocols() -> None:
    """Register the protocols, which an environment made before they existed lacks."""
    fsspec.register_implementation("neuromirror", NeuromirrorFileSystem, clobber=True)
    fsspec.register_implementation("lock", LockFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def no_cache(isolated_home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the user's cache off, so that each test sees its own requests."""
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")


@pytest.fixture(scope="session")
def shared_boss_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BossMirror]:
    """A BOSS with two mirrored channels."""
    folder = tmp_path_factory.mktemp("mirrored")
    with open_boss_mirror(folder, [EM, ACTIVITY], [EM]) as mirrored:
        yield mirrored


@pytest.fixture(scope="session")
def subdataset_mirror(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store with a Zarr as a subdataset, read-only."""
    folder = tmp_path_factory.mktemp("parted")
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    for path in shared_demo.mirrors.glob("*.toml"):
        text = path.read_text("utf-8")
        (mirrors / path.name).write_text(f"{text}\n[zarr]\ninline = 4\n", "utf-8")
    mirror = MirrorHarness(mirrors, folder / "store")
    mirror.sync("demo:000005")
    return mirror


@pytest.fixture(scope="session")
def zarrs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamedZarrs]:
    """Zarrs in each form, read-only."""
    with streamed_zarrs(tmp_path_factory.mktemp("zarrs")) as found:
        yield found
