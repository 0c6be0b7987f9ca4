"""News of watched datasets, pins and searches, and the channels that get them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from pytest_httpserver import HTTPServer

from neuromirror.cli import main
from neuromirror.crawl import open_recorder, rebuild_index
from neuromirror.lab.watch_channels import DeliveryError, MailServer
from neuromirror.model import DatasetFacts, EventRaised
from support.lab_store import LabStore
from support.lock_folders import LockFolder
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedSource, at, files
from support.smtp_server import PASSWORD, USER, mail_server, make_certificate

Run = Callable[..., tuple[int, list[dict[str, Any]]]]
SECRET = "hook-canary-91f2"


@pytest.fixture
def lab(scripted_lab: LabStore, source: ScriptedSource) -> LabStore:
    """A store with one dataset."""
    source.scripted_datasets["one"] = ScriptedDataset(files("a.nwb"))
    scripted_lab.mirror_harness.sync()
    return scripted_lab


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def invoke(lab: LabStore, *arguments: object) -> Result:
    command = ["--store", str(lab.mirror_harness.folder), "--json", *map(str, arguments)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


@pytest.fixture
def run(lab: LabStore, state: Path) -> Run:
    """``neuromirror watch --once``: exit code and records."""

    def watch(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
        done = invoke(lab, "watch", "--once", "--state", state, *arguments)
        return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]

    return watch


def news(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    kinds = ("version", "dataset", "incident")
    return [(one["kind"], one["dataset"]) for one in found if one.get("kind") in kinds]


def change(lab: LabStore, source: ScriptedSource, text: bytes) -> None:
    """Add a version to the dataset."""
    source.scripted_datasets["one"].files["a.nwb"] = ScriptedFile(text, at(len(text)))
    assert lab.mirror_harness.sync()["box:one"].status == "ok"


def raise_incident(lab: LabStore, message: str) -> None:
    store = lab.mirror_harness.store
    event = EventRaised("box", "one", "incident", message, "2026-01-02T03:04:05Z")
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(event)


def test_a_new_version_is_news_once(lab: LabStore, source: ScriptedSource, run: Run) -> None:
    assert run("box:one", "--exit-code")[0] == 0
    change(lab, source, b"second")
    code, found = run("box:one", "--exit-code")
    assert (code, news(found)) == (4, [("version", "box:one")])
    code, found = run("box:one", "--exit-code")
    assert (code, news(found)) == (0, [])
    change(lab, source, b"the third")
    assert run("box:one")[0] == 0


def test_a_pin_is_compared_at_the_first_check(
    lab: LabStore, source: ScriptedSource, run: Run, tmp_path: Path
) -> None:
    paper = LockFolder(lab.mirror_harness, tmp_path / "paper")
    paper.pin("box:one")
    raise_incident(lab, "bytes changed")
    change(lab, source, b"second")
    assert invoke(lab, "outdated", paper.file).exit_code == 0
    assert invoke(lab, "outdated", paper.file, "--exit-code").exit_code == 4
    code, found = run(paper.file)
    assert (code, sorted(news(found))) == (0, [("incident", "box:one"), ("version", "box:one")])
    assert news(run(paper.file)[1]) == []
    paper.pin("box:one")
    assert news(run(paper.file)[1]) == []
    assert invoke(lab, "outdated", paper.file, "--exit-code").exit_code == 0
    # the state is beside a lock file
    assert invoke(lab, "watch", paper.file, "--once").exit_code == 0
    assert paper.file.with_name("datasets.lock.watch.json").is_file()


def test_news_are_neither_lost_nor_repeated_by_a_rebuilt_index(
    lab: LabStore, source: ScriptedSource, run: Run
) -> None:
    what = ("box:one", "scripted", "colour=blue")
    source.scripted_datasets["blue"] = ScriptedDataset(
        files("b.nwb"), facts=DatasetFacts(title="Scripted", attributes=(("colour", "blue"),))
    )
    lab.mirror_harness.sync()
    raise_incident(lab, "first")
    assert news(run(*what)[1]) == []
    # the rows of the index get other numbers
    source.scripted_datasets["a"] = ScriptedDataset(files("c.nwb"))
    change(lab, source, b"second")
    raise_incident(lab, "second")
    store = lab.mirror_harness.store
    rebuild_index(store, store.index_path)
    found = sorted(news(run(*what)[1]))
    assert found == [("dataset", "box:a"), ("incident", "box:one"), ("version", "box:one")]
    rebuild_index(store, store.index_path)
    assert news(run(*what)[1]) == []


def test_a_search_reports_new_datasets(lab: LabStore, source: ScriptedSource, run: Run) -> None:
    assert run("hippocampus")[1][0]["news"] == 0
    source.scripted_datasets["two"] = ScriptedDataset(
        files("b.nwb"), facts=DatasetFacts(title="Cells of the hippocampus")
    )
    lab.mirror_harness.sync()
    assert news(run("hippocampus")[1]) == [("dataset", "box:two")]
    assert news(run("hippocampus")[1]) == []


def test_a_bad_watch_is_an_error_and_stops_no_other(
    lab: LabStore, source: ScriptedSource, run: Run
) -> None:
    bad = ("box:none", "nowhere:one", "box:one@9.9", "no-attribute=x", "missing.lock", "=x")
    run("box:one")
    change(lab, source, b"second")
    code, found = run(*bad, "box:one")
    failed = [one["watch"] for one in found if one["status"] == "error"]
    assert (code, sorted(failed)) == (1, sorted(bad))
    assert news(found) == [("version", "box:one")]
    statuses = [json.loads(line) for line in invoke(lab, "status").stdout.splitlines()]
    assert [one["task"].split()[0] for one in statuses if one.get("task")] == ["watch"]
    assert invoke(lab, "status").exit_code == 1
    assert run("box:one")[0] == 0
    assert invoke(lab, "status").exit_code == 0


def test_a_watch_takes_every_address(lab: LabStore, source: ScriptedSource, run: Run) -> None:
    rows = [json.loads(line) for line in invoke(lab, "versions", "box:one").stdout.splitlines()]
    addresses = (f"swh:1:rev:{rows[-1]['commit']}", "https://m.example.org/dataset/box:one")
    assert run(*addresses)[0] == 0
    change(lab, source, b"second")
    assert news(run(*addresses)[1]) == [("version", "box:one")] * 2
    code, found = run("bxo:one")
    assert (code, found[0]["status"]) == (1, "error")
    assert "did you mean box:one?" in found[0]["message"]


def test_a_dry_run_validates_and_changes_nothing(
    lab: LabStore, run: Run, state: Path, tmp_path: Path
) -> None:
    touch = f"touch {shlex.quote(str(tmp_path / 'ran'))}"
    assert run("--dry-run", "box:one", "--command", touch)[0] == 0
    assert run("--dry-run", "box:none", "--command", touch)[0] == 1
    for bad in (
        ("--command", " "),
        ("--command", "no-such-program-here"),
        ("--webhook", "ftp://example.org/x"),
        ("--webhook", "https://user:pw@example.org/x"),
        ("--webhook", "https:///x"),
        ("--mail", "no-address"),
        ("--mail", "a@example.org", "--smtp", "a b:25"),
    ):
        assert run("--dry-run", "box:one", *bad)[0] == 2
        assert run("box:one", *bad)[0] == 2
    assert not state.exists()
    assert not (tmp_path / "ran").exists()


def test_an_unusable_state_file_is_refused(run: Run, state: Path, tmp_path: Path) -> None:
    for text in ("{", '{"watch-version": 7}', "[]", '{"watches": {"a": 1}}'):
        state.write_text(text)
        assert run("box:one")[0] == 2
        assert state.read_text() == text
    assert run("box:one", "--state", tmp_path / "no" / "state.json")[0] == 2


# --- channels


def test_a_command_gets_news_as_json_without_credentials(
    lab: LabStore,
    source: ScriptedSource,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROMIRROR_TEST_TOKEN", SECRET)
    script = tmp_path / "on news.py"
    script.write_text(
        "import os, sys\n"
        f"with open({str(tmp_path / 'got')!r}, 'a') as file:\n"
        "    file.write(sys.stdin.read() + os.environ.get('NEUROMIRROR_TEST_TOKEN', ''))\n"
    )
    command = shlex.join([sys.executable, str(script)])
    run("box:one", "--command", command)
    assert not (tmp_path / "got").exists()
    change(lab, source, b"second")
    assert run("box:one", "--command", command)[0] == 0
    [got] = (tmp_path / "got").read_text().splitlines()
    assert json.loads(got)["kind"] == "version"


def test_a_channel_that_failed_gets_its_news_later(
    lab: LabStore, source: ScriptedSource, run: Run, httpserver: HTTPServer, state: Path
) -> None:
    url = httpserver.url_for(f"/{SECRET}?key={SECRET}")
    hook = ("box:one", "--webhook", url, "--allow-private", "--command", "cat")
    run(*hook)
    change(lab, source, b"second")
    httpserver.expect_ordered_request(f"/{SECRET}").respond_with_data("no", status=503)
    done = invoke(lab, "watch", "--once", "--state", state, *hook)
    assert done.exit_code == 1
    assert SECRET not in done.output + state.read_text()
    assert SECRET not in invoke(lab, "status").output
    httpserver.expect_ordered_request(f"/{SECRET}").respond_with_data("ok")
    code, found = run(*hook)
    # the news are not new to the other channel
    assert (code, news(found)) == (0, [])
    sent = [one.get_json() for one, _ in httpserver.log]
    assert [len(one["news"]) for one in sent] == [1, 1]
    assert "box:one" in sent[1]["text"]
    assert run(*hook)[0] == 0
    assert len(httpserver.log) == 2


def test_a_webhook_follows_no_redirect_and_reaches_no_private_address(
    lab: LabStore, source: ScriptedSource, run: Run, httpserver: HTTPServer
) -> None:
    url = httpserver.url_for(f"/{SECRET}")
    run("box:one", "--webhook", url)
    change(lab, source, b"second")
    code, found = run("box:one", "--webhook", url)
    assert (code, len(httpserver.log)) == (1, 0)
    assert SECRET not in json.dumps(found)
    httpserver.expect_request(f"/{SECRET}").respond_with_data(
        status=302, headers={"Location": httpserver.url_for("/other")}
    )
    assert run("box:one", "--webhook", url, "--allow-private")[0] == 1
    assert [one.path for one, _ in httpserver.log] == [f"/{SECRET}"]


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_mail_is_sent(
    lab: LabStore,
    source: ScriptedSource,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encrypted: bool,
) -> None:
    file, context = make_certificate(tmp_path)
    source.scripted_datasets["one"].facts = replace(
        source.scripted_datasets["one"].facts, title="A title\nBcc: all@example.org"
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("NEUROMIRROR_SMTP_USER", USER)
    monkeypatch.setenv("NEUROMIRROR_SMTP_PASSWORD", PASSWORD)
    with mail_server(context if encrypted else None, auth=True) as box:
        mail = ("box:one", "--mail", "lab@example.org", "--smtp", f"localhost:{box.port}")
        run(*mail)
        change(lab, source, b"second")
        code, found = run(*mail)
    assert (code, news(found)) == (0, [("version", "box:one")])
    assert (box.encrypted, box.logins) == ([encrypted], [(USER.encode(), PASSWORD.encode())])
    [message] = box.messages
    assert (message["To"], message["Bcc"]) == ("lab@example.org", None)
    assert "box:one" in message["Subject"]


def test_a_mail_server_with_an_unknown_certificate_gets_nothing(
    lab: LabStore, source: ScriptedSource, run: Run, tmp_path: Path
) -> None:
    _, context = make_certificate(tmp_path)
    with mail_server(context) as box:
        mail = ("box:one", "--mail", "lab@example.org", "--smtp", f"localhost:{box.port}")
        run(*mail)
        change(lab, source, b"second")
        assert run(*mail)[0] == 1
    assert box.messages == []


def test_no_password_leaves_this_machine_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(auth=True) as box:
        # one that cannot be sent is not shown
        server = MailServer("127.0.0.1", box.port, USER, "canary-pässword")
        with pytest.raises(DeliveryError) as caught:
            server.send(EmailMessage())
        server = MailServer("127.0.0.1", box.port, USER, PASSWORD)
        # as if the server were elsewhere
        monkeypatch.setattr(MailServer, "is_loopback", False)
        with pytest.raises(DeliveryError):
            server.send(EmailMessage())
    assert caught.value.__suppress_context__
    assert "canary" not in str(caught.value)
    assert (box.logins, box.messages) == ([], [])


def test_only_the_owner_reads_the_state(lab: LabStore, run: Run, state: Path) -> None:
    """A watched store may be private."""
    run("box:one")
    assert state.stat().st_mode & 0o777 == 0o600
    state.chmod(0o644)
    run("box:one")
    assert state.stat().st_mode & 0o777 == 0o600
