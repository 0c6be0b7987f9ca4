"""Commits that neuromirror did not write are found, whatever their messages contain."""

from pathlib import Path

import pytest

from neuromirror.store import MAIN_BRANCH, update_refs
from neuromirror.store.foreign_commits import read_history
from support.store_publisher import bare_repository, git


@pytest.mark.parametrize("subject", ["one\rtwo", "one\ttwo", "one\x0btwo\u2028three", "\x1f"])
def test_control_characters_in_a_subject_do_not_break_the_history(
    tmp_path: Path, subject: str
) -> None:
    repository = bare_repository(tmp_path / "r")
    tree = git(repository.path, "mktree").strip()
    first = git(repository.path, "commit-tree", tree, "-m", "first").strip()
    second = git(repository.path, "commit-tree", tree, "-p", first, "-m", subject).strip()
    update_refs(repository.path, {}, {MAIN_BRANCH: second})
    assert read_history(repository).foreign_commits == {first, second}
