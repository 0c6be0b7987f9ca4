"""Untrusted manifests are valid, or rejected with one clear error."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from neuromirror.lab import lock_manifests
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestHead,
    LockManifestReader,
    LockManifestWriter,
    canonical_line,
)
from neuromirror.lab.rebuild import rebuild_repository
from neuromirror.model import StateDigest
from neuromirror.store import SafeFolder
from support.lock_folders import run

COMMIT = "a" * 40
STATE = f"sha256:{'b' * 64}"
ID = "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed"
HEAD: dict[str, Any] = {
    "manifest": 1,
    "dataset": "dandi:000027",
    "dataset-id": ID,
    "source": "https://api.example.org/000027/",
    "version": "0.210831.2033",
    "commit": COMMIT,
    "tree": COMMIT,
    "state": STATE,
    "form": "files",
    "commit-object": "tree",
}
FILE: dict[str, Any] = {
    "path": "a",
    "key": f"SHA256E-s3--{'c' * 64}.nwb",
    "digest": f"sha256:{'c' * 64}",
    "size": 3,
}
PART: dict[str, Any] = {
    "path": "z",
    "dataset": ID,
    "name": "dandi:zarr/1",
    "commit": COMMIT,
    "state": STATE,
    "files": 1,
    "bytes": 2,
}


def write_manifest(path: Path, *lines: Any) -> Path:
    content = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(zstandard.compress(b"".join(one + b"\n" for one in content)))
    return path


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("manifest", one) for one in (0, -3, 2, "1", True, 1.5, None, 10**30)),
        *(("dataset", one) for one in ("x", "../x:y", "a:b\n", 3, None)),
        *(("dataset-id", one) for one in ("../../../etc", "", ID.upper(), f"{ID}\n", 3)),
        *(("version", one) for one in ("", "a\nb", "a b", "..", "a..b", "-", "x.lock", "a\0b", [])),
        ("version", f"1\ncreate refs/heads/evil {COMMIT}"),
        *(("commit", one) for one in ("--all", "HEAD", "A" * 40, f"{COMMIT}\n", "a" * 64, 7)),
        *(("tree", one) for one in ("", "a" * 39, {})),
        *(("state", one) for one in ("sha256:", "md5:" + "a" * 32, STATE + "\n")),
        *(("form", one) for one in ("", "files\n", "other", None)),
        *(("commit-object", one) for one in (3, None, ["tree"])),
    ],
)
def test_a_head_has_what_its_format_says(tmp_path: Path, member: str, value: Any) -> None:
    accepted = member == "version" and value == "-"
    path = write_manifest(tmp_path / "m", {**HEAD, member: value})
    if accepted:
        assert LockManifestReader(path).head.version == value
        return
    with pytest.raises(LockManifestDamagedError):
        LockManifestReader(path)


@pytest.mark.parametrize("member", sorted(HEAD))
def test_a_head_without_a_member_is_refused(tmp_path: Path, member: str) -> None:
    head = {name: one for name, one in HEAD.items() if name != member}
    with pytest.raises(LockManifestDamagedError):
        LockManifestReader(write_manifest(tmp_path / "m", head))


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 100_000,
        b'{"manifest":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps(HEAD).encode()[:-1] + b',"commit":"' + b"b" * 40 + b'"}',
        json.dumps(HEAD).encode()[:-1] + b',"x":NaN}',
        json.dumps(HEAD).encode()[:-1] + b',"x":' + b"9" * 5000 + b"}",
        json.dumps(HEAD).encode()[:-1] + b',"x":"\\ud800"}',
        json.dumps(HEAD).encode()[:-1] + b',"\xff":1}',
        b"null",
        b"3",
        b"",
    ],
    ids=range(10),
)
def test_a_manifest_head_that_is_not_a_json_object_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(LockManifestDamagedError) as caught:
        LockManifestReader(write_manifest(tmp_path / "m", head))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "line",
    [
        *({**FILE, "path": one} for one in ("", "/a", "../a", "a/../b", "a/.git/x", ".GIT/config")),
        *({**FILE, "path": one} for one in ("a//b", "a/", "./a", "a\0b", 3, None)),
        *({**FILE, "digest": one} for one in ("", "foo:bar", "sha256:", "etag:x", "none\n", 3)),
        {**FILE, "digest": f"etag:{'a' * 32}-{'9' * 5000}-1"},
        *({**FILE, "key": one} for one in ("", "x", "SHA256E-s3--a\nb", "SHA256E--\0", "--", 3)),
        {**FILE, "key": f"SHA256E-s{'9' * 5000}--x"},
        *({**FILE, "size": one} for one in (-1, "3", 1.5, True, 10**19, 10**400)),
        *({**FILE, "urls": one} for one in ("x", [3], ["https://x\nhttps://y"], ["a\0b"], {})),
        *({**FILE, "checked": one} for one in (1, "yes", None)),
        *({**PART, "commit": one} for one in ("", "HEAD", "--help", f"{COMMIT}\n", 3)),
        *({**PART, "dataset": one} for one in ("", "../../..", f"{ID}/x", 3)),
        *({**PART, "name": one} for one in ("", "x", "a:b\nc", 3)),
        *({**PART, "state": one} for one in ("", "sha256:x", 3)),
        *({**PART, "files": one} for one in (-1, 10**19, "1", None)),
        *({name: one for name, one in PART.items() if name != gone} for gone in ("commit", "name")),
        {"path": "x"},
        {"path": "x", "base64": "!"},
        {"path": "x", "content": 3},
        b'{"path":"a","digest":"none","digest":"none"}',
        b'{"path":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"path":"\\ud800","digest":"none"}',
        b'{"path":"\xff","digest":"none"}',
        b"[]",
        b"",
    ],
    ids=lambda line: repr(line)[:60],
)
def test_a_line_has_what_its_format_says(tmp_path: Path, line: Any) -> None:
    reader = LockManifestReader(write_manifest(tmp_path / "m", HEAD, line))
    with pytest.raises(LockManifestDamagedError) as caught:
        list(reader)
    assert "give the state" not in str(caught.value)


def test_a_subdataset_without_bytes_comes_back(tmp_path: Path) -> None:
    """All of its files are empty, or their sizes are unknown."""
    part = msgspec.convert({**PART, "files": 0, "bytes": 0}, ListedSubdataset)
    digest = StateDigest()
    digest.add(canonical_line(part))
    head = msgspec.convert({**HEAD, "state": digest.value()}, LockManifestHead)
    with SafeFolder.open_path(tmp_path) as folder, LockManifestWriter(folder, "m", head) as writer:
        writer.add(part)
        writer.finish()
    assert list(LockManifestReader(tmp_path / "m")) == [part]


def test_a_manifest_has_no_more_files_than_the_lock_promises(tmp_path: Path) -> None:
    lines = [{**FILE, "path": f"a{number:05}"} for number in range(1000)]
    path = write_manifest(tmp_path / "m", HEAD, *lines)
    for files, most in ((None, 1000), (1000, 1000), (2, 2), (0, 0)):
        found: list[str] = []
        with pytest.raises(LockManifestDamagedError):
            found.extend(one.path for one in LockManifestReader(path, files))
        assert len(found) == most


def test_a_small_file_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_manifests, "_FREE_BYTES", 1 << 20)
    head, line = json.dumps(HEAD).encode() + b"\n", b'{"path":"a","content":""}\n'
    packed = zstandard.ZstdCompressor(level=1).compress(head + line * 200_000)
    path = tmp_path / "m"
    path.write_bytes(packed)
    assert len(packed) < 1 << 13
    found: list[int] = []
    with pytest.raises(LockManifestDamagedError):
        found.extend(1 for _ in LockManifestReader(path))
    assert len(found) * len(line) < 2_000_000


# --- lines of files that are validated without parsing them


def compact(line: dict[str, Any]) -> bytes:
    """Return a line as the writer of manifests encodes it."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()


def write_files(path: Path, lines: list[bytes], state: str) -> LockManifestReader:
    return LockManifestReader(write_manifest(path, {**HEAD, "state": state}, *lines))


def state_of(files: list[ListedFile]) -> str:
    state = StateDigest()
    for file in files:
        state.add(canonical_line(file))
    return state.value()


def numbered_files(count: int) -> list[dict[str, Any]]:
    urls = ["https://example.org/ü?versionId=1", "s3://b/k"]
    kinds: list[dict[str, Any]] = [
        {"urls": urls[:1]},
        {"urls": urls, "checked": True, "git": False},
        {"key": "", "digest": "none", "git": False},
        {"key": "VURL--https&c%%x", "digest": "none", "size": None},
        {"key": "XS3ETAG-s3--0-1-5", "digest": f"etag:{'d' * 32}-1-5", "size": 0},
    ]
    found = []
    for number in range(count):
        line = {**FILE, "path": f"ä/{number:06}.x", **kinds[number % len(kinds)]}
        found.append({name: value for name, value in line.items() if value is not None})
    return found


def test_lines_of_files_are_validated_in_blocks(tmp_path: Path) -> None:
    lines = numbered_files(5000)
    files = [msgspec.convert(line, ListedFile) for line in lines]
    state = state_of(files)
    reader = write_files(tmp_path / "m", [*map(compact, lines)], state)
    assert list(reader) == files
    blocks = [block for block in reader.blocks() if isinstance(block, bytes)]
    assert b"".join(blocks) == b"".join(compact(line) + b"\n" for line in lines)
    other = write_files(tmp_path / "other", [json.dumps(line).encode() for line in lines], state)
    assert list(other) == files
    assert not [block for block in other.blocks() if isinstance(block, bytes)]
    with pytest.raises(LockManifestDamagedError, match="have the state"):
        list(write_files(tmp_path / "wrong", [*map(compact, lines)], STATE))


ODD_LINES = [
    *(
        compact({**FILE, "path": one})
        for one in (
            *(
                "b/.zarray",
                ".a",
                "b/.git/c",
                "b//c",
                "b/",
                "/b",
                ".",
                "..",
                "./b",
                "b/../c",
                ".git",
            ),
            *("b\\c", 'b"c', "b\nc", "b\tc", "b\x7fc", "b\u2028c", "b/.GIT", "-", "~", "", "ö/ü"),
        )
    ),
    *(compact({**FILE, "key": one}) for one in ("", "x", "A--", "A-s1--", "A--b c", "A-x1--b", 3)),
    *(compact({**FILE, "digest": one}) for one in ("", "md5:0", "sha1:" + "0" * 40, "None", None)),
    *(compact({**FILE, "size": one}) for one in (-1, 1.5, True, "3", None, 10**18, 2**63, 2**64)),
    *(compact({**FILE, "urls": one}) for one in ([], ["a", "b"], ["a\rb"], [1], None, "a", [""])),
    *(compact({**FILE, "checked": one}) for one in (True, False, None, 1)),
    *(compact({**FILE, "git": one}) for one in (True, False, None)),
    compact({**FILE, "key": "", "git": False}),
    compact({**FILE, "other": 1}),
    compact(FILE)[:-1] + b',"size":4}',
    compact(FILE).replace(b":3", b":03"),
    compact(FILE).replace(b'"a"', b'"\xff"'),
    compact(FILE).replace(b'"a"', b'"\xed\xa0\x80"'),
    compact(FILE).replace(b'"a"', b'"a\x01"'),
    compact(FILE).replace(b'"a"', b'"\\u0061"'),
    compact(FILE) + b" ",
    compact(FILE) + b"\r",
    compact(FILE) + compact(FILE),
]


@pytest.mark.parametrize("line", ODD_LINES, ids=lambda line: repr(line)[:60])
def test_a_line_in_a_block_is_read_as_alone(tmp_path: Path, line: bytes) -> None:
    before, after = compact({**FILE, "path": "!"}), compact({**FILE, "path": "\U0001f9e0"})

    def read(lines: list[bytes], state: str) -> list[Any] | str:
        try:
            return list(write_files(tmp_path / "m", lines, state))
        except LockManifestDamagedError as error:
            return str(error)

    def spaced(one: bytes) -> bytes:
        return one + b" "  # another form of the same line, which is parsed

    separately = read([spaced(before), spaced(line), spaced(after)], STATE)
    found = read([before, line, after], STATE)
    assert isinstance(found, str)
    assert found == separately
    if "have the state" in found:
        state = found.partition("have the state ")[2].partition(",")[0]
        expected = read([spaced(before), spaced(line), spaced(after)], state)
        assert read([before, line, after], state) == expected
        assert len(expected) == 3


@pytest.mark.parametrize("size", [1, 4000])
def test_files_out_of_order_are_refused(tmp_path: Path, size: int) -> None:
    lines = [compact({**FILE, "path": f"a{number:06}"}) for number in range(2 * size)]
    for changed in (
        [*lines[size:], *lines[:size]],
        [*lines[:size], lines[size - 1], *lines[size:]],
        [*lines, b'{"path":"z","content":""}'],
    ):
        with pytest.raises(LockManifestDamagedError, match="not in the order of paths"):
            list(write_files(tmp_path / "m", changed, STATE))


@pytest.mark.parametrize("paths", [("x", "x/y"), ("x", "x-z", "x/y"), ("x", "x/y/z")])
def test_a_file_is_not_a_folder_too(tmp_path: Path, paths: tuple[str, ...]) -> None:
    path = write_manifest(tmp_path / "m", HEAD, *({**FILE, "path": one} for one in paths))
    run(tmp_path, "git", "init", "-q", "--bare", "bare")
    with pytest.raises(LockManifestDamagedError, match="twice, or below"):
        rebuild_repository(LockManifestReader(path), tmp_path / "bare")
