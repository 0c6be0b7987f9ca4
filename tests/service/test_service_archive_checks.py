"""``doctor MIRROR``: whether an archive answers as the crawler needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from requests.structures import CaseInsensitiveDict

from neuromirror.cli import main
from neuromirror.net import ResponseHead, Session
from neuromirror.service.archive_checks import check_archive, open_archive
from neuromirror.sources.s3.source import S3Source
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.ndstore import DemoNdstore
from support.nonconforming_bucket import nonconforming_bucket


def levels(url: str) -> dict[str, str]:
    return {one.subject: one.level for one in check_archive(open_archive(url))}


BUCKET = {
    "listing": "ok",
    "paging": "ok",
    "versions": "warning",
    "sizes": "ok",
    "etags": "ok",
    "parts": "ok",
    "ranges": "ok",
    "missing objects": "ok",
}


@pytest.mark.parametrize(
    ("departure", "value", "expected"),
    [
        ("same_page", False, {}),
        ("same_page", True, {"paging": "error"}),
        ("swift", True, {"sizes": "warning", "etags": "warning"}),
        ("opaque", True, {"etags": "warning"}),
        ("no_parts", True, {"parts": "warning"}),
        ("no_ranges", True, {"ranges": "warning"}),
        ("missing", 403, {"missing objects": "warning"}),
        ("missing", 200, {"missing objects": "error"}),
    ],
)
def test_each_departure_of_a_bucket_is_found_and_nothing_else(
    departure: str, value: Any, expected: dict[str, str]
) -> None:
    with nonconforming_bucket(**{departure: value}) as endpoint:
        assert levels(f"{endpoint}/odd") == {**BUCKET, **expected}


def test_a_dandi_archive_and_its_bucket(demo: DemoArchive) -> None:
    api = dict.fromkeys(
        ("datasets", "missing datasets", "assets", "digests", "content", *BUCKET), "ok"
    )
    api |= {"etags": "warning", "ranges": "warning"}  # small objects, all of them with parts
    assert levels(demo.api_url) == api
    with (
        demo.fault("status", path="/dandisets/999999/$", status=400),
        demo.fault("status", path="/download/$", status=404),
    ):
        changed = {"missing datasets": "error", "content": "warning"}
        assert levels(demo.api_url) == {**api, **changed}


def test_a_boss_and_an_ndstore(tmp_path: Path) -> None:
    with DemoBoss(tmp_path / "boss") as boss:
        encodings = [f"cutouts as application/{name}" for name in ("npygz", "blosc")]
        assert levels(boss.api) == dict.fromkeys(("datasets", *encodings), "ok")
    with DemoNdstore(tmp_path / "ndstore") as ndstore:
        assert levels(ndstore.api) == dict.fromkeys(("datasets", "missing datasets"), "ok")


@pytest.mark.parametrize("status", [200, 301, 403])
def test_a_bucket_of_aws_is_opened_in_the_region_that_aws_states(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    headers = CaseInsensitiveDict({"X-Amz-Bucket-Region": "eu-west-3"})
    monkeypatch.setattr(Session, "head", lambda *_, **__: ResponseHead(status, headers))
    monkeypatch.setattr("neuromirror.net.S3Bucket.page", lambda *_: None)
    source = open_archive("s3://a-bucket/some/prefix")
    assert isinstance(source, S3Source)
    assert ".eu-west-3" in source.bucket.object_url(b"key")


def run(folder: Path, *arguments: str) -> Result:
    options = ["--mirrors", str(folder / "mirrors"), "--store", str(folder / "store"), "--json"]
    return CliRunner().invoke(main, ["doctor", *arguments, *options])


def test_the_command_checks_a_mirror_or_an_address_and_writes_nothing(
    tmp_path: Path, no_waits: None
) -> None:
    (tmp_path / "mirrors").mkdir()
    with nonconforming_bucket(missing=200) as endpoint:
        (tmp_path / "mirrors" / "odd.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "odd"\ndepth = 0\nendpoint = "{endpoint}"\n'
        )
        for name in ("odd", f"{endpoint}/odd"):
            done = run(tmp_path, name)
            assert done.exit_code == 1, done.output
            records = [json.loads(line) for line in done.stdout.splitlines()]
            failed = [one["check"] for one in records if one["status"] == "error"]
            assert (failed, len(records)) == (["missing objects"], len(BUCKET))
        assert run(tmp_path, f"{endpoint}/odd/%ff").exit_code == 2  # a prefix that is not UTF-8
        assert run(tmp_path, "odd", "--offline").exit_code == 2
    assert run(tmp_path, "odd").exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mirrors"]
    for name in ("nothing", "http://127.0.0.1:1/", "ftp://example.org/"):
        done = run(tmp_path, name)
        assert (done.exit_code, "Traceback" in done.output) == (2, False)
