"""Built-in mirrors: part of the package, overridden and completed by local files."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.config.mirror_files import (
    builtin_mirror_files,
    include_named,
    is_builtin,
    known_mirror_files,
    load_known_mirrors,
)
from neuromirror.model import ConfigurationError
from neuromirror.sources.boss import BossSource

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
    needs = {name: " ".join(one.options().requirements()) for name, one in mirrors.items()}
    assert "LINC_API_KEY" in needs["linc"]
    assert "neuromirror[volumes]" in needs["bossdb"]
    assert needs["dandi"] == needs["aind"] == ""
    assert all(one.open().uri for one in mirrors.values())


def test_the_name_of_a_dataset_includes_it_in_a_built_in_mirror(tmp_path: Path) -> None:
    """The patterns of a built-in mirror are examples; those of a local file are an operator's."""
    name = "bossdb:other/experiment/[em]"
    text = load_known_mirrors(tmp_path / "none")["bossdb"].path.read_text("utf-8")
    (tmp_path / "bossdb.toml").write_text(text)
    for folder, is_included in ((tmp_path / "none", True), (tmp_path, False)):
        known = load_known_mirrors(folder)
        found = include_named(known, [name, "dandi", "dandi:000027", "unknown:1"])
        source = found["bossdb"].open()
        assert isinstance(source, BossSource)
        assert source.options.includes("other/experiment/[em]") == is_included
        assert not source.options.includes("other/experiment/e")
        assert source.options.includes("kasthuri2015/ac4/em")
        assert found["dandi"] == known["dandi"]
