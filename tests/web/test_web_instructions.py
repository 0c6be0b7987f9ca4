"""Each command of each page works as pasted, in an empty folder with an empty HOME."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.lab.lockfile import load_lock
from support.running_catalogue import RunningCatalogue, allow_loopback, commands, links
from support.volume_archives import EM, LAYER

NAME = "demo:000002@0.240301.1055"
ALIAS = "demo--000002"
FILE = "sub-201/sub-201_ses-01_ecephys.nwb"
PAGES = {
    "dataset": "/dataset/demo:000002",
    "version": f"/dataset/{NAME}",
    "file": f"/file/{NAME}?path={FILE}",
    "lock": f"/lock?add={NAME}&add=demo:000001@latest",
}
NEEDED = {"restore command": "pin command"}
"""The box that has to be run first, in the same folder."""
PROGRAMS = {"aria2 commands": "aria2c", "wget commands": "wget", "curl commands": "curl"}


@dataclass(frozen=True)
class Box:
    """A copy box: what it has, and its text."""

    what: str
    text: str

    @property
    def is_shell(self) -> bool:
        """Whether the text is for a shell."""
        return self.what.endswith(("command", "commands"))


def boxes(page: str) -> list[Box]:
    found = re.findall(r'data-what="([^"]*)"><pre>(.*?)</pre>', page, flags=re.DOTALL)
    return [Box(html.unescape(what), html.unescape(text)) for what, text in found]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder, an empty HOME and no configuration of git.

    The archives of the test are on this machine, which git-annex has to be allowed to ask.
    """
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    allow_loopback(monkeypatch)
    monkeypatch.chdir(folder)
    return folder


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (argv, done.stdout + done.stderr)
    return done.stdout


def call(*arguments: str, code: int = 0) -> None:
    """Run neuromirror in this process."""
    done = CliRunner().invoke(main, arguments, prog_name="neuromirror", catch_exceptions=False)
    assert done.exit_code == code, done.output


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *(
            (kind, what)
            for kind in ("dataset", "version")
            for what in (
                "neuromirror get command",
                "DataLad commands",
                "neuromirror clone commands",
                "restore command",
                "curl commands",
                "aria2 commands",
                "wget commands",
            )
        ),
        *(("file", one) for one in ("curl command", "neuromirror get command")),
        *(
            ("lock", one)
            for one in (
                "pin and restore commands",
                "curl commands",
                "aria2 commands",
                "wget commands",
            )
        ),
    ],
)
def test_a_command_puts_the_files_into_an_empty_folder(
    site: RunningCatalogue, empty: Path, kind: str, what: str
) -> None:
    if shutil.which(PROGRAMS.get(what, "sh")) is None and not os.environ.get("CI"):
        pytest.skip(f"{PROGRAMS[what]} is not installed")
    found = boxes(site.page(PAGES[kind]))
    (box,) = [one for one in found if one.what == what]
    if kind == "version" and box in boxes(site.page(PAGES["dataset"])):
        return  # tried as a command of the dataset
    for one in found:
        if one.what == NEEDED.get(what):
            run("sh", "-ec", one.text)
    run("sh", "-ec", box.text)
    listed = {one["path"]: one for one in site.api(f"/datasets/{NAME}/files")["files"]}
    for path in [FILE] if kind == "file" else listed:
        found_files = [one for one in empty.rglob(Path(path).name) if ".git" not in one.parts]
        assert {file.stat().st_size for file in found_files} == {listed[path]["size"]}
    if (empty / "datasets.lock").exists():
        (pin, *_) = load_lock(empty / "datasets.lock").datasets
        assert pin.version == NAME


@pytest.mark.parametrize("kind", PAGES)
def test_every_command_of_a_page_is_tried_above(site: RunningCatalogue, kind: str) -> None:
    marks = test_a_command_puts_the_files_into_an_empty_folder.pytestmark  # type: ignore[attr-defined]
    tried = {what for page, what in marks[0].args[1] if page == kind}
    tried |= {NEEDED[what] for what in tried & NEEDED.keys()}
    assert {box.what for box in boxes(site.page(PAGES[kind])) if box.is_shell} == tried


def test_a_lock_file_without_its_manifests_is_restored_and_can_be_verified_later(
    site: RunningCatalogue, empty: Path
) -> None:
    page = site.page(PAGES["lock"])
    (address,) = [link for link in links(page) if link.startswith("/lock/datasets.lock?")]
    (empty / "datasets.lock").write_bytes(site.get(address).content)
    call("restore", "datasets.lock", "--into", "data")
    assert (empty / "data" / ALIAS / FILE).is_file()
    (command,) = re.findall(r"<code>(neuromirror verify [^<]*)</code>", page)
    run("sh", "-ec", html.unescape(command))


def test_pins_of_a_catalogue_are_added_to_a_lock_file(site: RunningCatalogue, empty: Path) -> None:
    first, other = (f"{site.address}/dataset/{one}" for one in (NAME, "demo:000001"))
    call("pin", first)
    before = (empty / "datasets.lock").read_bytes()
    call("pin", first)
    assert (empty / "datasets.lock").read_bytes() == before
    call("pin", other, "--path", "sub-101")
    lock = load_lock(empty / "datasets.lock")
    assert [dataset.name for dataset in lock.datasets] == ["demo:000002", "demo:000001"]
    assert lock.datasets[1].paths == ("sub-101",)
    assert all(lock.manifest_path(dataset).is_file() for dataset in lock.datasets)
    call("pin", f"{site.address}/dataset/demo:000002@0.240301.1026")
    assert len(list((empty / "datasets.lock.d" / ALIAS).iterdir())) == 1


def test_the_python_lines_work(site: RunningCatalogue, empty: Path) -> None:
    (code,) = [one for one in commands(site.page(PAGES["version"])) if one.startswith("import")]
    assert len(code.splitlines()) == 3
    shown = run(sys.executable, "-c", f"{code}\nprint(json.dumps(files))")
    assert json.loads(shown) == site.api(f"/datasets/{NAME}/files?limit=1000")["files"]
    assert os.listdir(empty) == []
    (code,) = [one for one in commands(site.page(PAGES["file"])) if one.startswith("import")]
    run(sys.executable, "-c", code)
    assert os.listdir(empty) == [Path(FILE).name]


def code_of(site: RunningCatalogue, start: str) -> str:
    found = commands(site.page(PAGES["version"]))
    (code,) = [one for one in found if one.startswith(start)]
    return code


@pytest.mark.parametrize("start", ["reply = jsondecode(webread(", "files <- jsonlite::fromJSON("])
def test_the_address_in_other_languages_has_the_files(site: RunningCatalogue, start: str) -> None:
    address = code_of(site, start).replace('"', "'").split("'")[1]
    assert site.get(address).json()["files"]


VOLUME_PAGES = {
    "dataset": f"/dataset/{EM}",
    "volume": f"/volume/{EM}@latest?level=2",
    "layer": f"/volume/demo-precomputed:{LAYER}@latest?level=1",
}


@pytest.mark.parametrize(
    ("kind", "what", "made"),
    [
        ("dataset", "neuromirror get command", 42),
        ("dataset", "DataLad commands", 42),
        ("layer", "layer commands", 12),
    ],
)
def test_a_command_for_a_volume_works_in_an_empty_folder(
    volume_site: RunningCatalogue, empty: Path, kind: str, what: str, made: int
) -> None:
    found = boxes(volume_site.page(VOLUME_PAGES[kind]))
    for one in found:
        if one.what == NEEDED.get(what):
            run("sh", "-ec", one.text)
    (box,) = [one for one in found if one.what == what]
    run("sh", "-ec", box.text)
    files = [
        one
        for one in empty.rglob("8_8_40/*" if kind == "layer" else "[0-9]/c/*/*/*")
        if one.is_file() and ".git" not in one.relative_to(empty).parts
    ]
    assert len(files) == made


@pytest.mark.parametrize("kind", VOLUME_PAGES)
def test_every_command_for_a_volume_is_tried_above(
    volume_site: RunningCatalogue, kind: str
) -> None:
    marks = test_a_command_for_a_volume_works_in_an_empty_folder.pytestmark  # type: ignore[attr-defined]
    tried = {what for page, what, _ in marks[0].args[1] if page == kind}
    if kind == "dataset":  # tried with datasets of files
        tried |= {"neuromirror clone commands", "pin command", "restore command"}
    if kind == "volume":  # tried in test_web_volumes, where its file is that of the page
        tried |= {"export commands"}
    assert {
        box.what for box in boxes(volume_site.page(VOLUME_PAGES[kind])) if box.is_shell
    } == tried
