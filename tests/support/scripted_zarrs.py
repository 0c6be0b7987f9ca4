"""Scripted Zarrs, and queries about them in a store."""

from neuromirror.index import SubdatasetRow
from neuromirror.net import UnreachableError
from neuromirror.sources import ComponentMismatchError
from support.mirror_harness import run_git
from support.scripted_source import ScriptedHarness, ScriptedZarr, files

CONTRADICTED = ComponentMismatchError("the entries do not add up")
UNREACHABLE = UnreachableError("the bucket went away")


def scripted_zarr(chunks: int, prefix: str = "", **more) -> ScriptedZarr:
    names = [".zarray", *(f"{prefix}{number}" for number in range(chunks - 1))]
    return ScriptedZarr(files(*names), **more)


def version_labels(box: ScriptedHarness, dataset: str) -> list[str]:
    with box.index() as index:
        return [one.label for one in index.versions.of(dataset)]


def parts(box: ScriptedHarness, dataset: str = "box:a") -> dict[str, SubdatasetRow]:
    with box.index() as index:
        return {
            one.path: one for one in index.versions.subdatasets(index.versions.resolve(dataset))
        }


def paths(box: ScriptedHarness, dataset: str = "box:a") -> list[str]:
    with box.index() as index:
        return [one.path for one in index.files.of(index.versions.resolve(dataset))]


def exceptions(box: ScriptedHarness, dataset: str = "box:a") -> dict[str, tuple[str, int]]:
    with box.index() as index:
        found = index.versions.exceptions(index.versions.resolve(dataset))
    return {one["path"]: (one["reason"], one["size"]) for one in found}


def links(box: ScriptedHarness, dataset: str = "box:a") -> dict[str, str]:
    """Return the commits in the tree of the newest state, by path."""
    tree = run_git(box.repository(dataset), "ls-tree", "-r", "main").splitlines()
    return {one.split("\t")[1]: one.split()[2] for one in tree if one.startswith("160000")}
