"""Configuration files of all kinds: what is refused, and how that is reported."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from neuromirror.config.toml_files import check_file_name, load_toml
from neuromirror.model import ConfigurationError


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: int = 0
    second: int = 0

    @model_validator(mode="after")
    def _check(self) -> "Settings":
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
