"""The records of a version, looked up by path without reading the rest of them."""

import random
from pathlib import Path

import pytest

from neuromirror.model import (
    Digest,
    FileRecord,
    SnapshotEntry,
    diff_lines,
    dump_snapshot_entry,
    load_snapshot_entry,
)
from neuromirror.store import Store, StoreDamagedError

DATASET = "0d3c2a4e-0000-4000-8000-000000000001"


def _line(path: bytes, value: int) -> bytes:
    digest = Digest("md5", f"{value:032x}", "test")
    return dump_snapshot_entry(
        SnapshotEntry(path, f"MD5E-s1--{value:032x}", FileRecord(path, 1, (digest,)))
    )


def _commit(number: int) -> str:
    return f"{number:040x}"


def _folder_entries(paths: list[bytes], folder: bytes) -> list[tuple[bytes, bool]]:
    """The names in a folder by reading everything, each with whether it is a folder."""
    start = folder + b"/" if folder else b""
    names = [path[len(start) :].partition(b"/") for path in paths if path.startswith(start)]
    return [*dict.fromkeys((name, bool(slash)) for name, slash, _ in names)]


@pytest.fixture
def versions(store: Store) -> list[dict[bytes, bytes]]:
    """The lines of five versions by path; all but the first are stored as changes."""
    drawn = random.Random(22)
    paths = [f"{a}/{b}/{c}" for a in range(3) for b in range(70) for c in range(60)]
    paths += [f"{a}/zarr.json" for a in range(3)] + ["a.b", "a", "ä/x", 'q"/\\', "zarr.json", "0.x"]
    now = {path.encode(): _line(path.encode(), drawn.getrandbits(64)) for path in paths}
    found = [now]
    store.records.write(DATASET, _commit(0), [now[path] for path in sorted(now)])
    for number in range(1, 5):
        new = dict(now)
        for path in drawn.sample(sorted(now), 500):
            if drawn.random() < 0.5:
                del new[path]
            else:
                new[path] = _line(path, drawn.getrandbits(64))
        for _ in range(300):
            path = b"%d/%d/new%d" % (drawn.randrange(5), drawn.randrange(90), drawn.randrange(90))
            new[path] = _line(path, drawn.getrandbits(64))
        pairs = diff_lines(*([each[path] for path in sorted(each)] for each in (now, new)))
        assert store.records.write_changes(DATASET, _commit(number), _commit(number - 1), pairs)
        found.append(new)
        now = new
    return found


@pytest.mark.parametrize("number", [0, 1, 4])
def test_every_path_is_found(store: Store, versions: list[dict[bytes, bytes]], number: int) -> None:
    lookup = store.records.lookup(DATASET, _commit(number))
    every = sorted({path for version in versions for path in version})
    for path in [*every[::7], b"0", b"zzz", b"0/0/", b"a.b"]:
        line = versions[number].get(path)
        assert lookup.find(path) == (None if line is None else load_snapshot_entry(line))
    lookup.close()


@pytest.mark.parametrize("number", [0, 4])
def test_folders_are_listed(store: Store, versions: list[dict[bytes, bytes]], number: int) -> None:
    paths = sorted(versions[number])
    lookup = store.records.lookup(DATASET, _commit(number))
    for folder in (b"", b"0", b"1/3", b"4", b"nothing", "ä".encode()):
        found = [(name, entry is None) for name, entry in lookup.entries(folder)]
        assert found == _folder_entries(paths, folder)
    for folder in (b"", b"2/6"):
        start = folder + b"/" if folder else b""
        below = [one.git_path for one in lookup.below(folder)]
        assert below == [path for path in paths if path.startswith(start)]


def test_lookup_equals_the_lines(store: Store, versions: list[dict[bytes, bytes]]) -> None:
    assert [*store.records.lines(DATASET, _commit(4))] == [
        versions[4][path] for path in sorted(versions[4])
    ]


def test_damaged_records_are_an_error(store: Store, versions: list[dict[bytes, bytes]]) -> None:
    with pytest.raises(StoreDamagedError):
        store.records.lookup(DATASET, _commit(99))
    folder = Path(store.root) / "neuromirror" / "records"
    (whole,) = folder.rglob(f"{_commit(0)}.*")
    content = bytearray(whole.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 4] = b"\0\0\0\0"
    whole.chmod(0o644)
    whole.write_bytes(content)
    lookup = store.records.lookup(DATASET, _commit(4))
    with pytest.raises(StoreDamagedError):
        list(lookup.below(b""))
