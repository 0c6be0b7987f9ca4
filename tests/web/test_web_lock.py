"""Lock files of versions that a visitor collects in a URL, and lists of their files."""

import io
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from neuromirror.lab.lockfile import load_lock, parse_lock
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, commands, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness

ONE, OTHER = "demo:000002@0.240301.1055", "demo:000001@latest"
HOSTILE = "<script>alert(1)</script>"


def test_the_lock_file_is_the_one_that_pin_writes(
    site: RunningCatalogue, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    sent = site.get(f"/lock/datasets.lock?add={ONE}")
    assert sent.headers["content-disposition"] == 'attachment; filename="datasets.lock"'
    shell = Shell(demo_harness.mirrors, demo_harness.store.root)
    local = tmp_path / "datasets.lock"
    shell.run("pin", ONE, "-o", str(local), "--clone", f"ria+{site.address}")
    assert sent.content == local.read_bytes()
    archive = zipfile.ZipFile(io.BytesIO(site.get(f"/lock/datasets.lock.zip?add={ONE}").content))
    made = {one.relative_to(tmp_path).as_posix(): one for one in tmp_path.rglob("*.zst")}
    assert set(archive.namelist()) == {"datasets.lock", *made}
    for name, path in made.items():
        assert archive.read(name) == path.read_bytes()


def test_a_later_version_replaces_one_of_the_same_dataset(site: RunningCatalogue) -> None:
    reply = site.get(f"/lock/datasets.lock?add=demo:000002@draft&add={ONE}")
    (pin,) = parse_lock(Path("datasets.lock"), reply.content).datasets
    assert pin.version == ONE


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?add=demo:999999@1", 404),
        ("?add=demo:000002@9.9.9", 404),
        ("?add=nowhere", 404),
        (f"?add={quote(HOSTILE)}", 404),
        (f"?add={ONE}&path=nothing.nwb", 400),
        ("?" + "&".join(f"add=demo:{number:06}" for number in range(60)), 400),
    ],
)
def test_what_cannot_be_locked_is_an_error_page(
    site: RunningCatalogue, query: str, status: int
) -> None:
    for file in ("datasets.lock", "datasets.lock.zip", "files.curl"):
        page = site.page(f"/lock/{file}{query}", status)
        assert "<script>alert" not in page
        assert "Traceback" not in page


def test_paths_limit_the_lock(site: RunningCatalogue, tmp_path: Path) -> None:
    path = tmp_path / "datasets.lock"
    path.write_bytes(site.get(f"/lock/datasets.lock?add={ONE}&path=sub-201").content)
    (pin,) = load_lock(path).datasets
    assert (pin.paths, pin.files) == (("sub-201",), 2)


def test_files_without_sha256_are_checked_by_their_md5(box: ScriptedHarness) -> None:
    box.datasets["some"] = ScriptedDataset({"a.txt": ScriptedFile(b"a")})
    box.sync()
    with run_catalogue(box.store) as catalogue:
        md5 = "0cc175b9c0f1b6a831c399e269772661"
        listed = catalogue.get("/lock/files.md5?add=box:some").text
        assert listed == f"{md5}  box--some/a.txt\n"
        assert catalogue.get("/lock/files.sha256?add=box:some").text == ""
        (curl,) = [
            command
            for command in commands(catalogue.page("/dataset/box:some@latest"))
            if "curl --parallel" in command
        ]
        assert "files.md5" in curl
        assert "files.sha256" not in curl
