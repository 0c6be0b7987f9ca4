"""Checks of DANDI, BOSS and ndstore archives, and the commands that run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.conformance import check_archive, load_report, open_archive
from neuromirror.conformance.detect import UnknownArchiveError
from neuromirror.conformance.report import InvalidReportError
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.ndstore import DemoNdstore
from support.nonconforming_bucket import nonconforming_bucket


def statuses(url: str, expected_kind: str) -> dict[str, str]:
    kind, source = open_archive(url)
    assert kind == expected_kind
    report = check_archive(source, url, kind)
    assert 0 < report.requests <= 200
    assert load_report(report.dump()) == report
    return {one.rule: one.status for one in report.findings}


def test_a_dandi_archive_and_its_bucket(shared_demo: DemoArchive) -> None:
    found = statuses(shared_demo.api_url, "dandi")
    assert "broken" not in found.values()
    assert found["dandi.list-paging"] == found["dandi.asset-count"] == "ok"
    assert found["dandi.digest-etag"] == found["dandi.content-url"] == "ok"
    assert found["dandi.bucket.part-heads"] == found["dandi.bucket.versions-read"] == "ok"


def test_an_archive_that_answers_400_for_a_missing_dandiset_is_broken(demo: DemoArchive) -> None:
    with demo.fault("status", path="/dandisets/999999/$", status=400):
        assert statuses(demo.api_url, "dandi")["dandi.not-found"] == "broken"


@pytest.mark.parametrize("status", [200, 404])
def test_downloads_that_do_not_redirect_are_named(demo: DemoArchive, status: int) -> None:
    assert statuses(demo.api_url, "dandi")["dandi.download"] == "ok"
    with demo.fault("status", path="/download/$", status=status):
        assert statuses(demo.api_url, "dandi")["dandi.download"] == "limited"


def test_a_boss(tmp_path: Path) -> None:
    with DemoBoss(tmp_path / "boss") as boss:
        found = statuses(boss.api, "boss")
    assert set(found.values()) == {"ok"}
    assert {"boss.cutout-npygz", "boss.cutout-blosc", "boss.levels"} <= found.keys()


def test_an_ndstore(tmp_path: Path) -> None:
    with DemoNdstore(tmp_path / "ndstore") as ndstore:
        found = statuses(ndstore.api, "ndstore")
    assert found == dict.fromkeys(("ndstore.tokens", "ndstore.info", "ndstore.not-found"), "ok")


@pytest.mark.parametrize("address", ["ftp://example.org/", "no-scheme", "http://127.0.0.1:1/"])
def test_an_address_where_no_archive_answers_is_refused(address: str) -> None:
    with pytest.raises(UnknownArchiveError):
        open_archive(address)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 99}', b"\xff"])
def test_a_damaged_report_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidReportError):
        load_report(content)


def run(folder: Path, *arguments: str) -> Result:
    options = ["--mirrors", str(folder / "mirrors"), "--store", str(folder / "store"), "--json"]
    return CliRunner().invoke(main, [*arguments, *options])


def mirror(folder: Path, endpoint: str) -> None:
    (folder / "mirrors").mkdir(exist_ok=True)
    (folder / "mirrors" / "odd.toml").write_text(
        f'source = "s3"\n[options]\nbucket = "odd"\ndepth = 0\nendpoint = "{endpoint}"\n'
    )


def test_the_report_is_kept_and_doctor_names_what_changed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    with nonconforming_bucket() as endpoint:
        mirror(tmp_path, endpoint)
        done = run(tmp_path, "check-archive", "odd")
        assert done.exit_code == 0, done.output
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert {one["rule"]: one["result"] for one in records}["s3.part-heads"] == "ok"
        report = load_report(store.archive_report_path("odd").read_bytes())
        assert [one.rule for one in report.findings] == [one["rule"] for one in records]
    with nonconforming_bucket(no_parts=True, same_page=True) as endpoint:
        mirror(tmp_path, endpoint)
        done = run(tmp_path, "doctor", "--archives")
        doctor_records = [json.loads(line) for line in done.stdout.splitlines()]
        changed = [one for one in doctor_records if one["check"] == "archive odd"]
        assert [one["level"] for one in changed] == ["ok", "warning", "warning", "warning"]
        assert run(tmp_path, "check-archive", "odd").exit_code == 1
    doctor_records = [
        json.loads(line) for line in run(tmp_path, "doctor", "--offline").stdout.splitlines()
    ]
    [kept] = [one for one in doctor_records if one["check"] == "archive odd"]
    assert kept["level"] == "warning"


def test_a_bucket_by_its_address_is_checked_without_a_mirror_or_a_store(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    with nonconforming_bucket() as endpoint:
        done = run(tmp_path, "check-archive", f"{endpoint}/odd", "--output", str(output))
    assert done.exit_code == 0, done.output
    assert load_report(output.read_bytes()).source == "s3"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_prefix_that_is_not_utf_8_is_wrong_usage(tmp_path: Path) -> None:
    with nonconforming_bucket() as endpoint:
        assert run(tmp_path, "check-archive", f"{endpoint}/odd/%ff").exit_code == 2


def test_an_unknown_archive_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "mirrors").mkdir()
    mirror(tmp_path, "http://127.0.0.1:1")
    assert run(tmp_path, "check-archive", "nothing").exit_code == 2
    assert run(tmp_path, "check-archive", "http://127.0.0.1:1/").exit_code == 2
