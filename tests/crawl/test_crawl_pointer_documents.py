"""Documents of upstream with the text of a git-annex pointer are not pointers in a clone."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.annex import find_pointer_key
from neuromirror.git import SYMLINK_MODE
from neuromirror.model import Document
from neuromirror_demo import DemoBuckets
from support.dataset_clones import clone_dataset
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedSource, files
from support.scripted_zarrs import scripted_zarr

AIND = "demo-aind"
ASSET = "ecephys_600000_2022-06-28_10-31-30"
SECRET = b"another file of the same store"
KEY = f"SHA256E-s{len(SECRET)}--{hashlib.sha256(SECRET).hexdigest()}.bin"
POINTERS = {
    "rig.json": f"/annex/objects/{KEY}\n",
    "session.json": f"../.git/annex/objects/Xx/Yy/{KEY}/{KEY}",
    "subject.json": f'{{"path": "/annex/objects/{KEY}"}}',
}


@pytest.fixture
def mirror_harness(tmp_path: Path) -> Iterator[MirrorHarness]:
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for name, text in POINTERS.items():
            running.put(f"{ASSET}/{name}", text.encode())
        running.put(f"{ASSET}/processing.json", b'{"plain": true}')
        running.put(f"{ASSET}/data.bin", b"voltages")
        mirror = running.mirrors / f"{AIND}.toml"
        lines = [line for line in mirror.read_text().splitlines() if not line.startswith("docdb")]
        mirror.write_text("\n".join(lines) + "\n")
        yield MirrorHarness(running.mirrors, tmp_path / "store")


def whereis(folder: Path) -> dict[str, str]:
    """Return the key of each annexed file, as git-annex finds it."""
    done = subprocess.run(
        ["git", "annex", "whereis", "--json"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["file"]: one["key"] for one in found}


def test_a_sidecar_with_the_text_of_a_pointer_is_annexed(
    mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    name = f"{AIND}:{ASSET}"
    assert mirror_harness.sync(name)[name].status == "ok"
    folder = clone_dataset(mirror_harness, name, tmp_path / "clone")
    keys = whereis(folder)
    assert KEY not in keys.values()
    modes = {
        line.partition("\t")[2]: line.split()[0]
        for line in run_git(folder, "ls-tree", "HEAD").splitlines()
    }
    run_git(folder, "annex", "get", "-q", *POINTERS)
    for path, text in POINTERS.items():
        assert modes[path] == SYMLINK_MODE.decode()
        assert (folder / path).read_text() == text
    assert modes["processing.json"] == "100644"


def test_a_generated_document_is_no_pointer(
    harness: MirrorHarness, source: ScriptedSource, tmp_path: Path
) -> None:
    text = f'{{"name": "/annex/objects/{KEY}"}}\n'.encode()
    source.scripted_datasets["one"] = ScriptedDataset(
        files=files("a.nwb"), documents=[Document(b"info.json", text)]
    )
    assert harness.sync()["box:one"].status == "ok"
    folder = clone_dataset(harness, "box:one", tmp_path / "clone")
    assert KEY not in whereis(folder).values()
    content = (folder / "info.json").read_bytes()
    assert find_pointer_key(content) is None
    assert json.loads(content) == json.loads(text)


def test_the_path_of_a_subdataset_is_no_pointer(
    zarr_harness: MirrorHarness, source: ScriptedSource, tmp_path: Path
) -> None:
    source.zarrs["z"] = scripted_zarr(8)
    path = f"a/annex/objects/{KEY}"
    source.scripted_datasets["one"] = ScriptedDataset(files=files("a.nwb"), zarrs={path: "z"})
    assert zarr_harness.sync()["box:one"].status == "ok"
    folder = clone_dataset(zarr_harness, "box:one", tmp_path / "clone")
    assert find_pointer_key((folder / ".gitmodules").read_bytes()) is None
    assert run_git(folder, "config", "-f", ".gitmodules", f"submodule.{path}.path").strip() == path
