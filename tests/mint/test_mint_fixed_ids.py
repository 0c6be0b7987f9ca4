"""Commit ids of fixed snapshots, which must never change."""

import json
from pathlib import Path

import pytest

from support.dataset_states import DatasetState
from support.mint_oracle import MintedRepository

IDS = Path(__file__).with_name("fixed_ids.json")

FILES = DatasetState(
    files={
        b"a": (1, (0,)),
        b"b/c.nwb": (2, (0, 1)),
        b"b/.git": (3, (0,)),
        b"caf\xc3\xa9": (4, (2,)),
        b"deep/er/x": (5, ()),
    },
    documents={b"meta/deep/er/e.json": 1},
)
MORE = DatasetState(
    files={**FILES.files, b"a": (6, (0,)), b"b/d": (9, (0,)), b"b/e": (13, (1,))},
    documents={b"meta/deep/er/e.json": 2, b"info": 3},
    facts=2,
)
COMPONENTS = DatasetState(
    files={b"b/c.nwb": (2, (0, 1)), b"z": (21, (0,))},
    documents=MORE.documents,
    subdatasets={b"s/one.zarr": 3, b"t.zarr": 4},
    inline={b"a/z.zarr": 2},
    facts=1,
)
MANIFEST = DatasetState(files={b"0/0/0": (1, (0,)), b"zarr.json": (2, (0,))}, form="manifest")
CHAINS = {
    "files": (FILES, MORE, FILES),
    "components": (FILES, COMPONENTS, MORE),
    "manifest": (MANIFEST,),
}


def minted_ids(folder: Path, shapes: tuple[DatasetState, ...]) -> list[dict[str, str]]:
    """Mint the states in sequence; return the ids of each."""
    minting = MintedRepository.create(folder)
    ids = []
    for number, shape in enumerate(shapes):
        result = minting.mint(number, shape.listed_files, shape.header(number))
        ids.append(
            {
                "commit": result.commit,
                "annex_commit": result.annex_commit,
                "tree": result.tree,
                "state": result.state,
                "metadata": result.metadata,
            }
        )
    return ids


@pytest.mark.parametrize("chain", CHAINS)
def test_fixed_snapshots_have_the_ids_that_they_always_had(chain: str, tmp_path: Path) -> None:
    assert minted_ids(tmp_path, CHAINS[chain]) == json.loads(IDS.read_text())[chain]
