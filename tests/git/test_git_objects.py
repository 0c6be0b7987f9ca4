"""Objects as git has them: read by name, from packs, and parsed as commits."""

import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.git import (
    BatchObjectReader,
    GitError,
    ObjectMissingError,
    ObjectReader,
    parse_commit,
    run_git,
)
from neuromirror.git.packs import PackedObjects


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


def read_packed(repository: Path, name: str) -> bytes | None:
    with closing(PackedObjects(repository)) as packs:
        return packs.read(name)


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one pack of whole objects and deltas."""
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "é.txt").write_text("small")
    text = "".join(f"{number} {number * 7919 % 104729}\n" for number in range(3000))
    (tmp_path / "long").write_text(text)
    (tmp_path / "longer").write_text(text + "end\n")
    (tmp_path / "empty").touch()
    git(tmp_path, "add", ".")
    identity = ("-c", "user.name=x", "-c", "user.email=x@y")
    git(tmp_path, *identity, "commit", "-qm", "first")
    git(tmp_path, "repack", "-adfq", "--depth=10")
    return tmp_path / ".git"


def objects(repository: Path) -> list[str]:
    listed = git(repository, "cat-file", "--batch-all-objects", "--batch-check")
    return [line.split()[0] for line in listed.decode().splitlines()]


def test_every_object_is_the_one_that_git_reads(repository: Path) -> None:
    whole = 0
    for name in objects(repository):
        kind = git(repository, "cat-file", "-t", name).decode().strip()
        expected = git(repository, "cat-file", kind, name)
        packed = read_packed(repository, name)
        whole += packed is not None
        assert packed in (None, expected)
        with ObjectReader(repository) as reader:
            assert reader.read(name) == expected
    assert 0 < whole < len(objects(repository))  # deltas are left to git


def test_a_path_of_a_commit(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    assert read_packed(repository, f"{commit}:a/b/é.txt") == b"small"
    assert read_packed(repository, f"{commit}:empty") == b""
    for other in ("a", "a/b", "nothing", "a/b/é.txt/x", "", "../x"):
        assert read_packed(repository, f"{commit}:{other}") is None
    for name in ("HEAD", f"{commit}^", "0" * 40, f"{'0' * 40}:a", "x\n"):
        assert read_packed(repository, name) is None


def test_a_damaged_pack_is_left_to_git(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    (pack,) = repository.glob("objects/pack/*.pack")
    data = bytearray(pack.read_bytes())
    pack.chmod(0o644)
    for position in range(12, len(data) - 20, 7):
        data[position] ^= 0x55
    pack.write_bytes(data)
    assert read_packed(repository, commit) is None
    with ObjectReader(repository) as reader, pytest.raises(ObjectMissingError):
        reader.read(commit)
    pack.write_bytes(b"PACK")
    assert read_packed(repository, commit) is None
    index = pack.with_suffix(".idx")
    index.chmod(0o644)
    index.write_bytes(b"\xfftOc")
    assert read_packed(repository, commit) is None


def test_large_offsets_are_read(repository: Path) -> None:
    (pack,) = repository.glob("objects/pack/*.pack")
    expected = {name: read_packed(repository, name) for name in objects(repository)}
    # each offset above 100 goes into the table of large offsets
    git(repository, "index-pack", "--index-version=2,100", "-o", "new.idx", str(pack))
    index = pack.with_suffix(".idx")
    assert (repository / "new.idx").stat().st_size > index.stat().st_size
    (repository / "new.idx").replace(index)
    assert {name: read_packed(repository, name) for name in expected} == expected


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


def test_a_missing_path_is_none_and_a_missing_object_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.log").write_text("one")
    for command in ("init -q", "add .", "-c user.name=x -c user.email=x@x commit -qm x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    with ObjectReader(tmp_path / ".git") as reader:
        assert reader.find("HEAD", "folder/a.log") == b"one"
        assert reader.find("HEAD", "folder/b.log") is reader.find("HEAD", "b/a.log") is None
        blob = reader.read_tree(reader.read_tree(reader.read_commit_tree("HEAD"))[b"folder"][1])
        sha = blob[b"a.log"][1].hex()
        (tmp_path / ".git" / "objects" / sha[:2] / sha[2:]).unlink()
    with ObjectReader(tmp_path / ".git") as reader, pytest.raises(ObjectMissingError):
        reader.find("HEAD", "folder/a.log")
