"""The XS3ETAG backend with multipart uploads and git-annex."""

import hashlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dandischema.digests.dandietag import DandiETag, PartGenerator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuromirror.annex import etag_of, parse_key
from neuromirror.annex.keys import xs3etag_key
from neuromirror.model import dandi_part_size
from support.annex_helpers import run

MIB = 1024**2
CONTENT = random.Random(7).randbytes(17 * MIB + 12345)
PROGRAM = "git-annex-backend-XS3ETAG"


def key_of(content: bytes, part_size: int) -> str:
    """Return the key of content uploaded in parts of a given size."""
    return xs3etag_key(len(content), etag_of(io.BytesIO(content), part_size), part_size)


def test_an_upload_of_nothing_in_one_part_verifies(s3: tuple[Any, str], tmp_path: Path) -> None:
    client, name = s3[0], "parts"
    where = {"Bucket": name, "Key": "empty"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"")
    client.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
    )
    etag = client.head_object(**where)["ETag"].strip('"')
    (tmp_path / "empty").write_bytes(b"")
    key = xs3etag_key(0, etag, 5 * MIB)
    assert run_backend(f"VERIFYKEYCONTENT {key} {tmp_path}/empty") == ["VERIFYKEYCONTENT-SUCCESS"]


@pytest.mark.parametrize("size", [0, 1, 64 * MIB + 1])
def test_the_etag_is_dandis(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:1000] * (size // 1000) + CONTENT[: size % 1000])
    with path.open("rb") as stream:
        assert etag_of(stream, dandi_part_size(size)) == DandiETag.from_file(path).as_str()


@settings(max_examples=200)
@given(st.integers(1, 5 * 1024**4))
@example(1)
@example(64 * MIB * 9999)
@example(64 * MIB * 9999 + 1)
@example(64 * MIB * 10_000)
@example(64 * MIB * 10_000 + 1)
@example(5 * 1024**4)
def test_parts_begin_where_dandi_begins_them(size: int) -> None:
    theirs = PartGenerator.for_file_size(size)
    part_size = dandi_part_size(size)
    assert -(-size // part_size) == len(theirs)
    assert min(part_size, size) == theirs.initial_part_size
    last = theirs[len(theirs)]
    assert (last.offset, last.size) == (part_size * (len(theirs) - 1), size - last.offset)


class ShortReads(io.RawIOBase):
    """A stream that returns fewer bytes than requested."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, 7))


@given(st.binary(max_size=100), st.integers(1, 40))
def test_short_reads_make_no_other_etag(content: bytes, part_size: int) -> None:
    parts = [content[at : at + part_size] for at in range(0, len(content), part_size)]
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    expected = f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"
    assert etag_of(ShortReads(content), part_size) == expected  # type: ignore[arg-type]


def run_backend(*requests: str) -> list[str]:
    """Return the replies of the program."""
    done = subprocess.run(
        [PROGRAM],
        input="".join(f"{line}\n" for line in requests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_program_states_its_properties_and_ends_at_an_unknown_request() -> None:
    requests = ["GETVERSION", "CANVERIFY", "ISSTABLE", "ISCRYPTOGRAPHICALLYSECURE"]
    *properties, last = run_backend(*requests, "MAKECOFFEE now", "GETVERSION")
    assert properties == [
        "VERSION 1",
        "CANVERIFY-YES",
        "ISSTABLE-YES",
        "ISCRYPTOGRAPHICALLYSECURE-NO",
    ]
    assert last.startswith("ERROR ")


def test_the_program_reports_progress_and_finds_a_changed_byte(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_bytes(CONTENT)
    key = key_of(CONTENT, 8 * MIB)
    ask = f"VERIFYKEYCONTENT {key} {path}"
    assert run_backend(ask) == [f"PROGRESS {16 * MIB}", "VERIFYKEYCONTENT-SUCCESS"]
    with path.open("r+b") as stream:
        stream.seek(9 * MIB)
        stream.write(bytes([CONTENT[9 * MIB] ^ 1]))
    assert run_backend(ask)[-1] == "VERIFYKEYCONTENT-FAILURE"


def test_a_key_that_does_not_fit_never_verifies(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT[:100])
    good = key_of(CONTENT[:100], 10)
    parts = ("-9-10", "-10-0", "-10-11")
    wrong = [good.replace("-10-10", part) for part in parts]
    wrong += ["XS3ETAG-s100--nonsense", "XS3ETAG-s100--", "XS3ETAG"]
    answers = run_backend(*(f"VERIFYKEYCONTENT {key} {tmp_path}/f" for key in [*wrong, good]))
    assert [line for line in answers if not line.startswith("DEBUG ")] == [
        *["VERIFYKEYCONTENT-FAILURE"] * len(wrong),
        "VERIFYKEYCONTENT-SUCCESS",
    ]


def test_a_file_that_cannot_be_read_is_a_failure_not_a_crash(tmp_path: Path) -> None:
    answers = run_backend(
        f"GENKEY {tmp_path}/none", f"VERIFYKEYCONTENT XS3ETAG-s1--a {tmp_path}/none"
    )
    assert answers[0].startswith("GENKEY-FAILURE ")
    assert answers[-1] == "VERIFYKEYCONTENT-FAILURE"


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/a\xff b"
    os.mkdir(folder)
    path = folder + b"/ x\r"
    with open(path, "wb") as stream:
        stream.write(CONTENT[:100])
    requests = b"GENKEY %s\nVERIFYKEYCONTENT %s %s\n" % (
        path,
        key_of(CONTENT[:100], 10).encode(),
        path,
    )
    done = subprocess.run([PROGRAM], input=requests, capture_output=True, check=True)
    key, verified = done.stdout.decode().splitlines()
    assert key == f"GENKEY-SUCCESS {key_of(CONTENT[:100], 64 * MIB)}"
    assert verified == "VERIFYKEYCONTENT-SUCCESS"


def test_the_program_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # measuring coverage imports sqlite3
        if name.startswith("COVERAGE_"):
            monkeypatch.delenv(name)
    code = "import sys, neuromirror.annex.backend; print(*sys.modules)"
    loaded = run(sys.executable, "-c", code, cwd=Path.cwd()).stdout.split()
    heavy = {"pydantic", "requests", "boto3", "numpy", "datalad", "dandi", "click", "sqlite3"}
    assert heavy.isdisjoint(loaded)


def test_git_annex_makes_dandis_key_of_a_file(tmp_path: Path) -> None:
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "annex", "init", "-q", cwd=tmp_path)
    (tmp_path / "f.nwb").write_bytes(CONTENT)
    key = run("git", "annex", "calckey", "--backend=XS3ETAG", "f.nwb", cwd=tmp_path).stdout.strip()
    assert key == key_of(CONTENT, 64 * MIB)
    etag = DandiETag.from_file(tmp_path / "f.nwb").as_str()
    assert parse_key(key).name == f"{etag}-{64 * MIB}"
