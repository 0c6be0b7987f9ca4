"""Every command of the tutorial and every example of the page on Python works as shown."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from neuromirror import lab
from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.documented_commands import DOCS, Step, blocks, check_output
from support.terminal import Terminal, matches, neighbouring_ports

PORTS = ("8765", "8766")


def steps(mark: str) -> list[Step]:
    """Return the commands of all blocks with a mark before them."""
    return [
        step
        for block in blocks("tutorial.md")
        if (block.mark, block.language) == (mark, "console")
        for step in block.steps()
    ]


@contextmanager
def archive(command: str, folder: Path) -> Iterator[str]:
    """The server of the first terminal, ended as the tutorial says; gives what it printed."""
    with subprocess.Popen(
        f"exec {command}", shell=True, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=600) == 0


def test_every_command_of_the_tutorial_gives_what_it_shows(
    tmp_path: Path, demo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the archive need not write its NWB files again
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "cache").symlink_to(demo_files)
    (tmp_path / "demo" / ".neuromirror-demo").touch()
    # a user has no settings and no git identity: those of the demo must do
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    port = neighbouring_ports(5)

    def substitute(text: str) -> str:
        # the id of a dataset depends on its archive's address, and so on the port
        text = re.sub(r"(?<=dataset id   )\S+", "…", text)
        for number, placeholder in enumerate(PORTS):
            text = text.replace(placeholder, str(port + number))
        return text

    (server,) = steps("first terminal")
    typed = steps("")
    assert len(typed) > 20
    with archive(substitute(server.command), tmp_path) as announced:
        json.loads(announced)
        assert matches(tuple(map(substitute, server.shown)), [announced.rstrip("\n")]), announced
        with closing(Terminal(tmp_path)) as terminal:
            for step in typed:
                check_output(terminal, substitute(step.command), tuple(map(substitute, step.shown)))


def test_the_tutorial_marks_what_is_not_run() -> None:
    assert {block.mark for block in blocks("tutorial.md")} == {"", "not run", "first terminal"}
    for step in steps("not run"):
        if step.command.startswith("neuromirror"):
            assert "dandi" in step.command


def test_mirror_files_in_the_docs_are_right(tmp_path: Path) -> None:
    from neuromirror.config.mirror_files import load_mirror

    found = [block.body for block in blocks("reference/mirrors.md") if block.language == "toml"]
    assert len(found) >= 3
    for body in found:
        (tmp_path / "one.toml").write_text(body, "utf-8")
        assert load_mirror(tmp_path / "one.toml").open().uri.startswith("https://")


def test_every_setting_is_explained() -> None:
    schema = json.loads((DOCS / "reference" / "mirror.schema.json").read_text("utf-8"))
    page = (DOCS / "reference" / "mirrors.md").read_text("utf-8")
    names = set(schema["properties"])
    for table in ("GuardSettings", "NetSettings", "ZarrLimits"):
        names |= set(schema["$defs"][table]["properties"])
    for one in schema["allOf"]:
        names |= set(one["then"]["properties"]["options"]["properties"])
    assert len(names) >= 11
    assert {
        name for name in names if f"`{name}`" not in page and f"`[{name}]`" not in page
    } == set()


def test_the_output_in_the_readme_is_that_of_the_tutorial() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```console\n(.*?)^```$", readme, re.M | re.S)
    lines = (DOCS / "tutorial.md").read_text("utf-8").splitlines()
    assert [line for line in block.splitlines() if line not in lines] == []


PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def python_blocks() -> list[str]:
    return _BLOCK.findall(PAGE.read_text("utf-8"))


@pytest.fixture
def folder(shared_demo: DemoArchive, tmp_path: Path) -> Path:
    """The folder of the tutorial, as far as these examples need it."""
    store = Store.open(tmp_path / "store", create=True)
    requests = parse_sync_requests(
        ["demo:000002", "demo:000005"], load_mirrors(shared_demo.mirrors)
    )
    done = list(Sync(store, store.index_path).results(requests))
    assert {one.status for one in done} == {"ok"}
    return tmp_path


def test_the_examples_of_the_page_run_in_order(folder: Path) -> None:
    code = "\n".join(python_blocks())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout
    assert "demo:000002@0.240301.1055 5 " in output
    assert "ok demo:000005 " in output
    assert "notneeded sub-201/" in output
    assert "removed sub-202/sub-202_ses-01_behavior.nwb" in output
    assert "@dataset{" in output
    assert "no.lock" in output


def test_the_page_shows_each_verb_and_names_only_what_there_is() -> None:
    text = PAGE.read_text("utf-8")
    imported = {
        name.strip()
        for line in re.findall(r"^from neuromirror\.lab import (.*)$", text, re.M)
        for name in line.split(",")
    }
    assert imported <= set(lab.__all__)
    assert {"pin", "restore", "get", "verify", "diff", "find_any", "cite"} <= imported
