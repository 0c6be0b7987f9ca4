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
