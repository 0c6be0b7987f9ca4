"""Files that ``get`` leaves to git-annex."""

import shutil
import sys
from pathlib import Path

import pytest

from neuromirror.transfer import get
from neuromirror.transfer.annex_branch import AnnexSettings
from support.web_clone import WebClone, git, missing, temporary_files

SMALL = "small/1.dat"


def configure(world: WebClone, name: str, value: str) -> None:
    git(world.clone, "config", name, value)


def other_clone(world: WebClone, *paths: str) -> Path:
    """Return another clone that has files, and is a remote of this one."""
    origin = git(world.clone, "config", "remote.origin.url").strip()
    other = world.folder / "other"
    git(world.folder, "clone", "-q", origin, str(other))
    assert all(one.status == "ok" for one in get(other, list(paths)))
    git(world.clone, "remote", "add", "other", str(other))
    git(world.clone, "fetch", "-q", "other")
    # git-annex stores the remote's UUID
    world.annex("info", "--fast", "other")
    return other


def test_remotes_and_the_web_are_tried_in_the_order_of_their_costs(web_clone: WebClone) -> None:
    dearer, ignored, lost = (f"small/{number}.dat" for number in (2, 3, 4))
    other = other_clone(web_clone, SMALL, dearer, ignored, lost)
    web_clone.web.requests.clear()
    got = web_clone.get(SMALL)
    assert (got[SMALL].status, got[SMALL].message) == ("ok", "by git-annex")
    assert web_clone.web.requests == []
    assert web_clone.has_content(SMALL)
    configure(web_clone, "remote.other.annex-cost", "900")
    for path in (dearer, lost):
        web_clone.web.faults[web_clone.url_path(path)] = [missing]
    got = web_clone.get(dearer)
    assert (got[dearer].status, got[dearer].message) == ("ok", "by git-annex")
    shutil.rmtree(other / ".git")
    message = web_clone.get(lost)[lost].message
    assert "404" in message
    assert "git annex get" in message
    configure(web_clone, "remote.other.annex-cost", "100")
    configure(web_clone, "remote.other.annex-ignore", "true")
    assert web_clone.get(ignored)[ignored].url is not None


def test_an_unsupported_url_scheme_is_left_to_git_annex(web_clone: WebClone) -> None:
    key = web_clone.files["nowhere.dat"].key
    web_clone.annex("registerurl", key, "ftp://127.0.0.1:9/nowhere")
    message = web_clone.get("nowhere.dat")["nowhere.dat"].message
    assert "git annex get" in message


def test_an_unlocked_file_gets_its_content_and_stays_unmodified(web_clone: WebClone) -> None:
    web_clone.annex("unlock", "small/1.dat", "twice.dat")
    git(web_clone.clone, "commit", "-q", "-m", "unlocked")
    # small/0.dat and twice.dat have one key
    got = web_clone.get("small/0.dat", "small/1.dat", "small/2.dat")
    assert {path: one.message for path, one in got.items()} == {
        "small/0.dat": "by git-annex",
        "small/1.dat": "by git-annex",
        "small/2.dat": "",
    }
    assert all(map(web_clone.has_content, (*got, "twice.dat")))
    assert not (web_clone.clone / "small/1.dat").is_symlink()
    assert git(web_clone.clone, "status", "--porcelain") == ""


def test_an_adjusted_branch_is_left_to_git_annex(web_clone: WebClone) -> None:
    web_clone.annex("adjust", "--unlock")
    got = web_clone.get("small")
    assert {(one.status, one.message) for one in got.values()} == {("ok", "by git-annex")}
    assert all(web_clone.has_content(path) for path in got)


def test_insecure_hashes_are_refused_with_securehashesonly(web_clone: WebClone) -> None:
    configure(web_clone, "annex.securehashesonly", "true")
    got = web_clone.get("small/1.dat", "kinds/MD5", "kinds/etag", "kinds/SHA512")
    assert {path: one.status for path, one in got.items()} == {
        "small/1.dat": "ok",
        "kinds/SHA512": "ok",
        "kinds/MD5": "error",
        "kinds/etag": "error",
    }
    assert "securehashesonly" in got["kinds/MD5"].message


def test_a_program_that_freezes_contents_is_run_for_each(web_clone: WebClone) -> None:
    program = f"echo %path >> {web_clone.folder}/frozen"
    git(web_clone.clone, "config", "--global", "annex.freezecontent-command", program)
    got = web_clone.get("small/1.dat", "small/2.dat")
    assert {one.message for one in got.values()} == {"by git-annex"}
    assert (web_clone.folder / "frozen").read_text().count("SHA256E") >= 2


def test_without_git_annex_the_rest_is_fetched_and_the_reason_reported(
    web_clone: WebClone, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_clone(web_clone, SMALL)
    bare = web_clone.folder / "bin"
    bare.mkdir()
    for name in ("git",):
        found = shutil.which(name)
        assert found is not None
        (bare / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.setattr(sys, "executable", str(bare / "python"))
    got = web_clone.get(SMALL, "small/2.dat")
    assert got["small/2.dat"].status == "ok"
    assert "not installed" in got[SMALL].message
    assert temporary_files(web_clone.clone) == []


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("100 megabytes", 100 * 1000**2),
        ("1.5GB", 1_500_000_000),
        ("2 GiB", 2 * 1024**3),
        ("3 mebibytes", 3 * 1024**2),
        ("10k", 10_000),
        ("4096", 4096),
        ("1 petabyte", 1000**5),
        ("nonsense", 100_000_000),
    ],
)
def test_sizes_are_read_as_git_annex_reads_them(value: str, size: int) -> None:
    assert AnnexSettings({"annex.diskreserve": [value]}).disk_reserve == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("annex.crippledfilesystem", "true"),
        ("annex.pidlock", "yes"),
        ("annex.tune.objecthash1", "true"),
        ("annex.web-options", "--netrc"),
        ("annex.http-headers-command", "cat headers"),
        ("annex.bwlimit", "1MiB/s"),
        ("annex.thawcontent-command", "chmod +w %path"),
        ("annex.version", "11"),
        ("core.symlinks", "false"),
        ("extensions.objectformat", "sha256"),
        ("core.sharedrepository", "group"),
    ],
)
def test_unsupported_settings_leave_all_files_to_git_annex(name: str, value: str) -> None:
    plain = {"annex.version": ["10"], "annex.uuid": ["x"], "annex.pidlock": ["false"]}
    assert AnnexSettings(plain).delegation_reason() is None
    why = AnnexSettings({**plain, name: [value]}).delegation_reason()
    assert why is not None
