"""Output and exit codes of each command for an intact store."""

import json
import re
from pathlib import Path

import pytest

from neuromirror import __version__
from neuromirror.cli import main
from neuromirror_demo import LATE, DemoArchive
from support.command_shell import Shell, api_mirror_settings, folder_snapshot, write_mirror_file

COMMANDS = list(main.commands)


def test_the_overview_lists_every_command_with_its_whole_sentence(synced: Shell) -> None:
    assert synced.run("--version").out == f"neuromirror, version {__version__}\n"
    out = synced.run("--help").out
    commands = out[out.index("\nMirror:") :]
    assert "..." not in commands
    assert re.findall(r"^  ([a-z-]+)  ", commands, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(synced: Shell, command: str) -> None:
    out = synced.run(command, "--help").out
    assert out.startswith(f"Usage: neuromirror {command} ")
    assert all(len(line) <= 80 for line in out.splitlines())
    for option in ("--mirrors", "--store", "--index", "--json"):
        assert option in out


def test_an_empty_store_says_what_to_do(tmp_path: Path, synced: Shell) -> None:
    from neuromirror.index import Index
    from neuromirror.store import Store

    Index.open(Store.open(tmp_path / "new", create=True).index_path).close()
    empty = synced.with_changes(store=tmp_path / "new")
    assert "neuromirror sync" in empty.run("list").out
    assert "neuromirror sync" in empty.run("status").out
    assert empty.records("events") == []
    assert empty.records("holds") == []
    assert empty.records("list") == []


def test_show_accepts_every_name_of_a_version(synced: Shell) -> None:
    (record,) = synced.records("show", "demo:000002")
    names = [
        f"demo:000002@{record['version']}",
        "demo:000002@latest",
        f"demo:000002@{record['commit'][:12]}",
        f"demo:000002@state:{record['state'].removeprefix('sha256:')[:16]}",
    ]
    assert [synced.records("show", name) for name in names] == [[record]] * len(names)
    out = synced.run("show", names[0]).out
    for field in ("title", "commit", "tree", "state", "swhid", "clone", "source"):
        assert str(record[field]) in out
    assert record["kind"] == "published"


def test_show_and_files_list_files_that_are_not_mirrored(
    shell: Shell, shared_demo: DemoArchive
) -> None:
    text = (shared_demo.mirrors / "demo.toml").read_text()
    (shell.mirrors / "demo.toml").write_text(f"{text}zarrs = false\n")
    (result,) = shell.run("sync", "demo:000005").lines
    assert result.endswith("; 1 listed upstream but not mirrored")
    (record,) = shell.records("show", "demo:000005")
    (exception,) = record["exceptions"]
    assert exception["reason"] == "zarr"
    assert exception["path"] in shell.run("show", "demo:000005").out
    files = shell.records("files", "demo:000005")
    kinds = ["file", "file", "document", "document", "exception"]
    assert [file["type"] for file in files] == kinds
    assert files[-1]["status"] == "impossible"
    ended = shell.run("files", "demo:000005")
    assert ended.lines[-1].startswith("not mirrored: zarr")
    assert ended.lines[-1].endswith(exception["path"])
    assert ended.err == ""


def test_common_options_stand_before_or_after_the_name_or_in_the_environment(
    synced: Shell, tmp_path: Path
) -> None:
    expected = synced.records("list")
    nowhere = synced.with_changes(mirrors=tmp_path / "none", store=tmp_path / "none")
    store = str(synced.store)
    for arguments in (
        ["--store", store, "--json", "list"],
        ["list", "--store", store, "--json"],
        ["--json", "list", "--store", store],
        ["--store", str(tmp_path / "other"), "list", "--store", store, "--json"],
    ):
        assert [json.loads(line) for line in nowhere.run(*arguments).lines] == expected
    nowhere.run("list", code=2)
    checked = nowhere.run("check-config", "--mirrors", str(synced.mirrors))
    assert checked.out == synced.run("check-config").out


def test_the_index_may_be_elsewhere(copied: Shell, tmp_path: Path) -> None:
    index_path = tmp_path / "elsewhere.sqlite"
    inside = copied.store / "neuromirror" / "index.sqlite"
    listed = copied.run("list").out
    inside.rename(index_path)
    assert copied.run("list", "--index", str(index_path)).out == listed
    elsewhere = copied.with_changes(variables={"NEUROMIRROR_INDEX": str(index_path)})
    assert elsewhere.run("list").out == listed
    assert not inside.exists()


def test_an_empty_variable_counts_as_none_and_an_empty_option_is_refused(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").symlink_to(synced.store)
    bare = synced.with_changes(variables={"NEUROMIRROR_STORE": ""})
    assert bare.run("list").out == synced.run("list").out
    for option in ("--store", "--mirrors", "--index"):
        message = synced.run("list", option, "", code=2).err
        assert f"'{option}'" in message
        assert "empty" in message


def test_a_dry_run_writes_nothing(shell: Shell, demo: DemoArchive) -> None:
    lines = shell.run("sync", "--dry-run").lines
    assert len(lines) == 7
    assert all(re.match(r"ok +demo:00000\d  would visit: new$", line) for line in lines)
    assert not shell.store.exists()
    shell.run("sync")
    demo.change_file("000003", demo.paths("000003")[0])
    before = folder_snapshot(shell.store)
    states = {
        record["dataset"]: (record["status"], record["message"])
        for record in shell.records("sync", "--dry-run")
    }
    assert states["demo:000003"] == ("ok", "would visit: changed upstream")
    assert states["demo:000001"] == ("notneeded", "unchanged")
    assert states["demo:000004"] == ("ok", "would visit: 1 file without checksum yet")
    assert folder_snapshot(shell.store) == before


def test_sync_says_what_is_new_and_then_that_nothing_is(shell: Shell, demo: DemoArchive) -> None:
    demo.reveal_sha256("000004", LATE)
    first = shell.run("sync")
    assert first.err == ""
    assert sorted(line.split()[1] for line in first.lines) == [
        f"demo:00000{n}" for n in (1, 2, 3, 4, 5, 7, 8)
    ]
    (two,) = [line for line in first.lines if "demo:000002" in line]
    assert re.fullmatch(r"ok +demo:000002  new: 0\.\d+\.\d+, 0\.\d+\.\d+, \S+Z", two)
    (five,) = [line for line in first.lines if "demo:000005" in line]
    assert re.fullmatch(r"ok +demo:000005  new: \S+Z", five)
    before = folder_snapshot(shell.store)
    assert shell.run("sync").out == "notneeded  7 datasets are unchanged\n"
    assert {record["status"] for record in shell.records("sync")} == {"notneeded"}
    assert shell.run("sync", "demo:000001").out == "notneeded  demo:000001  unchanged\n"
    assert folder_snapshot(shell.store) == before


def test_a_held_listing_is_exit_code_3_until_it_is_released(
    shell: Shell, demo: DemoArchive
) -> None:
    shell.run("sync", "demo:000003")
    for path in demo.paths("000003"):
        demo.remove_file("000003", path)
    line = shell.run("sync", "demo:000003", code=3).error_line
    hold = re.search(r"neuromirror release ([0-9a-f]+)", line)
    assert line.startswith("impossible demo:000003  ")
    assert hold
    (held,) = shell.records("holds", code=3)
    assert (held["hold"], held["dataset"]) == (hold[1], "demo:000003")
    assert hold[1] in shell.run("holds", code=3).lines[1]
    assert "neuromirror holds" in shell.run("status", code=3).out
    (second,) = shell.records("sync", "demo:000003", code=3)
    assert second["status"] == "impossible"
    output = shell.run("release", hold[1][:4]).out
    assert output.endswith("neuromirror sync demo:000003\n")
    assert shell.records("holds") == []
    assert "ok" in shell.run("sync", "demo:000003").out
    assert shell.records("show", "demo:000003")[0]["files"] == 0


def test_check_config_names_every_wrong_file_at_once(
    shared_demo: DemoArchive, tmp_path: Path
) -> None:
    shell = Shell(tmp_path / "mirrors", tmp_path / "store")
    for name, content in {
        "good": api_mirror_settings(shared_demo.api_url),
        "syntax": 'source = "dandi\n',
        "kind": 'source = "dropbox"\n',
        "option": api_mirror_settings("https://example.org/api", "pagesize = 5"),
        "Upper_Case": 'source = "dandi"\n',
    }.items():
        write_mirror_file(shell.mirrors, name, content)
    ended = shell.run("check-config", code=2)
    (valid,) = ended.lines
    assert valid.split()[:2] == ["ok", "good:"]
    assert f"{shared_demo.api_url}/" in valid.split()
    named = [line.split(".toml")[0].rpartition("/")[2] for line in ended.err.splitlines()]
    assert sorted(named) == ["Upper_Case", "kind", "option", "syntax"]
    statuses = [record["status"] for record in shell.records("check-config", code=2)]
    assert sorted(statuses) == [*["error"] * 4, "ok"]
    assert not shell.store.exists()
