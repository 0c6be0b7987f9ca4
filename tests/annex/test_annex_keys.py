"""Keys, their paths and extensions equal those that git-annex computes."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.annex import (
    git_path,
    hash_lower,
    hash_mixed,
    key_digest,
    key_file_name,
    key_for,
    key_from_file_name,
    link_target,
    log_path,
    md5e_key,
    parse_key,
    pointer_content,
    sha256e_key,
    url_key,
    url_log_path,
)
from neuromirror.annex.keys import KeyParts, key_extension, xs3etag_key
from neuromirror.model import Digest, FileRecord, Location, Retention
from support.annex_helpers import FileServer, run, upstream_names

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
MD5 = "098f6bcd4621d373cade4e832627b4f6"
ETAG = "098f6bcd4621d373cade4e832627b4f6-3"
MANY = settings(
    max_examples=8,
    # examples may share the repository, which is only read
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def ask(repo: Path, lines: list[bytes], *arguments: str) -> list[bytes]:
    """Return the output of ``git annex examinekey`` for each line."""
    done = subprocess.run(
        ["git", "annex", "examinekey", "-z", "--batch", *arguments],
        input=b"".join(line + b"\0" for line in lines),
        cwd=repo,
        check=True,
        capture_output=True,
    )
    return done.stdout.removesuffix(b"\n").split(b"\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the repository shared by these tests."""
    return tmp_path_factory.mktemp("annex")


@pytest.fixture
def repo(folder: Path) -> Path:
    """A repository for git-annex, created inside a test because of its isolated HOME."""
    if not (folder / ".git").exists():
        run("git", "init", "-q", cwd=folder)
        run("git", "annex", "init", "-q", cwd=folder)
    return folder


_ENDINGS = st.sampled_from(
    [
        *(
            b".nwb",
            b".nii",
            b".gz",
            b".ome",
            b".tif",
            b".json",
            b".x y",
            b".a-b",
            b".abcde",
            b".7z",
        ),
        *("\u65e5".encode(), "é".encode(), b".", b"..", b"/", b" ", b"a", b"_"),
    ]
)


@MANY
@given(
    st.lists(
        st.one_of(
            upstream_names.map(git_path),
            st.lists(_ENDINGS, min_size=1, max_size=6).map(b"".join).map(git_path),
            st.text(alphabet="ab.\u00e9 ~/", min_size=1, max_size=14).map(str.encode).map(git_path),
        ),
        min_size=60,
        max_size=200,
    )
)
def test_an_extension_is_that_of_git_annex(repo: Path, some: list[bytes]) -> None:
    lines = [b"SHA256-s4--" + SHA256.encode() + b" " + name for name in some]
    expected = ask(repo, lines, "--migrate-to-backend=SHA256E")
    assert [sha256e_key(4, SHA256, name).encode() for name in some] == expected
    assert [key_extension(name.decode()) for name in some] == [key_extension(name) for name in some]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.nii.gz", ".nii.gz"),
        (b"a.ome.tif", ".ome.tif"),
        (b"a.b.c.d", ".c.d"),
        (b".gz", ""),
        (b"a.jpeg", ".jpeg"),
        (b"a.jpeg2", ""),
        (b"v1.0/a", ""),
        (b"a.zarr/.zattrs", ""),
        (b"a.b.c d.gz", ".b.gz"),
    ],
)
def test_extensions_by_example(name: bytes, expected: str) -> None:
    assert key_extension(name) == expected


_KEYS = st.one_of(
    st.builds(
        sha256e_key, st.integers(0, 2**45), st.just(SHA256), st.binary(max_size=9).map(git_path)
    ),
    st.builds(md5e_key, st.none() | st.integers(0, 2**45), st.just(MD5), st.just(b"a.nwb")),
    st.builds(xs3etag_key, st.integers(0, 2**45), st.just(ETAG), st.integers(1, 2**30)),
    st.builds(
        url_key,
        st.text(alphabet="ab&%:/,?=~ .é", max_size=90).map("https://h.example/".__add__),
        st.none() | st.integers(0, 2**45),
    ),
)


@MANY
@given(st.lists(_KEYS, min_size=60, max_size=200))
def test_the_paths_and_the_pointer_of_a_key_are_those_of_git_annex(
    repo: Path, some: list[str]
) -> None:
    form = "${key} ${hashdirmixed} ${hashdirlower} ${objectpath} ${backend} ${bytesize}\n"
    lines = ask(repo, [key.encode() for key in some], f"--format=${{objectpointer}}\n{form}")
    answers = [line for line in lines if line]
    assert answers[::2] == [pointer_content(key).removesuffix(b"\n") for key in some]
    for key, answer in zip(some, answers[1::2], strict=True):
        whole, mixed, lower, path, backend, size = answer.split(b" ")
        assert whole == key.encode()
        assert mixed == hash_mixed(key) + b"/"
        assert lower == hash_lower(key) + b"/"
        assert path == link_target(key, b"file")
        assert link_target(key, b"a/b/file") == b"../../" + path
        assert log_path(key) == lower + key_file_name(key) + b".log"
        assert key_from_file_name(key_file_name(key)) == key
        assert url_log_path(key) == log_path(key) + b".web"
        parts = parse_key(key)
        stated = "unknown" if parts.size is None else str(parts.size)
        assert (parts.backend, stated) == (backend.decode(), size.decode())


def test_a_deep_link_target_has_one_parent_step_per_folder() -> None:
    key = md5e_key(4, MD5, b"a")
    for depth in (0, 1, 63, 64, 200):
        assert link_target(key, b"d/" * depth + b"f") == b"../" * depth + link_target(key, b"f")


def test_a_url_key_is_what_addurl_makes(repo: Path, server: FileServer) -> None:
    paths = ["/a", "/a?versionId=x~y,z", "/" + "b" * 70 + "%20c", "/" + "c" * 40, "/d:e/f"]
    for path in paths:
        server.contents[path] = b"test" * len(path)
    urls = [server.url(path) for path in paths]
    # lengths around the limit
    for total in (63, 64, 65, 66):
        path = "/" + "~" * (total - len(server.address) - 1)
        server.contents[path] = b"12"
        urls.append(server.url(path))
    done = subprocess.run(
        ["git", "annex", "addurl", "--fast", "--raw", "--batch", "--with-files", "--json"],
        input="".join(f"{url} f{number}\n" for number, url in enumerate(urls)),
        text=True,
        cwd=repo,
        check=True,
        capture_output=True,
    )
    made = [json.loads(line)["key"] for line in done.stdout.splitlines()]
    sizes = [len(server.contents[url.removeprefix(server.address)]) for url in urls]
    assert made == [url_key(url, size) for url, size in zip(urls, sizes, strict=True)]


def record(**known: object) -> FileRecord:
    """Return a record of 4 bytes with one location and the given fields."""
    location = Location("https://h.example/x?versionId=1", "s3", "1")
    fields: dict[str, object] = {"path": b"a.nwb", "size": 4, "locations": (location,)}
    return FileRecord(**{**fields, **known})  # type: ignore[arg-type]


def test_the_best_evidence_makes_the_key() -> None:
    sha256, md5 = Digest("sha256", SHA256, "dandi"), Digest("md5", MD5, "s3")
    etag = Digest("etag", ETAG, "dandi")
    keys = [
        key_for(record(digests=digests, part_size=2), b"d/a.nwb")
        for digests in ((etag, md5, sha256), (etag, md5), (etag,), ())
    ]
    assert keys == [
        f"SHA256E-s4--{SHA256}.nwb",
        f"MD5E-s4--{MD5}.nwb",
        f"XS3ETAG-s4--{ETAG}-2",
        url_key("https://h.example/x?versionId=1", 4),
    ]
    assert key_for(record(digests=(etag,)), b"a") == keys[3]
    unsized = record(digests=(sha256,), size=None, modified=datetime.now(UTC))
    assert key_for(unsized, b"a.nwb") == f"SHA256E--{SHA256}.nwb"


def test_content_rewritten_at_a_url_has_a_key_of_its_own() -> None:
    locations = (Location("https://h.example/x", "s3"),)
    keys = {
        key_for(
            record(
                digests=(Digest("etag", etag, "s3"),),
                locations=locations,
                retention=Retention.MUTABLE_BUCKET,
            ),
            b"a",
        )
        for etag in (MD5, ETAG, ETAG)
    }
    assert len(keys) == 2
    assert {parse_key(key).backend for key in keys} == {"VURL"}
    # a URL with a version identifies its content
    versioned = record(digests=(Digest("etag", ETAG, "s3"),), retention=Retention.VERSIONED_BUCKET)
    assert key_for(versioned, b"a") == url_key("https://h.example/x?versionId=1", 4)


def test_a_record_without_digest_and_location_has_no_key() -> None:
    with pytest.raises(ValueError, match=r"a\.nwb"):
        key_for(record(locations=()), b"a.nwb")


def test_a_key_says_which_digest_it_proves() -> None:
    assert key_digest(sha256e_key(4, SHA256, b"a.nii.gz")) == ("sha256", SHA256)
    assert key_digest(md5e_key(4, MD5, b"a.b")) == ("md5", MD5)
    assert key_digest(xs3etag_key(4, ETAG, 2)) == ("etag", ETAG)
    assert key_digest(url_key("https://h.example/", 3)) is None


def test_keys_are_parsed() -> None:
    assert parse_key("SHA256E-s12--ab.c") == KeyParts("SHA256E", 12, "ab.c")
    assert parse_key("WORM-s3-m12--a--b") == KeyParts("WORM", 3, "a--b")
    assert parse_key("VURL--http://x") == KeyParts("VURL", None, "http://x")


@pytest.mark.parametrize("text", ["", "SHA256", "SHA256-4--a", "--a", "SHA256-sx--a"])
def test_an_invalid_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a git-annex key"):
        parse_key(text)


@pytest.mark.parametrize("etag", [MD5, "", "x-1", f"{MD5}-", f"{MD5}-a"])
def test_an_etag_that_is_not_multipart_makes_no_key(etag: str) -> None:
    with pytest.raises(ValueError, match="not a multipart ETag"):
        xs3etag_key(4, etag, 2)
