"""zarr-python's own tests of stores, on the stores of pinned states.

The stores are read-only: what a test writes goes past the store into the state that it reads.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.testing.store import StoreTests

from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.volume import VersionStore
from neuromirror.volume.read_only_store import BlockStore
from support.range_server import RangeServer, ServedTree

LEVEL = Level("0", (0, 0, 0), (4, 4, 4), (1, 1, 1), (4, 4, 4))
VOLUME = Volume("boss", "a.example", "a/b/c", "uint8", "nanometer", (LEVEL,))


class _StoreTests(StoreTests[Any, cpu.Buffer]):
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store(self, store_kwargs: dict[str, Any]) -> Any:
        """The store, in which a test's writes reach the state."""

        async def write(key: str, value: Buffer) -> None:
            await self.set(made, key, value)

        made = self.store_cls(**store_kwargs)
        made.set = write
        return made

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> Any:
        return self.store_cls(**store_kwargs)

    def test_store_repr(self, store: Any) -> None:
        assert type(store).__mro__[1].__name__ in repr(store)

    def test_store_supports_writes(self, store: Any) -> None:
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing

    def test_store_read_only(self, store: Any) -> None:
        assert store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False

    @pytest.mark.parametrize("read_only", [True])  # no store can be written
    async def test_store_open_read_only(self, open_kwargs: dict[str, Any], read_only: bool) -> None:
        await super().test_store_open_read_only(open_kwargs, read_only)

    @pytest.mark.skip(reason="no store can be written")
    async def test_set_not_open(self, store_not_open: Any) -> None: ...

    @pytest.mark.skip(reason="no store can be written")
    async def test_clear(self, store: Any) -> None: ...

    @pytest.mark.skip(reason="no store can be written")
    async def test_set_if_not_exists(self, store: Any) -> None: ...

    @pytest.mark.skip(reason="no store can be written")
    async def test_set(self, store: Any, key: str, data: bytes) -> None: ...


class _ServedStore(VersionStore):
    def __init__(self, tree: ServedTree, *, read_only: bool = True) -> None:
        self.tree = tree
        super().__init__(tree)


class TestVersionStore(_StoreTests):
    """Files of a version on a server, each verified when it is read."""

    store_cls = _ServedStore

    @pytest.fixture
    def store_kwargs(self) -> Iterator[dict[str, Any]]:
        with RangeServer() as self.server:
            yield {"tree": ServedTree()}

    async def set(self, store: _ServedStore, key: str, value: Buffer) -> None:
        self.server.contents[f"/{key}"] = value.to_bytes()
        store.tree.add(key, value.to_bytes(), f"{self.server.url}/{key}")

    async def get(self, store: _ServedStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(self.server.contents[f"/{key}"])

    @pytest.mark.skip(reason="a store of an open version cannot be pickled; those of addresses are")
    async def test_serializable_store(self, store: Any) -> None: ...


class _Blocks(dict[str, bytes]):
    """The files of a volume in memory."""

    where = "a volume"
    document = block = dict.get
    has = dict.__contains__

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        prefix = f"{folder}/" if folder else ""
        inner = [key.removeprefix(prefix) for key in self if key.startswith(prefix)]
        return iter(sorted({(key.partition("/")[0], "/" in key) for key in inner}))


class _MemoryBlockStore(BlockStore):
    def __init__(self, files: Any, *, read_only: bool = True) -> None:
        self.files = files
        super().__init__(files, VOLUME)


class TestBlockStore(_StoreTests):
    """Blocks of a volume."""

    store_cls = _MemoryBlockStore

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return {"files": _Blocks()}

    async def set(self, store: _MemoryBlockStore, key: str, value: Buffer) -> None:
        store.files[key] = value.to_bytes()

    async def get(self, store: _MemoryBlockStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store.files[key])

    @pytest.mark.skip(reason="this test pickles the blocks in memory, too")
    async def test_serializable_store(self, store: Any) -> None: ...
