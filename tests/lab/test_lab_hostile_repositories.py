"""Every command that works in a repository refuses one with settings of others."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import neuromirror
from neuromirror.model import ConfigurationError
from neuromirror.store import UnsafePathError
from neuromirror.transfer.repository_check import RepositoryRefusedError
from support.lab_store import LabStore
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run
from support.web_clone import FaultyWebServer


def _configured(name: str, value: str) -> Callable[[Path, str], object]:
    return lambda folder, program: run(
        folder, "git", "config", name, value.replace("PROGRAM", program)
    )


def _beside(folder: Path, program: str) -> None:
    beside = folder.parent.parent / "evil.git"
    run(folder, "git", "init", "-q", "--bare", str(beside))
    run(beside, "git", "config", "annex.freezecontent-command", program)
    run(folder, "git", "config", "remote.x.url", str(beside))


def _annex_elsewhere(folder: Path, program: str) -> None:
    annex, away = folder / ".git/annex", folder.parent.parent / "away"
    annex.rename(away)
    annex.symlink_to(away)


def _gitfile(folder: Path, program: str) -> None:
    (folder / ".git").rename(folder.parent / "elsewhere")
    (folder / ".git").write_text("gitdir: ../elsewhere\n")


HOSTILE: dict[str, Callable[[Path, str], object]] = {
    "core.fsmonitor": _configured("core.fsmonitor", "PROGRAM"),
    "wrong bytes": _configured("annex.verify", "false"),
    "any address": _configured("annex.security.allowed-ip-addresses", "all"),
    "beside": _beside,
    "annex elsewhere": _annex_elsewhere,
    "gitfile": _gitfile,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_restore_runs_nothing_of_a_repository_that_came_with_a_lock(
    restored_lock_folder: LockFolder, tmp_path: Path, name: str
) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    marker = tmp_path / "marker"
    HOSTILE[name](folder, f"touch {marker}; false")
    before = sorted(restored_lock_folder.folder.rglob("*"))
    with pytest.raises(ConfigurationError) as refused:
        restore_lock(restored_lock_folder.lock, restored_lock_folder.folder / "data")
    assert not marker.exists()
    assert sorted(restored_lock_folder.folder.rglob("*")) == before
    if name != "gitfile":
        assert isinstance(refused.value, (RepositoryRefusedError, UnsafePathError))


@pytest.mark.parametrize(
    ("name", "value"), [("annex.verify", "false"), ("annex.security.allowed-ip-addresses", "all")]
)
def test_settings_of_a_received_folder_bring_no_wrong_bytes_and_no_requests(
    restored_lock_folder: LockFolder, name: str, value: str
) -> None:
    """Its lists of URLs are of its sender too."""
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    whereis = run(folder, "git", "annex", "whereis", "--json").splitlines()[0]
    file = json.loads(whereis)
    (size,) = re.findall(r"-s(\d+)--", file["key"])
    if name != "annex.verify":
        run(folder, "git", "config", "--global", "--unset", "annex.security.allowed-ip-addresses")
    with FaultyWebServer(contents={"/other": b"x" * int(size)}) as server:
        for remote in file["whereis"]:
            for url in remote["urls"]:
                run(folder, "git", "annex", "unregisterurl", file["key"], url)
        run(folder, "git", "annex", "registerurl", file["key"], f"{server.url}/other")
        # git-annex itself gets the content
        run(folder, "git", "config", "core.sharedRepository", "group")
        run(folder, "git", "config", name, value)
        done = restored_lock_folder.command(
            "restore", str(restored_lock_folder.file), "--into", str(folder.parent)
        )
    assert not (folder / file["file"]).exists()
    assert server.requests == []
    assert done.exit_code == 2, done.output


def test_settings_that_run_nothing_are_the_owner_s(restored_lock_folder: LockFolder) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    for name, value in (
        ("user.email", "me@neuromirror.invalid"),
        ("remote.gin.url", "git@gin.g-node.org:/me/data.git"),
        ("remote.gin.annex-ignore", "true"),
        ("remote.disk.url", "/elsewhere/copy.git"),
    ):
        run(folder, "git", "config", name, value)
    found = restore_lock(restored_lock_folder.lock, folder.parent, offline=True)
    assert found.only().status == "notneeded"


@pytest.mark.parametrize(
    ("name", "value"),
    [("core.fsmonitor", "PROGRAM"), ("remote.x.promisor", "true"), ("http.proxy", "http://[::1]")],
)
def test_every_command_refuses_it_in_one_line(
    restored_lock_folder: LockFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    marker = tmp_path / "marker"
    _configured(name, value)(folder, f"touch {marker}; false")
    monkeypatch.chdir(folder)
    clone = str(folder)
    for arguments in (
        ("get",),
        ("restore", str(restored_lock_folder.file), "--into", str(folder.parent)),
        ("verify", clone),
        ("digest", clone),
        ("cite", clone),
        ("diff", clone, clone),
        ("pin", "-o", "new.lock", clone),
    ):
        done = restored_lock_folder.command(*arguments)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), (arguments, done.output)
        assert f"{name!r}" in done.stderr
        assert "git clone" in done.stderr
    with pytest.raises(RepositoryRefusedError):
        neuromirror.open(clone, "dataset_description.json")
    done = restored_lock_folder.command(
        "verify", str(restored_lock_folder.file), "--in", str(folder.parent)
    )
    assert (done.exit_code, "git clone" in done.output) == (2, True)
    assert not marker.exists()


def test_a_store_beside_the_lock_is_an_origin(still_lab: LabStore, tmp_path: Path) -> None:
    paper = LockFolder(
        still_lab.mirror_harness, still_lab.mirror_harness.folder.parent, f"{tmp_path.name}.lock"
    )
    paper.pin(PUBLISHED)
    for status in ("ok", "notneeded"):
        found = restore_lock(
            paper.lock, tmp_path / "data", still_lab.mirror_harness.store, offline=True
        )
        assert found.only().status == status
