"""``neuromirror clone``, and ``get`` of an address: from an address to verified files."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from neuromirror.lab.clone import move_file
from neuromirror.store import SafeFolder, Store
from neuromirror_demo import DemoArchive
from neuromirror_demo.archive_contents import ZARR, zarr_entries
from support.command_shell import Shell, api_mirror_settings, write_mirror_file
from support.running_catalogue import run_catalogue

NAME = "demo:000002"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a new empty folder."""
    made = tmp_path / "work"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def files_of(shell: Shell) -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in shell.records("files", NAME) if one["type"] == "file"}


def has_content(path: Path, record: dict[str, Any]) -> bool:
    """Return whether a file has the size, and the sha256 if one is recorded."""
    data = path.read_bytes()
    sha256 = record.get("digests", {}).get("sha256") or record.get("sha256")
    is_right = sha256 is None or hashlib.sha256(data).hexdigest() == sha256.removeprefix("sha256:")
    return len(data) == record["size"] and is_right


def test_clone_mirrors_what_is_missing_and_gets_what_is_selected(
    shell: Shell, demo: DemoArchive, folder: Path
) -> None:
    done = shell.records("clone", NAME, "--get", "**/*.nwb")
    clone = folder / "000002"
    assert done[0]["path"] == str(clone)
    files = files_of(shell)
    chosen = [path for path in files if path.endswith(".nwb")]
    assert chosen
    for path, record in files.items():
        present = (clone / path).exists()
        assert present == (path in chosen) or not (clone / path).is_symlink()
        assert path not in chosen or has_content(clone / path, record)
    shell.run("verify", str(clone), "--allow-missing")
    shell.run("clone", NAME, code=2)


def test_a_path_in_an_address_is_fetched(copied: Shell, folder: Path) -> None:
    files = files_of(copied)
    path = next(file for file in files if "/" in file)
    copied.run("clone", f"https://m.example.org/file/{NAME}?path={path}", "mine")
    assert has_content(folder / "mine" / path, files[path])
    others = [file for file in files if file != path and (folder / "mine" / file).is_symlink()]
    assert not any((folder / "mine" / one).exists() for one in others)
    # from outside of the clone
    other = next(iter(others))
    copied.run("get", str(Path("mine") / other))
    assert has_content(folder / "mine" / other, files[other])


def test_get_of_an_address_makes_plain_verified_files(
    shell: Shell, demo: DemoArchive, folder: Path
) -> None:
    shell.records("get", f"{demo.api_url}/dandisets/000002/", "--into", "plain")
    files = files_of(shell)
    assert files
    for path, record in files.items():
        assert not (folder / "plain" / path).is_symlink()
        assert has_content(folder / "plain" / path, record)
    assert not list((folder / "plain").glob(".neuromirror-*"))
    assert not (folder / "plain" / ".git").exists()
    assert not list((folder / "plain").rglob(".neuromirror"))
    assert not list((folder / "plain").rglob(".datalad"))
    assert not list((folder / "plain").glob(".git*"))


def test_a_repeated_get_fetches_what_is_missing_or_different(copied: Shell, folder: Path) -> None:
    copied.run("get", NAME, "--into", "plain")
    files = files_of(copied)
    repeated = copied.records("get", NAME, "--into", "plain")
    present = {one["path"]: one["status"] for one in repeated}
    assert set(present) > set(files)  # also documents of the archive, which are in git
    assert set(present.values()) == {"notneeded"}

    different, missing, obstructed = sorted(files)[:3]
    (folder / "plain" / missing).unlink()
    mine = (folder / "plain" / different).read_bytes()[:-1] + b"!"
    (folder / "plain" / different).write_bytes(mine)
    (folder / "plain" / obstructed).unlink()
    (folder / "plain" / obstructed).mkdir()
    kept = copied.records("get", NAME, "--into", "plain", code=1)
    changed = {different: "error", missing: "ok", obstructed: "error"}
    assert {one["path"]: one["status"] for one in kept} == present | changed
    assert (folder / "plain" / different).read_bytes() == mine
    assert has_content(folder / "plain" / missing, files[missing])

    replaced = copied.records("get", NAME, "--into", "plain", "--overwrite", code=1)
    changed = {different: "ok", obstructed: "error"}
    assert {one["path"]: one["status"] for one in replaced} == present | changed
    assert has_content(folder / "plain" / different, files[different])
    assert (folder / "plain" / obstructed).is_dir()
    assert not list((folder / "plain").glob(".neuromirror-*"))
    copied.run("get", "plain", "--overwrite", code=2)


def test_plain_files_are_written_through_no_symlink(copied: Shell, folder: Path) -> None:
    files = files_of(copied)
    top = next(file for file in sorted(files) if "/" in file).split("/")[0]
    victim = folder / "victim"
    victim.mkdir()
    (folder / "plain").mkdir()
    (folder / "plain" / top).symlink_to(victim)
    for options in ([], ["--overwrite"]):
        done = copied.records("get", NAME, "--into", "plain", *options, code=1)
        statuses = {one["path"]: one["status"] for one in done}
        assert set(statuses) >= set(files)
        for path, status in statuses.items():
            assert (status == "error") == path.startswith(f"{top}/")
        assert list(victim.iterdir()) == []
    (folder / "link").symlink_to(victim)
    for command in (["get", NAME, "--into"], ["clone", NAME]):
        for target in ("link", "link/new"):
            copied.records(*command, target, code=2)
            assert list(victim.iterdir()) == []
    # an absolute path is the user's choice
    copied.records("get", NAME, "--into", str(folder / "link"))
    assert has_content(victim / min(files), files[min(files)])


def test_files_with_the_same_content_are_separate_files(tmp_path: Path) -> None:
    clone = tmp_path / "scratch" / "clone"
    clone.mkdir(parents=True)
    (clone / "content").write_bytes(b"content")
    for name in ("a", "b"):
        (clone / name).symlink_to("content")
        move_file(clone, name, tmp_path / name, tmp_path)
    (tmp_path / "a").write_bytes(b"mine")
    assert (tmp_path / "b").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        move_file(clone, "b", tmp_path / "a", tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_path_of_a_thousand_folders_is_fetched(
    demo: DemoArchive, shell: Shell, folder: Path
) -> None:
    demo.add_file("000002", "d/" * 1100 + "f", b"deep")
    done = shell.records("get", f"{NAME}@draft", "--into", "plain")
    with SafeFolder.open_path(folder) as opened:
        left = [one.name for one in (folder / "plain").glob(".neuromirror-*")]
        # pytest could not remove it
        opened.remove_tree("plain")
    assert left == []
    assert {one["status"] for one in done} == {"ok"}


def test_files_of_a_subdataset_are_fetched(shell: Shell, folder: Path) -> None:
    settings = shell.mirrors / "demo.toml"
    settings.write_text(f"{settings.read_text()}\n[zarr]\ninline_components = 0\n")
    done = shell.records("clone", "demo:000005", "--get", f"{ZARR}/0/1", "--get", "*.txt", code=1)
    clone = folder / "000005"
    assert (clone / ZARR / ".git").exists()
    chosen = {one["path"] for one in done if one["status"] == "ok" and one.get("key")}
    assert chosen
    assert all(path.startswith(f"{ZARR}/0/1/") for path in chosen)
    entries = {f"{ZARR}/{path}": data for path, data in zarr_entries().items()}
    for path, data in entries.items():
        assert (clone / path).exists() == (path in chosen)
        assert path not in chosen or (clone / path).read_bytes() == data
    assert [one["path"] for one in done if one["status"] == "impossible"] == ["*.txt"]
    # the same as plain files
    page = f"https://m.example.org/file/demo:000005?path={ZARR}"
    shell.run("get", page, "--into", "plain")
    written = {one for one in (folder / "plain").rglob("*") if one.is_file()}
    assert {str(one.relative_to(folder / "plain")) for one in written} == set(entries)
    # the text output does not repeat one cause for every file
    whole = folder / "plain" / ZARR / ".zgroup"
    changed = written - {whole}
    for one in changed:
        one.write_bytes(b"mine")
    failed = shell.run("get", page, "--into", "plain", code=1)
    assert "1 already present" in failed.out
    assert 0 < len(failed.err.splitlines()) < len(changed)
    assert {one.read_bytes() for one in changed} == {b"mine"}
    shell.run("get", page, "--into", "plain", "--overwrite")
    for path, data in entries.items():
        assert (folder / "plain" / path).read_bytes() == data


def test_a_catalogue_is_cloned_without_a_store(synced: Shell, folder: Path, tmp_path: Path) -> None:
    user = synced.with_changes(mirrors=tmp_path / "mirrors", store=tmp_path / "none")
    user.mirrors.mkdir()
    with run_catalogue(Store.open(synced.store)) as catalogue:
        user.run("clone", NAME, "--from", catalogue.address, "--get", "**/*.nwb")
        address = catalogue.address
        for arguments, reason in (
            (["demo:999999", "x", "--from", address], "demo:999999: there is no such dataset at"),
            ([f"{address}/dataset/{NAME}@9.9.9", "x"], f"{NAME}: there is no version 9.9.9 at"),
        ):
            error = user.run("clone", *arguments, code=1).error_line
            assert f"{reason} {address}" in error
            assert "fatal" not in error
    error = user.run("clone", NAME, "x", "--from", address, code=1).error_line
    assert f"{address}/ cannot be reached: Failed to connect" in error
    files = files_of(synced)
    chosen = [path for path in files if path.endswith(".nwb")]
    assert chosen
    for path in chosen:
        assert has_content(folder / "000002" / path, files[path])
    assert not user.store.exists()


def test_a_failed_clone_leaves_no_new_store(
    shell: Shell, folder: Path, closed_port: int, no_waits: None
) -> None:
    settings = api_mirror_settings(f"http://127.0.0.1:{closed_port}/api")
    write_mirror_file(shell.mirrors, "away", settings)
    for arguments in (["clone", "away:000001"], ["get", "away:000001"]):
        assert "Connection refused" in shell.run(*arguments, code=1).err
        assert not shell.store.exists()
        assert list(folder.iterdir()) == []
    # a store that has a dataset stays, and records the failure
    shell.run("sync", NAME)
    shell.run("clone", "away:000001", code=1)
    assert "Connection refused" in shell.run("status", code=1).err
    assert shell.records("versions", NAME)


def test_a_wrong_url_or_address_is_refused(copied: Shell, folder: Path) -> None:
    for url in ("file:///etc", "ext::sh -c id", "ftp://example.org", "https://u:p@example.org"):
        copied.records("clone", NAME, "--from", url, code=2)
    copied.records("clone", "dmeo:000002", code=2)
    copied.records("clone", f"{NAME}@9.9.9", code=2)
    label = copied.records("versions", NAME)[0]["version"]
    for command in ("clone", "get"):
        for wrong, meant in (("dmeo:00002", NAME), (f"{NAME}@v{label}", f"{NAME}@{label}")):
            failed = copied.records(command, wrong, code=2)[-1]
            assert failed["suggestions"] == [meant]
    assert not (folder / "000002").exists()
