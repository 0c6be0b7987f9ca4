"""Pack indexes are read as git reads them, and damaged ones are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.git import BLOB, KnownObjects, PackWriter
from neuromirror.git.packs import PackIndex, pack_size
from neuromirror.git.runner import PackIndexError
from support.mint_oracle import add_pack, bare_repository, pack_ids


@pytest.fixture
def index(tmp_path: Path) -> Path:
    repository = bare_repository(tmp_path / "r")
    with PackWriter(tmp_path) as writer:
        for number in range(600):
            writer.add(BLOB, b"%d" % number)
        pack = writer.finish()
    assert pack is not None
    add_pack(repository, pack)
    return repository / "objects" / "pack" / f"{pack.name}.idx"


def test_index_has_exactly_the_ids_that_git_lists(index: Path) -> None:
    listed = {bytes.fromhex(one) for one in pack_ids(index)}
    assert pack_size(index.parent, index.stem).objects == len(listed) == 600
    with PackIndex(index) as ids:
        assert set[bytes]().union(*map(ids.ids_starting_with, range(256))) == listed
        assert all(one in ids for one in listed)
        assert not any(one[::-1] in ids for one in listed if one[::-1] not in listed)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:1000], id="truncated-fanout"),
        pytest.param(lambda content: content[:-5000], id="truncated-ids"),
        pytest.param(lambda content: b"x" + content[1:], id="magic"),
        pytest.param(lambda content: content[:8] + b"\xff" + content[9:], id="fanout-order"),
    ],
)
def test_damaged_index_is_rejected_and_its_objects_count_as_unknown(
    index: Path, damage: object
) -> None:
    known_id = bytes.fromhex(pack_ids(index)[0])
    known = KnownObjects(index.parents[1])
    assert known_id in known
    known.close()
    assert callable(damage)
    content = damage(index.read_bytes())
    index.unlink()
    index.write_bytes(content)
    with pytest.raises(PackIndexError, match=index.name):
        PackIndex(index)
    with pytest.raises(PackIndexError, match=index.name):
        pack_size(index.parent, index.stem)
    known = KnownObjects(index.parents[1])
    assert not known
    assert known_id not in known
    known.close()


def test_index_without_its_pack_is_ignored(index: Path) -> None:
    index.with_suffix(".pack").unlink()
    known = KnownObjects(index.parents[1])
    assert not known
    known.close()
