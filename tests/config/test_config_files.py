"""Files of mirrors, vaults and lists to keep; each error names the file and the setting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from neuromirror.config.mirror_files import (
    builtin_mirror_files,
    find_mirror,
    include_named,
    is_builtin,
    known_mirror_files,
    load_known_mirrors,
    load_mirror,
    load_mirrors,
)
from neuromirror.config.toml_files import check_file_name, load_toml
from neuromirror.config.vault_files import (
    KEEP_FILE,
    DirectoryVaultFile,
    Keep,
    S3VaultFile,
    load_keeps,
    load_vault,
    load_vaults,
    refuse_unsafe_vaults,
)
from neuromirror.model import ConfigurationError
from neuromirror.sources.boss import BossSource


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
    assert all(mirror.open().uri for mirror in mirrors.values())
    assert "docdb" in mirrors["aind"].options().model_dump(exclude_none=True)


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


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: int = 0
    second: int = 0

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.first > self.second:
            raise ValueError("first is larger")
        return self


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"first = ", id="not TOML"),
        pytest.param(b"# \xff", id="not UTF-8"),
        pytest.param(b"# " + b"x" * (1 << 20), id="too large"),
        pytest.param(b"a = " + b"[" * 20_000, id="too deep"),
        pytest.param(b"third = 1", id="unknown setting"),
        pytest.param(b"first = 'x'", id="wrong type"),
        pytest.param(b"first = 2", id="rule about two fields"),
    ],
)
def test_an_invalid_file_is_one_message_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        load_toml(path, Settings.model_validate)
    assert str(path) in str(error.value)
    assert "''" not in str(error.value)


def test_what_is_not_a_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("pipe", "folder", "missing"):
        with pytest.raises(ConfigurationError, match=name):
            load_toml(tmp_path / f"{name}.toml", Settings.model_validate)


@pytest.mark.parametrize("name", ["Lab", "a--b", "-a", "web", ""])
def test_names_of_files_are_checked(name: str) -> None:
    assert check_file_name(Path("lab-2.toml"), "vault", {"web"}) == "lab-2"
    with pytest.raises(ConfigurationError):
        check_file_name(Path(f"{name}.toml"), "vault", {"web"})


def test_each_kind_is_loaded_with_its_options(tmp_path: Path) -> None:
    write(tmp_path, "nas", 'kind = "directory"\npath = "/archive"\nurl = "http://nas.example/v/"')
    write(tmp_path, "cloud", 'kind = "s3"\nbucket = "lab"\nprefix = "annex/"')
    write(tmp_path, "keep", "not = 'a vault'")
    vaults = load_vaults(tmp_path)
    assert {name: type(one.settings) for name, one in vaults.items()} == {
        "cloud": S3VaultFile,
        "nas": DirectoryVaultFile,
    }
    nas = vaults["nas"].settings
    assert isinstance(nas, DirectoryVaultFile)
    assert nas.url == "http://nas.example/v"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind = 'ftp'", "kind"),
        ("path = '/x'", "kind"),
        ("kind = 'directory'\nbucket = 'b'", "bucket"),
        ("kind = 'directory'\nurl = 'https://user:pw@host/'", "url"),
        ("kind = 's3'\nbucket = '../b'", "bucket"),
        ("kind = 's3'\nbucket = 'lab'\nprefix = '/x'", "prefix"),
        ("kind = 's3'\nbucket = 'lab'\nobject_lock = 'GOVERNANCE'", "retention_days"),
        ("kind = 'special-remote'", "kind"),
        ("kind = ", "TOML"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_and_field(
    tmp_path: Path, text: str, named: str
) -> None:
    path = write(tmp_path, "lab", text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_vault(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["Lab", "a b", "origin", "keep", "web"])
def test_names_that_a_git_remote_cannot_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid name"):
        load_vault(write(tmp_path, name, "kind = 'directory'"))


def test_a_folder_that_is_missing_is_an_error_only_if_it_is_required(tmp_path: Path) -> None:
    write(tmp_path, "nas", "kind = 'directory'")
    with pytest.raises(ConfigurationError, match="no such folder"):
        load_vaults(tmp_path / "none", required=True)
    assert load_vaults(tmp_path / "none") == {}


def test_a_folder_that_was_not_named_cannot_use_credentials(tmp_path: Path) -> None:
    write(tmp_path, "lab", "kind = 's3'\nbucket = 'lab'\nendpoint = 'https://evil.example'")
    with pytest.raises(ConfigurationError, match="NEUROMIRROR_VAULTS="):
        refuse_unsafe_vaults(load_vaults(tmp_path), tmp_path)


GOOD = '[[keep]]\nlocks = "../papers/*/datasets.lock"\nvault = "nas"\n'


def write_keep_file(folder: Path, text: str) -> Path:
    (folder / "vaults").mkdir(exist_ok=True)
    (folder / "vaults" / KEEP_FILE).write_text(text)
    return folder / "vaults"


def test_locks_are_found_relative_to_the_file_wherever_the_command_runs(tmp_path: Path) -> None:
    folder = tmp_path / "[lab]"
    for name in ("a", "b"):
        (folder / "papers" / name).mkdir(parents=True)
        (folder / "papers" / name / "datasets.lock").touch()
    (folder / "papers" / "c" / "datasets.lock").mkdir(parents=True)
    keeps = load_keeps(
        write_keep_file(folder, GOOD + '[[keep]]\nlocks = "/no/*.lock"\nvault = "nas"'), ["nas"]
    )
    assert keeps.keeps[0] == Keep(locks="../papers/*/datasets.lock", vault="nas", check_days=90)
    papers = folder / "papers"
    assert keeps.find_locks(keeps.keeps[0]) == [
        papers / "a" / "datasets.lock",
        papers / "b" / "datasets.lock",
    ]
    assert keeps.find_locks(keeps.keeps[1]) == []
    assert load_keeps(tmp_path, ()).keeps == ()


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('vault = "nas"', "", "keep.0.vault"),
        ('vault = "nas"', 'vault = "tape"', "keep.0.vault.*tape.toml"),
        ('vault = "nas"', 'vault = "nas"\nhours = "20:00-06:00"', "unknown setting 'keep.0.hours'"),
        ('vault = "nas"', 'vault = "nas"\ncheck_days = 0', "keep.0.check_days"),
        ("../papers/*/datasets.lock", "", "keep.0.locks"),
        ("[[keep]]", "announce_days = 14\n[[keep]]", "unknown setting 'announce_days'"),
    ],
)
def test_an_invalid_file_is_one_error_that_names_the_file_and_the_key(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as error:
        load_keeps(write_keep_file(tmp_path, GOOD.replace(before, after)), ["nas"])
    assert KEEP_FILE in str(error.value)
