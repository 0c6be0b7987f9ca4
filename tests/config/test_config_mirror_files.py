"""Mirror files: valid files load, and each error names the file and the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.config.mirror_files import find_mirror, load_mirror, load_mirrors
from neuromirror.model import ConfigurationError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_file_is_a_mirror_under_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path, "lab", 'source = "s3"\n[options]\nbucket = "b"\n')
    mirror = load_mirror(path)
    assert (mirror.name, mirror.path, mirror.settings.source) == ("lab", path, "s3")
    assert load_mirrors(tmp_path) == {"lab": mirror}


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("sourc = 's3'\n", "sourc"),
        ("source = 3\n", "source"),
        ("source = 's3'\n[guards]\nmax_removed_percent = 'many'\n", "guards.max_removed_percent"),
        ("source = 's3'\n[net]\nrequests = true\n", "net.requests"),
        ("source = 's3'\n[zarr]\ninline = -1\n", "zarr.inline"),
    ],
)
def test_an_invalid_setting_is_named_with_its_file(text: str, setting: str, tmp_path: Path) -> None:
    path = write(tmp_path, "lab", text)
    with pytest.raises(ConfigurationError) as caught:
        load_mirror(path)
    assert str(path) in str(caught.value)
    assert f"'{setting}'" in str(caught.value)


@pytest.mark.parametrize("text", ["source = ", "\xff", "a" + "[" * 100_000])
def test_a_file_that_is_no_toml_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(text, "latin-1")
    with pytest.raises(ConfigurationError, match=r"lab\.toml"):
        load_mirror(path)


@pytest.mark.parametrize("name", ["Lab", "a--b", "-a", "a_b", "a.b"])
def test_the_name_of_a_file_must_be_usable_as_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_mirror(write(tmp_path, name, "source = 's3'\n"))


def test_a_missing_and_an_empty_folder_are_errors_that_name_the_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match=str(folder)):
            load_mirrors(folder)


def test_an_unknown_mirror_is_an_error_that_lists_the_configured_ones(tmp_path: Path) -> None:
    write(tmp_path, "lab", "source = 's3'\n")
    with pytest.raises(ConfigurationError, match="lab"):
        find_mirror(load_mirrors(tmp_path), "dandi")
