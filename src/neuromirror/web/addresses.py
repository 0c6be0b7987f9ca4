"""Where each page is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode


def dataset_address(name: str) -> str:
    """``/dataset/dandi:000027``."""
    return f"/dataset/{quote(name, safe='/:')}"


def version_address(name: str, label: str, under: str = "", start: str = "") -> str:
    """``/dataset/dandi:000027@0.210831.2033``, at a folder."""
    query = {key: value for key, value in (("under", under), ("start", start)) if value}
    return f"{dataset_address(name)}@{quote(label, safe='')}" + _query(query)


def file_address(name: str, label: str, path: str) -> str:
    """A file of a version."""
    return f"/file/{quote(name, safe='/:')}@{quote(label, safe='')}" + _query({"path": path})


def diff_address(one: str, other: str) -> str:
    """What is different between two versions (``dandi:000027@0.210831.2033``)."""
    return "/diff" + _query({"a": one, "b": other})


def search_address(words: str) -> str:
    """What is found for some words, or a checksum."""
    return "/" + _query({"q": words})


def find_address(checksum: str) -> str:
    """Every place of some bytes."""
    return "/find" + _query({"checksum": checksum})


def _query(values: Mapping[str, str]) -> str:
    return f"?{urlencode(values, errors='surrogateescape')}" if values else ""


BY_NAME: Mapping[str, Callable[..., str]] = {
    "dataset_address": dataset_address,
    "version_address": version_address,
    "file_address": file_address,
    "diff_address": diff_address,
    "search_address": search_address,
    "find_address": find_address,
}
