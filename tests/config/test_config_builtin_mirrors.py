"""Built-in mirrors: part of the package, overridden and completed by local files."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.config.builtin_mirrors import (
    builtin_mirror_files,
    is_builtin,
    known_mirror_files,
    load_known_mirrors,
)
from neuromirror.model import ConfigurationError

ROOT = Path(__file__).parents[2]


def test_the_builtin_files_are_those_of_the_repository() -> None:
    expected = {path.name: path.read_bytes() for path in (ROOT / "mirrors").iterdir()}
    found = {path.name: path.read_bytes() for path in builtin_mirror_files().values()}
    assert found == expected
    assert {"dandi.toml", "aind.toml", "bossdb.toml"} <= set(found)


def test_a_local_file_overrides_or_adds_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "dandi.toml").write_text('source = "s3"\n[options]\nbucket = "b"\n')
    (tmp_path / "lab.toml").write_text('source = "s3"\n[options]\nbucket = "b"\n')
    mirrors = load_known_mirrors(tmp_path)
    assert set(mirrors) == {*builtin_mirror_files(), "lab"}
    assert list(mirrors) == sorted(mirrors)
    assert mirrors["dandi"].path == tmp_path / "dandi.toml"
    assert mirrors["dandi"].settings.source == "s3"
    assert is_builtin(mirrors["aind"].path)
    assert not is_builtin(mirrors["dandi"].path)


def test_a_folder_may_be_empty_and_is_missing_only_if_it_is_not_required(tmp_path: Path) -> None:
    assert known_mirror_files(tmp_path) == builtin_mirror_files()
    missing = tmp_path / "missing"
    assert known_mirror_files(missing) == builtin_mirror_files()
    with pytest.raises(ConfigurationError, match=str(missing)):
        known_mirror_files(missing, required=True)


def test_an_invalid_local_file_never_falls_back_to_the_builtin_one(tmp_path: Path) -> None:
    (tmp_path / "dandi.toml").write_text("source = 7\n")
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        load_known_mirrors(tmp_path)
    (tmp_path / "dandi.toml").unlink()
    (tmp_path / "dandi.toml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        load_known_mirrors(tmp_path)


def test_every_builtin_mirror_opens_and_states_what_it_needs() -> None:
    mirrors = load_known_mirrors(Path("missing"))
    needs = {name: " ".join(one.requirements()) for name, one in mirrors.items()}
    assert "LINC_API_KEY" in needs["linc"]
    assert "neuromirror[volumes]" in needs["bossdb"]
    assert needs["dandi"] == needs["aind"] == ""
    assert all(one.open().uri for one in mirrors.values())
