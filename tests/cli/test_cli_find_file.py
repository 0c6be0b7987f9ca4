"""``neuromirror find FILE`` and ``neuromirror files --format sha256sum``."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from neuromirror.lab.addresses import PART_SIZES, queries_of_file
from neuromirror_demo import DemoArchive
from support.command_shell import Shell


def content_of(demo: DemoArchive, dandiset: str, path: str) -> bytes:
    blob = demo.dandisets[dandiset].draft.assets[path].blob
    assert blob is not None
    return blob.data


def test_a_file_is_found_by_its_bytes_whatever_it_is_called(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    # upstream has no sha256 of the second file
    for path in shared_demo.paths("000004"):
        mine = tmp_path / "mine.bin"
        mine.write_bytes(content_of(shared_demo, "000004", path))
        records = synced.records("find", str(mine))
        assert (records[0]["dataset"], records[0]["path"]) == ("demo:000004", path)
        assert records == synced.records("find", records[0]["digest"])


def test_a_name_that_is_a_checksum_is_one_unless_it_is_written_as_a_path(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = next(one for one in synced.records("files", "demo:000002") if one["type"] == "file")
    digest = record["digests"]["sha256"]
    Path(digest).write_bytes(b"in no dataset")
    assert synced.records("find", digest)[0]["path"] == record["path"]
    synced.run("find", f"./{digest}", code=1)


def test_an_argument_that_is_neither_file_nor_checksum_is_reported(
    synced: Shell, tmp_path: Path
) -> None:
    for name in ("nothing.nwb", str(tmp_path)):
        ran = synced.run("find", name, code=2)
        assert "not a checksum" in ran.error_line
        assert name in ran.error_line


def test_an_annexed_file_without_content_is_found_by_its_key(synced: Shell, tmp_path: Path) -> None:
    record = next(one for one in synced.records("files", "demo:000002") if one["type"] == "file")
    link = tmp_path / "a.nwb"
    link.symlink_to(f".git/annex/objects/aa/bb/{record['key']}/{record['key']}")
    pointer = tmp_path / "b.nwb"
    pointer.write_text(f"/annex/objects/{record['key']}\n")
    for name in (link, pointer):
        assert queries_of_file(name) == [record["key"]]
        assert synced.records("find", str(name))[0]["path"] == record["path"]
    lost = tmp_path / "c.nwb"
    lost.symlink_to("nowhere")
    assert "broken link" in synced.run("find", str(lost), code=1).error_line


def test_large_files_have_an_etag_for_each_usual_size_of_parts(tmp_path: Path) -> None:
    mine = tmp_path / "large"
    content = os.urandom(1 << 20) * 17
    mine.write_bytes(content)
    queries = queries_of_file(mine)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" in queries
    assert f"md5:{hashlib.md5(content).hexdigest()}" in queries
    for size in PART_SIZES:
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        joined = b"".join(hashlib.md5(part).digest() for part in parts)
        assert f"etag:{hashlib.md5(joined).hexdigest()}-{len(parts)}" in queries
    assert len(queries) == len(set(queries)) == 2 + 5


def test_sums_are_what_sha256sum_checks(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    for path in shared_demo.paths("000002"):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content_of(shared_demo, "000002", path))
    ran = synced.run("files", "demo:000002@draft", "--format", "sha256sum")
    assert ran.err == ""
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "-"],
        input=ran.out,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked
    assert checked.stdout.count(": OK") == len(shared_demo.paths("000002"))


def test_odd_names_are_those_of_the_clone(shell: Shell, demo: DemoArchive, tmp_path: Path) -> None:
    demo.add_file("000008", "back\\slash\nand späce.txt", b"odd")
    shell.run("sync", "demo:000008")
    ran = shell.run("files", "demo:000008@draft", "--format", "sha256sum")
    (line,) = [one for one in ran.lines if "sp" in one and "back" in one]
    digest, _, name = line.partition("  ")
    assert digest == hashlib.sha256(b"odd").hexdigest()
    source = (shell.store / "alias" / "demo--000008").resolve()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "-b", "draft", str(source), str(clone)], check=True)
    assert (clone / name).is_symlink()
    # the line has no leading backslash, so that sha256sum reads the name as it is
    (tmp_path / name).write_bytes(b"odd")
    done = subprocess.run(
        ["sha256sum", name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{line}\n"


def test_files_without_sha256_are_named_and_the_list_is_incomplete(synced: Shell) -> None:
    ran = synced.run("files", "demo:000004@draft", "--format", "sha256sum", code=1)
    assert len(ran.lines) == 2
    assert "sub-401/sub-401_ses-02_ecephys.nwb" in ran.error_line
    assert "etag" in ran.error_line
    ran = synced.run("files", "demo:000005@draft", "--format", "sha256sum", code=1)
    assert len(ran.err.splitlines()) == 11
    assert " 26 more files " in ran.err
    ran = synced.run("--json", "files", "demo:000004", "--format", "sha256sum", code=2)
    assert "--json" in ran.err
