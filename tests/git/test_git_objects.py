"""Objects are read by name, whatever characters the name has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from neuromirror.git import ObjectMissingError, ObjectReader


@pytest.mark.parametrize(
    "name",
    ["HEAD:no\nHEAD:b", "HEAD:no such", "HEAD:no such file blob 3", "\n", "", " ", "HEAD:\udcff"],
)
def test_invalid_object_name_does_not_shift_later_replies(tmp_path: Path, name: str) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("other")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, "commit", "-qm", "x"], cwd=tmp_path, check=True)
    with ObjectReader(tmp_path / ".git") as reader:
        with pytest.raises(ObjectMissingError):
            reader.read(name)
        assert reader.read("HEAD:a") == b"one"
        assert reader.read("HEAD:b") == b"other"
