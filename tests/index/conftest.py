from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.index import Index
from support.disk_journal import DiskJournal


@pytest.fixture
def journal(tmp_path: Path) -> DiskJournal:
    root = tmp_path / "store"
    root.mkdir()
    return DiskJournal(root)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index.open(path) as opened:
        yield opened
