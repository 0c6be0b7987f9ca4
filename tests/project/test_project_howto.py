"""Every command of the how-tos works, and gives what its page shows."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from neuromirror.cli import main
from neuromirror.sources import source_kinds
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from support.command_shell import Shell
from support.documented_commands import DOCS, blocks, not_run, run_page
from support.forge_server import Forge
from support.terminal import neighbouring_ports

ROOT = DOCS.parent
HOWTOS = sorted(
    {path.name for path in (DOCS / "howto").glob("*.md")}
    - {
        "addresses.md",
        "datalad.md",
        "find.md",
        "install.md",
        "interchange.md",
        "private.md",
        "recipes.md",
        "takedown.md",
    }
    - {"watch.md"}  # tests/cli/test_cli_ci_examples.py runs its examples
    - {"gateway.md"}  # tests/web has its examples
    - {"stream.md", "zarr.md"}  # tests/stream has their examples
)
"""The pages that are typed from the first line to the last; the others have examples."""
DANDISET = {"000027": "000002", "0.210831.2033": "0.240301.1055", "sub-RAT123": "sub-201"}
PROJECT = {"Brain Wide": "Demo of Brain Wide"}
CHANNEL = {
    "kasthuri2015/ac4/em": "demo_cortex/sections/em",
    "kasthuri2015--ac4--em": "demo_cortex--sections--em",
}


@pytest.fixture(scope="module", name="archives")
def fixture_archives(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[dict[str, str]]:
    """Replacements in the project's mirror files, so that they point at demo archives."""
    folder = tmp_path_factory.mktemp("archives")
    with (
        DemoArchive(folder / "dandi", cache=demo_files, buckets=True) as dandi,
        DemoBoss(folder / "boss") as boss,
    ):
        assert dandi.buckets is not None
        buckets = dandi.buckets.addresses()
        endpoint = buckets["endpoint"]
        yield {
            "https://api.dandiarchive.org/api": dandi.api_url,
            'bucket = "aind-open-data"': f'bucket = "demo-aind-open-data"\nendpoint = "{endpoint}"',
            "https://api.allenneuraldynamics.org/v2/metadata_index/data_assets/find": buckets[
                "docdb"
            ]["v2"],
            "https://api.bossdb.io/v1": boss.addresses()["api"],
            "kasthuri2015/ac4/*": "demo_cortex/sections/*",
            "[2048, 2048, 64]": "[64, 64, 16]",
        }


@pytest.fixture
def checkout(archives: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with the mirror files named in the test's parameter."""
    folder = tmp_path / "checkout"
    (folder / "mirrors").mkdir(parents=True)
    for name in request.param:
        text = (ROOT / "mirrors" / f"{name}.toml").read_text("utf-8")
        for placeholder, replacement in archives.items():
            text = text.replace(placeholder, replacement)
        (folder / "mirrors" / f"{name}.toml").write_text(text, "utf-8")
    return folder


def sync_dandiset(checkout: Path) -> Shell:
    shell = Shell(checkout / "mirrors", checkout / "store")
    shell.run("sync", "dandi:000002")
    return shell


@pytest.mark.parametrize("checkout", [["dandi"]], indirect=True)
def test_mirroring_a_dandiset_goes_as_its_page_says(checkout: Path) -> None:
    run_page("dandiset.md", checkout, DANDISET)


@pytest.mark.parametrize("checkout", [["aind"]], indirect=True)
def test_mirroring_a_project_of_aind_goes_as_its_page_says(checkout: Path) -> None:
    run_page("aind.md", checkout, PROJECT)


@pytest.mark.parametrize("checkout", [["bossdb"]], indirect=True)
def test_mirroring_a_channel_goes_as_its_page_says(checkout: Path) -> None:
    run_page("boss.md", checkout, CHANNEL)


@pytest.mark.parametrize("checkout", [["dandi"]], indirect=True)
def test_a_paper_is_pinned_and_restored_as_the_pages_say(checkout: Path) -> None:
    sync_dandiset(checkout)
    dead_url = f"ria+http://127.0.0.1:{neighbouring_ports(1)}/"
    run_page("pin.md", checkout, {**DANDISET, "ria+https://mirror.example.org/": dead_url})
    # the reader of a paper has its repository, and no store
    (checkout / "store").rename(checkout / "gone")
    run_page("restore.md", checkout / "paper", DANDISET)


@pytest.mark.parametrize("checkout", [["dandi"]], indirect=True)
def test_a_papers_repository_lasts_as_the_pages_say(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_dandiset(checkout)
    run_page("paper.md", checkout, DANDISET)
    (checkout / "store").rename(checkout / "gone")
    # the files of a colleague: the same bytes, under other names
    copies = checkout / "reader" / "copies"
    copies.mkdir()
    for number, path in enumerate((checkout / "paper" / "data").rglob("sub-*/*.nwb")):
        shutil.copyfile(path, copies / f"file {number}.nwb")
    shutil.copyfile(
        checkout / "paper" / "data" / "dandi--000002" / "dataset notes.txt", copies / "notes.txt"
    )
    run_page("old-lock.md", checkout / "reader", DANDISET)

    anonymous = checkout / "gitconfig"
    anonymous.write_text(
        '[user]\n\tuseConfigOnly = true\n[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n',
        "utf-8",
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(anonymous))
    (checkout / "identity").mkdir()
    shutil.copy(checkout / "paper" / "datasets.lock", checkout / "identity")
    shutil.copytree(
        checkout / "paper" / "datasets.lock.d", checkout / "identity" / "datasets.lock.d"
    )
    run_page("identity.md", checkout / "identity", DANDISET)


@pytest.mark.parametrize("checkout", [["dandi"]], indirect=True)
def test_datasets_are_published_as_the_page_says(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_dandiset(checkout)
    monkeypatch.setenv("DATALAD_CREDENTIAL_LAB__FORGE_TOKEN", "token-of-the-test")
    with Forge(tmp_path / "forge", "token-of-the-test") as forge:
        run_page("publish.md", checkout, {**DANDISET, "https://forge.example.org": forge.url})
        assert {"lab/dandi", "lab/dandi--000002"} == set(forge.repositories)


@pytest.mark.parametrize("checkout", [["dandi"]], indirect=True)
def test_pins_are_kept_and_drilled_as_the_page_says(checkout: Path, tmp_path: Path) -> None:
    sync_dandiset(checkout)
    (checkout / "paper").mkdir()
    lock = checkout / "paper" / "datasets.lock"
    Shell(checkout / "mirrors", checkout / "store").run(
        "pin", "dandi:000002", "--output", str(lock)
    )
    run_page("keep.md", checkout, {"/archive/vault": f"{tmp_path}/vault"})


def test_how_tos_have_commands_that_exist_and_only_installations_are_not_run() -> None:
    for page in HOWTOS:
        assert any(block.language == "console" for block in blocks(f"howto/{page}")), page
        for argv in not_run(page):
            assert argv[:2] == ["pip", "install"], argv
        text = (DOCS / "howto" / page).read_text("utf-8")
        assert set(re.findall(r"`neuromirror ([a-z][a-z-]*)", text)) <= set(main.commands), page
        for block in blocks(f"howto/{page}"):
            if block.language == "toml" and not block.mark.endswith("pyproject.toml"):
                settings = tomllib.loads(block.body)
                assert settings.get("source", "shelf") in {*source_kinds(), "shelf"}


def test_every_how_to_is_typed_by_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in ROOT.glob("tests/project/test_*.py"))
    assert {page for page in HOWTOS if f'"{page}"' not in tests} == set()


PAGE = "source.md"


def test_the_example_package_is_installed_and_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(f"howto/{PAGE}"):
        if block.mark.startswith("file: shelf/"):
            path = tmp_path / "package" / block.mark.removeprefix("file: shelf/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.body, "utf-8")
    assert not_run(PAGE) == [["pip", "install", "./shelf"]]
    # what pip does, without its own start; dependencies are installed already
    subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('..')"],
        cwd=tmp_path / "package",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    folder = tmp_path / "work"
    folder.mkdir()
    typed = run_page(PAGE, folder, {"8900": str(neighbouring_ports(1))})
    assert "neuromirror sync shelf" in typed
