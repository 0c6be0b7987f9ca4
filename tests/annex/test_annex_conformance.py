"""XS3ETAG keys of multipart uploads by boto3, verified by git-annex's commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuromirror.annex.keys import xs3etag_key
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import RAW, SESSIONS
from support.annex_helpers import run

MIB = 1024**2
PROGRAM = "git-annex-backend-XS3ETAG"
MISSING = f"Cannot run {PROGRAM} -- It is not installed in PATH ("
SAMPLES = f"{RAW}/si_folder/traces_cached_seg0.raw"

MakeDataset = Callable[..., Path]
Clone = Callable[[Path], Path]


def write_patterned_file(path: Path, size: int) -> Path:
    """Write a sparse file with a mark in every MiB and at the end."""
    with path.open("wb") as stream:
        for offset in range(0, size - 8, MIB):
            stream.seek(offset)
            stream.write(offset.to_bytes(8, "big"))
        stream.truncate(size)
        stream.seek(size - 1)
        stream.write(b"\x07")
    return path


def flip_bit(path: Path, offset: int) -> None:
    """Flip one bit of a file in the annex."""
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def upload_and_return_key(client: Any, path: Path, part_size: int) -> str:
    """Upload a file in parts with boto3, and return the key from S3's HEAD response."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=1, multipart_chunksize=part_size, use_threads=False)
    public = {"ACL": "public-read"}
    client.upload_file(str(path), "parts", path.name, Config=config, ExtraArgs=public)
    head = client.head_object(Bucket="parts", Key=path.name)
    first = client.head_object(Bucket="parts", Key=path.name, PartNumber=1)
    assert head["ETag"].strip('"').endswith(f"-{first['PartsCount']}")
    return xs3etag_key(head["ContentLength"], head["ETag"].strip('"'), first["ContentLength"])


def test_real_uploads_under_at_and_over_a_boundary_verify_and_changed_ones_do_not(
    s3: tuple[Any, str], tmp_path: Path, make_dataset: MakeDataset, clone: Clone
) -> None:
    client, address = s3
    part_size = 5 * MIB
    files = {}
    for size in (part_size, 2 * part_size - 1, 2 * part_size, 2 * part_size + 1):
        path = write_patterned_file(tmp_path / f"{size}.bin", size)
        files[path.name] = upload_and_return_key(client, path, part_size)
    assert {key.split("-")[-2] for key in files.values()} == {"1", "2", "3"}
    dataset = make_dataset(
        {name.encode(): (key, [f"{address}/{name}"]) for name, key in files.items()}
    )
    repo = clone(dataset)
    run("git", "annex", "get", "-J2", ".", cwd=repo)
    run("git", "annex", "fsck", cwd=repo)
    for name in files:
        assert (repo / name).read_bytes() == (tmp_path / name).read_bytes()
        # the first byte of the second part if there is one, else the last byte
        offset = min(part_size, (repo / name).stat().st_size - 1)
        flip_bit((repo / name).resolve(), offset)
    run("git", "annex", "fsck", "--fast", cwd=repo)
    assert run("git", "annex", "fsck", cwd=repo, check=False).returncode != 0
    assert all((repo / ".git/annex/bad" / key).exists() for key in files.values())


# -- the demo buckets: interrupted downloads, other commands


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBuckets]:
    """Demo buckets; a test removes its faults."""
    with DemoBuckets(tmp_path_factory.mktemp("demo") / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the clone that the tests copy; the first test makes it."""
    return tmp_path_factory.mktemp("templates")


def key_of(buckets: DemoBuckets, name: str, bucket: str) -> str:
    """Return the key of an object from its HEAD response."""
    import requests

    url = buckets.url(name, bucket=bucket)
    size = int(requests.head(url, timeout=300).headers["Content-Length"])
    first = requests.head(f"{url}?partNumber=1", timeout=300)
    return xs3etag_key(size, first.headers["ETag"].strip('"'), int(first.headers["Content-Length"]))


@pytest.fixture
def sample_clone(
    buckets: DemoBuckets, make_dataset: MakeDataset, clone: Clone, templates: Path, tmp_path: Path
) -> Path:
    """A clone with ``a.raw``, an object of 9.6 MB uploaded in parts of 8 MiB."""
    template = templates / "clone"
    if not template.exists():
        key = key_of(buckets, SAMPLES, buckets.open_data)
        upstream = make_dataset({b"a.raw": (key, [buckets.url(SAMPLES)])})
        clone(upstream.rename(templates / "upstream.git")).rename(template)
    return Path(shutil.copytree(template, tmp_path / "clone", symlinks=True))


@pytest.fixture
def sample_file(buckets: DemoBuckets, tmp_path: Path) -> Path:
    """Return a copy of its content outside of the clone."""
    path = tmp_path / "samples"
    path.write_bytes(buckets.data(SAMPLES))
    return path


def test_git_annex_tests_its_remote_with_such_a_key(sample_clone: Path) -> None:
    run("git", "annex", "get", "a.raw", cwd=sample_clone)
    tested = run("git", "annex", "testremote", "--test-readonly=a.raw", "web", cwd=sample_clone)
    assert "tests passed" in tested.stdout


def partial_downloads(repo: Path) -> list[Path]:
    """Return the files of unfinished downloads of git-annex."""
    folder = repo / ".git/annex/tmp"
    return (
        [path for path in folder.iterdir() if path.name.startswith("XS3ETAG")]
        if folder.exists()
        else []
    )


def test_every_multipart_object_of_the_demo_verifies(
    buckets: DemoBuckets, make_dataset: MakeDataset, clone: Clone
) -> None:
    objects = [
        (SAMPLES, buckets.open_data),
        (f"{SESSIONS[0]}/traces_cached_seg0.raw", buckets.benchmark),
    ]
    files = {
        b"%d.raw" % number: (key_of(buckets, name, bucket), [buckets.url(name, bucket=bucket)])
        for number, (name, bucket) in enumerate(objects)
    }
    # a limitation (docs/reference/xs3etag.md): parts of 6, 5 and 2 MiB have no common part size
    buckets.put("odd/x", os.urandom(13 * MIB), part_size=[6 * MIB, 5 * MIB])
    key = key_of(buckets, "odd/x", buckets.open_data)
    assert key.endswith(f"-3-{6 * MIB}")
    repo = clone(make_dataset({**files, b"odd": (key, [buckets.url("odd/x")])}))
    assert run("git", "annex", "get", ".", cwd=repo, check=False).returncode != 0
    assert not (repo / "odd").exists()
    run("git", "annex", "fsck", "0.raw", "1.raw", cwd=repo)
    assert (repo / "0.raw").read_bytes() == buckets.data(SAMPLES)


def test_a_download_that_is_cut_goes_on_and_verifies(
    buckets: DemoBuckets, sample_clone: Path
) -> None:
    before = buckets.count_requests("^GET .*traces")
    buckets.fault("cut", path="traces", method="GET", lying=True, keep=0.6, times=1)
    done = run("git", "annex", "get", "a.raw", cwd=sample_clone, check=False)
    if done.returncode:
        run("git", "annex", "get", "a.raw", cwd=sample_clone)
    assert buckets.count_requests("^GET .*traces") == before + 2
    assert (sample_clone / "a.raw").read_bytes() == buckets.data(SAMPLES)
    run("git", "annex", "fsck", "a.raw", cwd=sample_clone)


def kill_download(buckets: DemoBuckets, repo: Path) -> Path:
    """Kill git-annex during a download; return the partial file."""
    with (
        buckets.fault("slow", path="traces", method="GET", chunk=MIB, delay=0.1),
        subprocess.Popen(
            ["git-annex", "get", "a.raw"],
            cwd=repo,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        until = time.monotonic() + 600
        while not any(path.stat().st_size > 2 * MIB for path in partial_downloads(repo)):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=600)
    (left,) = partial_downloads(repo)
    assert not (repo / "a.raw").exists()
    return left


def test_a_killed_download_is_resumed_and_a_damaged_one_is_refused_and_restarted(
    buckets: DemoBuckets, sample_clone: Path
) -> None:
    left = kill_download(buckets, sample_clone)
    assert 2 * MIB < left.stat().st_size < 9_600_000
    whole = sample_clone.with_name("whole")
    shutil.copytree(sample_clone, whole, symlinks=True)
    run("git", "annex", "get", "a.raw", cwd=whole)
    assert (whole / "a.raw").read_bytes() == buckets.data(SAMPLES)
    assert partial_downloads(whole) == []
    flip_bit(left, 100)
    # existing bytes are not requested again, so this proves that they are checked
    done = run("git", "annex", "get", "a.raw", cwd=sample_clone, check=False)
    assert done.returncode != 0
    assert "Verification of content failed" in done.stdout + done.stderr
    assert not (sample_clone / "a.raw").exists()
    run("git", "annex", "get", "a.raw", cwd=sample_clone)
    assert (sample_clone / "a.raw").read_bytes() == buckets.data(SAMPLES)


def test_reinject_takes_the_right_bytes_only(sample_clone: Path, sample_file: Path) -> None:
    wrong = sample_file.with_name("wrong")
    wrong.write_bytes(sample_file.read_bytes()[:-1] + b"\xff")
    done = run("git", "annex", "reinject", str(wrong), "a.raw", cwd=sample_clone, check=False)
    assert done.returncode != 0
    assert "does not have expected content" in done.stdout + done.stderr
    assert wrong.exists()
    assert not (sample_clone / "a.raw").exists()
    run("git", "annex", "reinject", str(sample_file), "a.raw", cwd=sample_clone)
    assert (sample_clone / "a.raw").exists()
    run("git", "annex", "fsck", "a.raw", cwd=sample_clone)


def test_a_remote_copy_is_checked_without_keeping_it(
    buckets: DemoBuckets, sample_clone: Path
) -> None:
    run("git", "annex", "fsck", "--from", "web", "a.raw", cwd=sample_clone)
    with buckets.fault("wrong_bytes", path="traces", method="GET"):
        done = run("git", "annex", "fsck", "--from", "web", "a.raw", cwd=sample_clone, check=False)
    assert done.returncode != 0
    assert not (sample_clone / "a.raw").exists()


def test_git_annex_makes_keys_with_an_extension_too(sample_clone: Path, sample_file: Path) -> None:
    plain, extended = (
        run(
            "git", "annex", "calckey", f"--backend={name}", str(sample_file), cwd=sample_clone
        ).stdout.strip()
        for name in ("XS3ETAG", "XS3ETAGE")
    )
    assert extended == plain.replace("XS3ETAG-", "XS3ETAGE-", 1)
    (sample_clone / "b.nwb").write_bytes(sample_file.read_bytes())
    run("git", "annex", "add", "--backend=XS3ETAGE", "b.nwb", cwd=sample_clone)
    made = run("git", "annex", "lookupkey", "b.nwb", cwd=sample_clone).stdout.strip()
    assert made == f"{extended}.nwb"
    run("git", "annex", "fsck", "b.nwb", cwd=sample_clone)
    flip_bit((sample_clone / "b.nwb").resolve(), 0)
    assert run("git", "annex", "fsck", "b.nwb", cwd=sample_clone, check=False).returncode != 0


# -- without the program


def test_a_clone_that_requires_secure_hashes_gets_the_file_only_with_a_sha256_key(
    sample_clone: Path,
) -> None:
    run("git", "config", "annex.securehashesonly", "true", cwd=sample_clone)
    assert run("git", "annex", "get", "a.raw", cwd=sample_clone, check=False).returncode != 0
    run("git", "config", "annex.securehashesonly", "false", cwd=sample_clone)
    run("git", "annex", "get", "a.raw", cwd=sample_clone)
    run("git", "annex", "migrate", "--backend=SHA256E", "a.raw", cwd=sample_clone)
    key = run("git", "annex", "lookupkey", "a.raw", cwd=sample_clone).stdout
    assert key.startswith("SHA256E-s9600000--")


@pytest.fixture
def clone_without_program(
    sample_clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The same clone without the program on PATH."""
    own = Path(sys.executable).parent
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git-annex", "datalad"):
        (programs / name).symlink_to(own / name)
    # nor that of another installation
    others = [
        part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / PROGRAM).exists()
    ]
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), *others]))
    return sample_clone


def test_without_the_program_every_command_reports_it(clone_without_program: Path) -> None:
    got = run("git", "annex", "get", "a.raw", cwd=clone_without_program)
    assert MISSING in got.stderr
    assert "ok" in got.stdout
    for options in (["fsck"], ["fsck", "--fast"]):
        assert MISSING in run("git", "annex", *options, "a.raw", cwd=clone_without_program).stderr
    run("git", "annex", "drop", "a.raw", cwd=clone_without_program)
    output = run(
        "git", "annex", "get", "--json", "--json-error-messages", "a.raw", cwd=clone_without_program
    )
    record = json.loads(output.stdout)
    assert record["success"] is True
    assert record["error-messages"][0].startswith(MISSING)
    failed = run(
        "git",
        "annex",
        "calckey",
        "--backend=XS3ETAG",
        "a.raw",
        cwd=clone_without_program,
        check=False,
    )
    assert failed.returncode != 0
    assert MISSING in failed.stderr


def test_without_the_program_datalad_gets_the_file_without_a_message(
    clone_without_program: Path,
) -> None:
    done = run("datalad", "get", "a.raw", cwd=clone_without_program)
    assert "get(ok)" in done.stdout
    assert PROGRAM not in done.stdout + done.stderr


def test_unverified_content_is_found_once_the_program_is_installed(
    clone_without_program: Path, sample_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, short = clone_without_program, sample_file.with_name("short")
    short.write_bytes(sample_file.read_bytes()[:-1])
    # wrong sizes are refused even without the program
    done = run("git", "annex", "reinject", str(short), "a.raw", cwd=clone, check=False)
    assert done.returncode != 0
    flip_bit(sample_file, 9 * MIB)
    done = run("git", "annex", "reinject", str(sample_file), "a.raw", cwd=clone)
    assert MISSING in done.stderr
    assert (clone / "a.raw").exists()
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([own, os.environ["PATH"]]))
    assert run("git", "annex", "fsck", "a.raw", cwd=clone, check=False).returncode != 0
    assert not (clone / "a.raw").exists()
