"""Bytes of the index that were changed from outside are reported as that, by one error."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuromirror.index import Index, IndexDamagedError, raise_if_damaged
from neuromirror.index.backup import copy_database
from neuromirror.model import NeuromirrorError
from support.disk_journal import DiskJournal, placed_file

NAME = "dandi:000001"

QUESTIONS: dict[str, Callable[[Index], Any]] = {
    "datasets": lambda index: list(index.datasets()),
    "dataset": lambda index: index.dataset(NAME),
    "versions": lambda index: list(index.versions(NAME)),
    "resolve": lambda index: index.resolve(NAME),
    "files": lambda index: list(index.files(index.resolve(NAME))),
    "level": lambda index: list(index.folder_entries(index.resolve(NAME))),
    "search": lambda index: list(index.search("a1")),
    "find": lambda index: list(index.find("0" * 64)),
    "paths": lambda index: index.matching_files(index.resolve(NAME), "a1"),
    "events": lambda index: list(index.events()),
    "failures": lambda index: index.failures(),
    "mirrors": lambda index: list(index.mirror_status()),
    "withdrawn": lambda index: list(index.tombstones()),
    "position": lambda index: index.position,
}


@pytest.fixture(scope="module")
def sound_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a dataset with some versions."""
    root = tmp_path_factory.mktemp("damage")
    journal = DiskJournal(root)
    for shift in range(4):
        journal.mint(placed_file(f"a{n}/b{n}.nwb", n + shift * (n % 2)) for n in range(60))
    journal.visit()
    with Index.open(root / "live.sqlite") as index:
        index.catch_up(journal)
    copy_database(root / "live.sqlite", root / "sound.sqlite")
    return root / "sound.sqlite"


def outcomes(path: Path) -> Iterator[BaseException]:
    """What questions to an index raise."""
    for question in QUESTIONS.values():
        try:
            with Index.open_readonly(path) as index:
                question(index)
        except Exception as error:  # noqa: BLE001
            yield error


@pytest.mark.parametrize("count", [1, 8, 64])
@pytest.mark.parametrize("block", range(4))
def test_changed_bytes_give_results_or_one_kind_of_error(
    sound_index: Path, tmp_path: Path, count: int, block: int
) -> None:
    content = sound_index.read_bytes()
    path = tmp_path / "index.sqlite"
    for seed in range(block * 8, block * 8 + 8):
        drawn = random.Random(seed * 1000 + count)
        changed = bytearray(content)
        for offset in drawn.choices(range(len(changed)), k=count):
            changed[offset] ^= drawn.randrange(1, 256)
        path.write_bytes(changed)
        for error in outcomes(path):
            assert isinstance(error, NeuromirrorError), (seed, count, repr(error))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"b1.nwb", b"b1.\xff\xfeb"),
        (b"observed", b"obs\xc3rved"),
        (b'{"', b"{{"),
        (b"dandi", b"dan\xffi"),
    ],
)
def test_text_that_is_not_text_is_damage(
    sound_index: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(sound_index.read_bytes().replace(old, new))
    found = list(outcomes(path))
    assert found
    for error in found:
        assert isinstance(error, NeuromirrorError), repr(error)
    assert any(isinstance(error, IndexDamagedError) for error in found)


def test_a_file_that_is_cut_off_is_damage(sound_index: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    shutil.copy(sound_index, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    found = list(outcomes(path))
    assert found
    assert all(isinstance(error, NeuromirrorError) for error in found)


def test_a_value_of_a_wrong_type_is_damage_where_it_is_used(
    sound_index: Path, tmp_path: Path
) -> None:
    path = tmp_path / "index.sqlite"
    shutil.copy(sound_index, path)
    raise_if_damaged(path, TypeError())  # a defect of the program stays one
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(bytes(range(256)) * 20)
    with pytest.raises(IndexDamagedError):
        raise_if_damaged(path, TypeError())
