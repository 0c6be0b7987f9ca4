"""Scripted Zarrs, and what tests look at of them in a store."""

from __future__ import annotations

from crawl_place import git
from scripted import Box, Zarr, files

from neuromirror.index import PartRow
from neuromirror.net import Unreachable
from neuromirror.sources import PartContradicted

UNPROVEN = PartContradicted("the entries do not add up")
UNREACHABLE = Unreachable("the bucket went away")


def zarr(chunks: int, prefix: str = "", **more) -> Zarr:
    names = [".zarray", *(f"{prefix}{number}" for number in range(chunks - 1))]
    return Zarr(files(*names), **more)


def version_labels(box: Box, dataset: str) -> list[str]:
    with box.index() as index:
        return [one.label for one in index.versions(dataset)]


def parts(box: Box, dataset: str = "box:a") -> dict[str, PartRow]:
    with box.index() as index:
        return {one.path: one for one in index.parts(index.resolve(dataset))}


def paths(box: Box, dataset: str = "box:a") -> list[str]:
    with box.index() as index:
        return [one.path for one in index.files(index.resolve(dataset))]


def exceptions(box: Box, dataset: str = "box:a") -> dict[str, tuple[str, int]]:
    with box.index() as index:
        found = index.exceptions(index.resolve(dataset))
    return {one["path"]: (one["reason"], one["size"]) for one in found}


def links(box: Box, dataset: str = "box:a") -> dict[str, str]:
    """Commits in the tree of the newest state by path."""
    tree = git(box.repository(dataset), "ls-tree", "-r", "main").splitlines()
    return {one.split("\t")[1]: one.split()[2] for one in tree if one.startswith("160000")}
