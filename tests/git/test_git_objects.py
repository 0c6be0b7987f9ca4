"""Objects are read by name, whatever characters the name has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from neuromirror.git import BatchObjectReader, GitError, ObjectMissingError, ObjectReader


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


def test_many_objects_are_read_in_order_and_missing_ones_are_none(tmp_path: Path) -> None:
    repository = tmp_path / "many.git"
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    made = [
        subprocess.run(
            ["git", "-C", repository, "hash-object", "-w", "--stdin"],
            input=content,
            capture_output=True,
            check=True,
        ).stdout.strip()
        for content in (b"one\n", b"", b"\0two")
    ]
    missing = b"f" * 40
    with BatchObjectReader(repository) as objects:
        names = [*made, missing] * 300  # more than are requested at once
        assert list(objects.read(names)) == [b"one\n", b"", b"\0two", None] * 300
        assert next(objects.read(made * 300)) == b"one\n"  # the others are left unread


def test_a_folder_without_a_repository_cannot_be_read_in_batches(tmp_path: Path) -> None:
    with BatchObjectReader(tmp_path) as objects, pytest.raises(GitError):
        list(objects.read([b"f" * 40]))
