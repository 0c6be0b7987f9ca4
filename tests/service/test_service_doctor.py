"""The doctor reports problems with advice, and whether an archive answers as it must."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.crawl import open_recorder
from neuromirror.model import EventRaised
from neuromirror.net import RequestPolicy
from neuromirror.service.archive_checks import check_archive
from neuromirror.service.doctor import DoctorCheck, run_doctor_checks
from neuromirror.service.integrity import check_integrity
from neuromirror.sources import open_source
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.ndstore import DemoNdstore
from support.loopback_http import QuietHandler, serving
from support.mirror_harness import MirrorHarness
from support.nonconforming_bucket import nonconforming_bucket
from support.synced_mirror import flip_bit


def checks_by_subject(
    mirror_harness: MirrorHarness, *, offline: bool = True
) -> dict[str, DoctorCheck]:
    return {
        one.subject: one
        for one in run_doctor_checks(
            mirror_harness.mirrors, mirror_harness.folder, None, offline=offline
        )
    }


def failed_checks(mirror_harness: MirrorHarness) -> dict[str, tuple[str, str]]:
    return {
        check.subject: (check.level, check.message)
        for check in checks_by_subject(mirror_harness).values()
        if check.level != "ok"
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a store of another user")
def test_a_store_of_another_user_is_no_error_and_says_whom_git_must_trust(
    mirror_harness: MirrorHarness,
) -> None:
    mirror_harness.sync("demo:000001")
    os.chown(mirror_harness.folder, 65534, -1)
    found = checks_by_subject(mirror_harness)["store format"]
    assert found.level == "warning"
    assert "belongs to another user" in found.message
    assert f"--add safe.directory '{mirror_harness.folder}/*'" in found.message


TIME = "2026-01-01T00:00:00.000000Z"
DRAFT = {"version": "draft", "name": "One", "created": TIME, "modified": TIME}
LIST = {
    "count": 1,
    "next": None,
    "previous": None,
    "results": [
        {
            "identifier": "000001",
            "created": TIME,
            "modified": TIME,
            "embargo_status": "OPEN",
            "most_recent_published_version": None,
            "draft_version": {**DRAFT, "asset_count": 1, "size": 1, "status": "Valid"},
        }
    ],
}


@contextmanager
def archive(*, ahead: float = 0.0, status: int = 200, lists: bool = True) -> Iterator[str]:
    """A DANDI archive with a clock of its own, whose base is 404 as the real one's; its address.

    ``lists``: it is one; else it has no page at all.
    """
    content = json.dumps(LIST).encode()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            found = lists and self.path.startswith("/api/dandisets/")
            self.send_response_only(status if found or status != 200 else 404)
            self.send_header("Date", formatdate(time() + ahead, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)) if found else "0")
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(content)

    with serving(Handler) as url:
        yield f"{url}/api"


def mirror_harness_of(tmp_path: Path, *addresses: str) -> MirrorHarness:
    folder = tmp_path / "mirrors"
    folder.mkdir(exist_ok=True)
    for number, address in enumerate(addresses):
        text = f'source = "dandi"\n[options]\napi = "{address}"\n'
        (folder / f"m{number}.toml").write_text(text)
    return MirrorHarness(folder, tmp_path / "store")


def test_where_all_is_well_nothing_is_an_error_and_nothing_is_written(
    demo_harness: MirrorHarness,
) -> None:
    before = demo_harness.file_digests()
    checks = checks_by_subject(demo_harness, offline=False)
    assert [check for check in checks.values() if check.level == "error"] == []
    assert {"git", "git-annex", "sqlite", "store", "index", "mirror demo", "clock"} <= set(checks)
    assert checks["mirror demo"].level == "ok"
    assert demo_harness.file_digests() == before


def test_missing_programs_are_named_with_what_to_install(
    demo_harness: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = failed_checks(demo_harness)
    assert failed["git"][0] == "error"
    for name in ("git-annex", "git-annex-backend-XS3ETAG", "git-annex-remote-neuromirror"):
        assert failed[name][0] == "warning"
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho git version 2.20.1\n")
    git.chmod(0o755)
    assert failed_checks(demo_harness)["git"] == (
        "error",
        "git version 2.20.1; install 2.34 or newer",
    )


def test_a_stale_missing_or_damaged_index_is_reported(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    event = EventRaised("demo", "000001", "unavailable", "a test", "2026-01-01T00:00:00+00:00")
    store.journal.append(event)
    assert failed_checks(copied_harness)["index"][0] == "warning"
    with open_recorder(store, store.index_path):
        pass
    assert "index" not in failed_checks(copied_harness)
    content = store.journal.path.read_bytes()
    store.journal.path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    assert "rebuild-index" in failed_checks(copied_harness)["index"][1]
    store.index_path.write_bytes(b"no database" * 1000)
    assert failed_checks(copied_harness)["index"][0] == "error"
    store.index_path.unlink()
    assert "rebuild-index" in failed_checks(copied_harness)["index"][1]


def test_damage_found_by_the_last_check_is_reported(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    flip_bit(next((copied_harness.repository("demo:000002") / "objects" / "pack").glob("*.pack")))
    assert "integrity" not in failed_checks(copied_harness)
    assert [one for one in check_integrity(store, store.index_path) if one.status == "error"]
    level, message = failed_checks(copied_harness)["integrity"]
    assert level == "error"
    assert message.startswith("demo:000002: git fsck: ")


@pytest.mark.parametrize(("ahead", "level"), [(0, "ok"), (-100, "warning"), (86_400, "error")])
def test_a_clock_that_is_off_is_known_by_the_archives(
    tmp_path: Path, ahead: float, level: str
) -> None:
    with archive(ahead=ahead) as one, archive(ahead=ahead) as other, archive() as right:
        checks = checks_by_subject(mirror_harness_of(tmp_path, one, other, right), offline=False)
    assert checks["clock"].level == level
    assert level == "ok" or ("behind" if ahead > 0 else "ahead of") in checks["clock"].message


def test_an_unreachable_or_refusing_archive_is_reported_and_the_others_are_checked(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
    with archive() as well, archive(status=403) as refusing:
        checks = checks_by_subject(
            mirror_harness_of(tmp_path, closed, refusing, well), offline=False
        )
    assert [checks[f"mirror m{number}"].level for number in range(3)] == ["error", "warning", "ok"]
    assert closed.removesuffix("/api").removeprefix("http://") in checks["mirror m0"].message


def test_a_disk_that_is_nearly_full_is_an_error(
    demo_harness: MirrorHarness, mount_disk: object
) -> None:
    mirror_harness = MirrorHarness(demo_harness.mirrors, mount_disk("4m") / "store")  # type: ignore[operator]
    level, _ = failed_checks(mirror_harness)["store"]
    assert level == "error"


def levels(kind: str, **options: object) -> dict[str, str]:
    source = open_source(kind, "archive", options, RequestPolicy())
    return {one.subject: one.level for one in check_archive(source)}


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
        found = levels("s3", bucket="odd", depth=0, endpoint=endpoint)
        assert found == {**BUCKET, **expected}


def test_a_dandi_archive_and_its_bucket(demo: DemoArchive) -> None:
    api = dict.fromkeys(
        ("datasets", "missing datasets", "assets", "digests", "content", *BUCKET), "ok"
    )
    api |= {"etags": "warning", "ranges": "warning"}  # small objects, all of them with parts
    assert levels("dandi", api=demo.api_url) == api
    with (
        demo.fault("status", path="/dandisets/999999/$", status=400),
        demo.fault("status", path="/download/$", status=404),
    ):
        changed = {"missing datasets": "error", "content": "warning"}
        assert levels("dandi", api=demo.api_url) == {**api, **changed}


def test_a_boss_and_an_ndstore(tmp_path: Path) -> None:
    with DemoBoss(tmp_path / "boss") as boss:
        encodings = [f"cutouts as application/{name}" for name in ("npygz", "blosc")]
        assert levels("boss", api=boss.api) == dict.fromkeys(("datasets", *encodings), "ok")
    with DemoNdstore(tmp_path / "ndstore") as ndstore:
        assert levels("ndstore", api=ndstore.api) == dict.fromkeys(
            ("datasets", "missing datasets"), "ok"
        )


def run(folder: Path, *arguments: str) -> Result:
    options = ["--mirrors", str(folder / "mirrors"), "--store", str(folder / "store"), "--json"]
    return CliRunner().invoke(main, ["doctor", *arguments, *options])


def test_the_command_checks_a_mirror_and_writes_nothing(tmp_path: Path, no_waits: None) -> None:
    (tmp_path / "mirrors").mkdir()
    with nonconforming_bucket(missing=200) as endpoint:
        (tmp_path / "mirrors" / "odd.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "odd"\ndepth = 0\nendpoint = "{endpoint}"\n'
        )
        done = run(tmp_path, "odd")
        assert done.exit_code == 1, done.output
        records = [json.loads(line) for line in done.stdout.splitlines()]
        failed = [record["check"] for record in records if record["status"] == "error"]
        assert (failed, len(records)) == (["missing objects"], len(BUCKET))
        assert run(tmp_path, "odd", "--offline").exit_code == 2
    assert run(tmp_path, "odd").exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mirrors"]
    done = run(tmp_path, "nothing")
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
