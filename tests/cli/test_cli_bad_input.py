"""Invalid names, invalid files and failing archives: one error line and the right exit code."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell, api_mirror_settings, folder_snapshot, write_mirror_file


def net_settings(setting: str) -> str:
    return api_mirror_settings("https://a.example/api", "[net]", setting)


ODD = "ünï\x1b[31m漢\u202e\n\x00'\"; rm -rf"


@pytest.mark.parametrize(
    ("command", "fragments"),
    [
        ("sync ''", ["''", "demo"]),
        ("sync demo:", ["'demo:'", "demo:ID"]),
        ("sync :000001", ["':000001'"]),
        ("sync demo:000001/../000002", ["'demo:000001/../000002'"]),
        ("sync demo:۰۰۰۰۰۱", ["'demo:۰۰۰۰۰۱'"]),
        ("sync demo/000001", ["'demo/000001'"]),
        ("list nope", ["'nope'", "demo"]),
        ("versions demo", ["'demo' is a mirror", "neuromirror list demo"]),
        ("versions nope:000001", ["'nope:000001'"]),
        ("versions ''", ["''", "dandi:000027@draft"]),
        ("show demo:000001@", ["'demo:000001@'", "dandi:000027@draft"]),
        ("show ''", ["dandi:000027@draft"]),
        ("show @", ["'@'"]),
        ("show demo:000002@0.000000.0000", ["'0.000000.0000'", "0.240301.1055"]),
        ("show demo:000002@state:xyz", ["'state:xyz'"]),
        ("files demo:000002@0.240301", ["'0.240301'", "0.240301.1055"]),
        ("files nope:1@x", ["'nope:1@x'"]),
        ("find ''", ["''", "sha256:<hex>"]),
        ("find md5:xyz", ["'md5:xyz'", "sha256:<hex>"]),
        ("events demo:000099", ["'demo:000099'"]),
        ("release ''", []),
    ],
)
def test_a_wrong_name_is_one_error_line(synced: Shell, command: str, fragments: list[str]) -> None:
    before = folder_snapshot(synced.store)
    arguments = shlex.split(command)
    line = synced.run(*arguments, code=2).error_line
    assert line.startswith("neuromirror: ")
    assert [fragment for fragment in fragments if fragment not in line] == []
    (record,) = synced.records(*arguments, code=2)
    assert record["status"] == "error"
    assert f"neuromirror: {record['message']}" == line
    assert folder_snapshot(synced.store) == before


@pytest.mark.parametrize(
    "command",
    [["sync"], ["versions"], ["show"], ["files"], ["find"], ["list"], ["events"], ["release"]],
    ids=" ".join,
)
@pytest.mark.parametrize("name", [ODD, f"demo:{ODD}", f"demo:000001@{ODD}", "x" * 5000, "\udcff"])
def test_an_odd_name_does_no_harm(synced: Shell, command: list[str], name: str) -> None:
    line = synced.run(*command, name, code=2).error_line
    assert line.isprintable()
    assert len(line) < len(name) * 4 + 300
    (record,) = synced.records(*command, name, code=2)
    assert record["status"] == "error"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sync", "--jobs", "1000000"],
        ["sync", "--jobs", "0"],
        ["sync", "--jobs", ""],
        ["sync", "--scedule"],
        ["snyc"],
        ["versions"],
        ["events", "--limit", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_points_to_the_help(
    synced: Shell, arguments: list[str]
) -> None:
    ended = synced.run(*arguments, code=2)
    assert ended.out == ""
    assert "--help" in ended.err
    assert "Error: " in ended.err


def test_without_mirrors_the_three_lines_are_shown_that_a_person_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = Shell(Path("mirrors"), Path("store"))
    message = bare.run("sync", code=2).err
    assert message.startswith("neuromirror: mirrors: ")
    assert "--mirrors DIR" in message
    example = "\n".join(line.strip() for line in message.splitlines()[1:])
    folder = write_mirror_file(tmp_path / "mirrors", "dandi", example)
    assert "dandi at https://" in bare.run("check-config").out
    (folder / "dandi.toml").unlink()
    assert bare.run("sync", code=2).err.startswith("neuromirror: mirrors: ")
    folder.rmdir()
    folder.write_text("")
    assert bare.run("check-config", code=2).err.startswith("neuromirror: mirrors: ")
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("source = dandi", ["not valid TOML", "line 1"]),
        ('source = "dandi"\nsuorce = 1\n', ["'suorce'"]),
        ('source = "dropbox"\n', ["no source 'dropbox'", "boss, dandi"]),
        (api_mirror_settings("https://user:s3cret-word@example.org/api"), ["api", "token_env"]),
        (api_mirror_settings("https://example.org/api", 'token = "s3cret-word"'), ["token"]),
        (net_settings('contact = "https://x:s3cret-word@y.example/"'), ["it contains a secret"]),
    ],
)
def test_an_invalid_mirror_file_is_one_error_line(
    tmp_path: Path, content: str, fragments: list[str]
) -> None:
    shell = Shell(write_mirror_file(tmp_path / "mirrors", "wrong", content), tmp_path / "store")
    for command in (["sync"], ["sync", "--dry-run"], ["sync", "wrong"], ["check-config"]):
        line = shell.run(*command, code=2).error_line
        assert f"{shell.mirrors}/wrong.toml: " in line
        assert [fragment for fragment in fragments if fragment not in line] == []
        assert "s3cret-word" not in line
    assert not shell.store.exists()


def test_one_name_is_not_two_archives(shell: Shell, shared_demo: DemoArchive) -> None:
    shell.run("sync", "demo:000001")
    before = folder_snapshot(shell.store)
    for command in (["sync"], ["sync", "demo:000001"], ["sync", "--dry-run"]):
        line = shell.with_changes(mirrors=shared_demo.mirrors).run(*command, code=2).error_line
        assert shared_demo.api_url in line
        assert "'demo'" in line
    assert folder_snapshot(shell.store) == before


def test_one_dataset_is_not_mirrored_twice(shell: Shell) -> None:
    shell.run("sync", "demo:000001")
    before = folder_snapshot(shell.store)
    (shell.mirrors / "twin.toml").write_text((shell.mirrors / "demo.toml").read_text())
    for command in (["sync", "twin"], ["sync", "twin:000001"], ["sync", "twin", "--dry-run"]):
        line = shell.run(*command, code=2).error_line
        assert "twin:000001" in line
        assert "demo:000001" in line
    assert folder_snapshot(shell.store) == before


def _fails(shell: Shell, *fragments: str) -> str:
    """Sync and expect one error line for the whole mirror; return the line."""
    line = shell.run("sync", code=1).error_line
    assert line.startswith("error      away  ")
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    (record,) = shell.records("sync", code=1)
    assert (record["dataset"], record["visit"]) == ("away", "failed")
    (dry,) = shell.records("sync", "--dry-run", code=1)
    assert dry["message"] == record["message"]
    assert list((shell.store / "alias").iterdir()) == []
    assert shell.records("list") == []
    return line


def test_an_archive_that_cannot_be_reached_is_reported(
    tmp_path: Path, shared_demo: DemoArchive, no_waits: None, closed_port: int
) -> None:
    for number, (address, reason) in enumerate(
        [
            (f"http://127.0.0.1:{closed_port}/api", "Connection refused"),
            # a label of more than 63 characters fails without a DNS request
            (f"http://{'x' * 64}.invalid/api", "x" * 64),
            (shared_demo.api_url.replace("http://", "https://"), "SSL"),
        ]
    ):
        folder = write_mirror_file(tmp_path / str(number), "away", api_mirror_settings(address))
        line = _fails(Shell(folder, folder / "store"), "cannot be reached", reason)
        assert f"check the network and the address in {folder}/away.toml" in line


@pytest.mark.parametrize(
    ("fault", "options", "fragments"),
    [
        ("status", {"status": 500}, ["HTTP 500", "try again"]),
        ("status", {"status": 503}, ["HTTP 503", "try again"]),
        ("status", {"status": 429}, ["too many requests (HTTP 429)", "try again"]),
        ("status", {"status": 429, "retry_after": 7200}, ["a wait of 7200 s", "run again later"]),
        ("status", {"status": 401}, ["HTTP 401", "no token is configured"]),
        ("status", {"status": 403}, ["HTTP 403", "no token is configured"]),
        ("status", {"status": 404}, ["HTTP 404"]),
        ("html", {}, ["a web page instead of JSON", "check the address"]),
        ("cut", {"path": "dandisets/$", "lying": False}, ["not JSON", "try again"]),
    ],
)
def test_a_failing_archive_is_reported(
    tmp_path: Path,
    demo: DemoArchive,
    no_waits: None,
    fault: str,
    options: dict[str, object],
    fragments: list[str],
) -> None:
    folder = write_mirror_file(tmp_path / "mirrors", "away", api_mirror_settings(demo.api_url))
    with demo.fault(fault, **options):
        _fails(Shell(folder, tmp_path / "store"), f"{demo.api_url}/dandisets/", *fragments)


@pytest.mark.parametrize(
    ("status", "token"), [(401, ""), (401, "s3cret-word"), (403, "s3cret-word")]
)
def test_a_missing_or_refused_token_is_reported_with_its_variable(
    tmp_path: Path, demo: DemoArchive, status: int, token: str
) -> None:
    content = api_mirror_settings(demo.api_url, 'token_env = "DEMO_TOKEN"')
    shell = Shell(
        write_mirror_file(tmp_path / "mirrors", "away", content),
        tmp_path / "store",
        {"DEMO_TOKEN": token} if token else {},
    )
    with demo.fault("status", status=status):
        fragments = ["refuses the token"] if token else ["needs a token"]
        _fails(shell, f"HTTP {status}", "environment variable DEMO_TOKEN", *fragments)
        done = shell.run("sync", code=1)
    assert "s3cret-word" not in done.out + done.err
    for path, (_, content_now) in folder_snapshot(shell.store).items():
        assert b"s3cret-word" not in content_now, path


def test_the_demo_without_its_extras_says_what_to_install(tmp_path: Path) -> None:
    missing_modules = "import sys; sys.modules.update(pynwb=None, werkzeug=None)\n"
    (tmp_path / "sitecustomize.py").write_text(missing_modules)
    for missing, *arguments in (
        ("pynwb, werkzeug", "neuromirror", "demo", "--no-input"),
        ("werkzeug", "neuromirror_demo", "serve", "--dir", str(tmp_path / "demo")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert missing in line
        assert "pip install 'neuromirror[demo]'" in line
    assert not (tmp_path / "store").exists()
