"""Parse commit objects as git writes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from neuromirror.git import ObjectReader, parse_commit, run_git

TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
HEADERS = f"tree {TREE}\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 2 +0000"


def commit(repository: Path, *arguments: str, message: bytes = b"one\n\ntwo\n") -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, input=message, stdout=-1, check=True).stdout.decode().strip()


def test_headers_and_message_are_those_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path, "init", "-q")
    monkeypatch.setenv("GIT_AUTHOR_DATE", "1000000000 -0330")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1100000000 +0530")
    tree = commit(tmp_path, "write-tree")
    first = commit(tmp_path, "-c", "user.name=Zoë", "commit-tree", tree)
    second = commit(
        tmp_path, "-c", "i18n.commitEncoding=latin-1", "commit-tree", tree, "-p", first,
        message="über\n".encode("latin-1"),
    )  # fmt: skip
    merge = commit(tmp_path, "commit-tree", tree, "-p", first, "-p", second)
    with ObjectReader(tmp_path / ".git") as reader:
        for name in (first, second, merge):
            found = parse_commit(reader.read(name))
            shown = run_git(
                tmp_path / ".git", "show", "-s", name,
                "--format=%T%n%P%n%an <%ae>%n%cn <%ce>%n%ct", "--encoding=utf-8",
            )  # fmt: skip
            assert [
                found.tree, " ".join(found.parents), found.author, found.committer,
                str(found.committed_at),
            ] == shown.splitlines()  # fmt: skip
        assert parse_commit(reader.read(first)).subject == "one"
        assert parse_commit(reader.read(first)).message == "one\n\ntwo\n"


def test_headers_in_a_signature_or_a_message_do_not_count() -> None:
    signature = f"gpgsig -----BEGIN\n tree {'1' * 40}\n parent {'2' * 40}\n -----END"
    message = f"tree {'3' * 40}\nparent {'4' * 40}\n"
    found = parse_commit(f"{HEADERS}\n{signature}\n\n{message}".encode())
    assert (found.tree, found.parents, found.committed_at) == (TREE, (), 2)
    assert found.message == message


@pytest.mark.parametrize("missing", HEADERS.splitlines())
def test_a_commit_without_a_header_is_refused(missing: str) -> None:
    headers = [line for line in HEADERS.splitlines() if line != missing]
    with pytest.raises(ValueError, match=missing.split(maxsplit=1)[0]):
        parse_commit("\n".join([*headers, "", "message\n"]).encode())


@pytest.mark.parametrize("committer", ["C <c@d>", "C <c@d> now +0000", f"C <c@d> {10**11} +0000"])
def test_a_commit_without_a_valid_date_is_refused(committer: str) -> None:
    data = HEADERS.replace("C <c@d> 2 +0000", committer)
    with pytest.raises(ValueError, match="no valid date"):
        parse_commit(f"{data}\n\nmessage\n".encode())
