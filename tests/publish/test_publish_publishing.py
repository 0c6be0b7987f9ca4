"""Publishing repositories of a store to forges and git servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.annex import directory_vault_config
from neuromirror.cli import main
from neuromirror.crawl import open_recorder
from neuromirror.index import Index, Schedule
from neuromirror.mint import CustodyRemote
from neuromirror.model import VersionMinted
from neuromirror.service.housekeeping import (
    HousekeepingError,
    HousekeepingSettings,
    housekeeping_tasks,
)
from neuromirror.store import CUSTODY_BRANCH, Repository
from neuromirror.store.custody import publish_locations
from neuromirror.store.private_store import open_private_store
from neuromirror.store.repository import update_refs
from support.forge_server import OWNER, Forge
from support.mirror_harness import MirrorHarness, run_git
from support.ssh_server import ssh_server
from support.vaults import VAULT_UUID

TOKEN = "canary-5f1c2d"
DATASET = "demo:000002"
ALIAS = "demo--000002"


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A forge with an empty organization."""
    monkeypatch.setenv("DATALAD_CREDENTIAL_FORGE_TOKEN", TOKEN)
    with Forge(tmp_path / "forge", TOKEN) as running:
        yield running


@pytest.fixture
def publishing(copied_harness: MirrorHarness, tmp_path: Path) -> Publishing:
    """A store with the demo archive."""
    return Publishing(copied_harness, tmp_path / "siblings")


class Publishing:
    """Runs ``neuromirror publish`` on a store."""

    def __init__(self, mirror_harness: MirrorHarness, folder: Path) -> None:
        self.mirror_harness = mirror_harness
        self.store = mirror_harness.store
        self.folder = folder
        folder.mkdir()

    def add(self, name: str, **settings: Any) -> None:
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        (self.folder / f"{name}.toml").write_text("".join(lines))

    def run(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        result = self.invoke(*arguments)
        assert result.exit_code == code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def invoke(self, *arguments: str) -> Any:
        return CliRunner().invoke(
            main,
            [
                *("publish", "--json", "--store", str(self.store.root)),
                *("--siblings", str(self.folder), *arguments),
            ],
        )

    def refs(self, alias: str = ALIAS) -> dict[str, str]:
        return dict(self.store.repositories.aliases())[alias].refs()


def _add_disk(publishing: Publishing, **settings: Any) -> None:
    url = f"{publishing.folder.parent}/published/{{alias}}"
    publishing.add("disk", type="git", url=url, **settings)


def _add_own_commit(target: Path, branch: str) -> str:
    """Add a commit to a branch at a sibling, as somebody else does."""
    arguments = ["commit-tree", f"{branch}^{{tree}}", "-p", branch, "-m", "own"]
    commit = run_git(target, *arguments).strip()
    run_git(target, "update-ref", f"refs/heads/{branch}", commit)
    return commit


def _refs(repository: Path) -> dict[str, str]:
    return Repository(repository).refs()


def _add_forge(publishing: Publishing, forge: Forge, **settings: Any) -> None:
    given = {"type": "gitea", "api": forge.url, "owner": OWNER, "credential": "forge"}
    publishing.add("forge", **given | {"pause_seconds": 0} | settings)


def _clone(source: Path, target: Path) -> Any:
    """Clone a repository with DataLad, which the commands under test have imported."""
    from datalad import api

    return api.clone(str(source), target, result_renderer="disabled")


def test_a_dataset_is_created_on_a_forge_and_pushed_with_all_its_refs(
    publishing: Publishing, forge: Forge, tmp_path: Path
) -> None:
    _add_forge(publishing, forge, homepage="https://mirror.example.org/dataset/{name}")

    [done] = publishing.run(DATASET, "--to", "forge")

    assert done["status"] == "ok"
    assert done["created"]
    assert done["page"] == f"{forge.url}/{OWNER}/{ALIAS}"
    assert _refs(forge.git_dir(ALIAS)) == publishing.refs()
    made = forge.repositories[f"{OWNER}/{ALIAS}"]
    assert made["website"] == f"https://mirror.example.org/dataset/{DATASET}"
    assert made["topics"] == ["datalad", "neuroscience"]
    assert made["default_branch"] == "published"
    assert not made["private"]
    assert made["description"]
    # a reader of the forge gets the dataset, and its files from the archive
    clone = _clone(forge.git_dir(ALIAS), tmp_path / "clone")
    assert clone.get(".", result_renderer="disabled")


def test_an_unchanged_dataset_needs_no_request(publishing: Publishing, forge: Forge) -> None:
    _add_forge(publishing, forge)
    publishing.run(DATASET, "--to", "forge")
    count = len(forge.requests)

    [second] = publishing.run(DATASET, "--to", "forge")

    assert second["status"] == "notneeded"
    assert len(forge.requests) == count
    # without the record of what was published, the existing repository is used
    publishing.store.task_state_path("publish-forge").unlink()
    [third] = publishing.run(DATASET, "--to", "forge")
    assert (third["status"], third["created"]) == ("ok", False)
    assert _refs(forge.git_dir(ALIAS)) == publishing.refs()


def test_a_mirror_is_published_with_its_superdataset_and_subdatasets(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing)

    done = publishing.run("demo", "--to", "disk")

    aliases = {
        alias for alias, _ in publishing.store.repositories.aliases() if alias.startswith("demo")
    }
    assert {one["status"] for one in done} == {"ok"}
    assert {path.name for path in (tmp_path / "published").iterdir()} == aliases
    for alias in aliases:
        assert _refs(tmp_path / "published" / alias) == publishing.refs(alias)
    clone = _clone(tmp_path / "published" / "demo", tmp_path / "clone")
    # relative URLs of subdatasets hold at the sibling too
    clone.get("000002", get_data=False, result_renderer="disabled")
    assert (clone.pathobj / "000002" / ".datalad").exists()


def test_a_new_version_is_pushed_without_force(publishing: Publishing, tmp_path: Path) -> None:
    _add_disk(publishing)
    publishing.run(DATASET, "--to", "disk")
    target = tmp_path / "published" / ALIAS
    _add_own_commit(target, "main")
    before = _refs(target)

    [refused] = publishing.run(DATASET, "--to", "disk", "--check", code=1)

    assert refused["status"] == "error"
    assert _refs(target) == before
    failures = CliRunner().invoke(main, ["status", "--json", "--store", str(publishing.store.root)])
    assert failures.exit_code == 1
    assert '"publish disk"' in failures.stdout


def test_a_repository_is_created_over_ssh(
    publishing: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_server(tmp_path / "ssh") as server:
        monkeypatch.setenv("GIT_SSH_COMMAND", server.command)
        url = f"ssh://127.0.0.1:{server.port}{tmp_path}/with space/{{alias}}.git"
        publishing.add("server", type="git", url=url)

        [done] = publishing.run(DATASET, "--to", "server")
        [second] = publishing.run(DATASET, "--to", "server", "--check")

    assert done["created"]
    assert second["created"] is False
    assert _refs(tmp_path / "with space" / f"{ALIAS}.git") == publishing.refs()


def test_a_token_is_sent_to_the_host_of_the_api_only(
    publishing: Publishing, forge: Forge, tmp_path: Path
) -> None:
    with Forge(tmp_path / "other", "another") as other:
        forge.clone_host = other.url
        _add_forge(publishing, forge)

        [refused] = publishing.run(DATASET, "--to", "forge", code=1)

        assert refused["status"] == "error"
        assert not other.requests


def test_a_token_is_not_sent_to_the_forge_of_an_earlier_sibling_file(
    publishing: Publishing, forge: Forge, tmp_path: Path
) -> None:
    _add_forge(publishing, forge)
    publishing.run(DATASET, "--to", "forge")
    old = len(forge.requests)
    with Forge(tmp_path / "new", TOKEN) as new:
        _add_forge(publishing, new)

        [done] = publishing.run(DATASET, "--to", "forge")

        # nothing is known about the new forge
        assert done["status"] == "ok"
        assert done["created"]
        assert _refs(new.git_dir(ALIAS)) == publishing.refs()
    assert len(forge.requests) == old


def test_a_ref_with_commits_of_others_is_not_deleted(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing)
    publishing.run(DATASET, "--to", "disk")
    target = tmp_path / "published" / ALIAS
    foreign = _add_own_commit(target, "draft")
    repository = dict(publishing.store.repositories.aliases())[ALIAS]
    draft = repository.refs()["refs/heads/draft"]
    update_refs(repository.path, {"refs/heads/draft": draft}, {"refs/heads/draft": None})

    [refused] = publishing.run(DATASET, "--to", "disk", code=1)

    assert refused["status"] == "error"
    assert _refs(target)["refs/heads/draft"] == foreign
    # as it was pushed, it is deleted
    run_git(target, "update-ref", "refs/heads/draft", draft)
    publishing.run(DATASET, "--to", "disk")
    assert "refs/heads/draft" not in _refs(target)


def test_a_failure_at_one_sibling_is_not_cleared_by_another(
    publishing: Publishing, forge: Forge
) -> None:
    _add_disk(publishing)
    forge.token = "another"
    _add_forge(publishing, forge)
    publishing.run(DATASET, "--to", "forge", code=1)
    publishing.run(DATASET, "--to", "disk")
    with Index.open_readonly(publishing.store.index_path) as index:
        assert [one.dataset for one in index.crawl.failed_tasks("publish forge")] == [DATASET]


def test_a_damaged_record_of_what_was_published_is_an_error(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing)
    publishing.run(DATASET, "--to", "disk")
    publishing.store.task_state_path("publish-disk").write_text("{")

    result = publishing.invoke(DATASET, "--to", "disk")

    assert result.exit_code == 2
    assert publishing.store.task_state_path("publish-disk").read_text() == "{"


def test_a_refused_token_ends_the_run_with_one_message(
    publishing: Publishing, forge: Forge
) -> None:
    forge.token = "another"
    _add_forge(publishing, forge)

    result = publishing.invoke("demo", "--to", "forge")

    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "canary" not in result.output
    assert TOKEN not in publishing.store.journal.path.read_text()


def test_a_new_token_is_used_by_the_same_process(
    publishing: Publishing, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_forge(publishing, forge)
    publishing.run(DATASET, "--to", "forge")
    forge.token = "renewed"
    publishing.run(DATASET, "--to", "forge", "--check", code=1)

    monkeypatch.setenv("DATALAD_CREDENTIAL_FORGE_TOKEN", "renewed")

    [done] = publishing.run(DATASET, "--to", "forge", "--check")
    assert done["status"] == "ok"


def test_a_missing_token_is_named(publishing: Publishing, forge: Forge) -> None:
    _add_forge(publishing, forge, credential="nothere")

    [refused] = publishing.run(DATASET, "--to", "forge", code=1)

    assert "DATALAD_CREDENTIAL_NOTHERE_TOKEN" in refused["message"]
    assert not forge.requests


def test_a_rate_limit_ends_the_run_and_the_next_run_continues(
    publishing: Publishing, forge: Forge
) -> None:
    _add_forge(publishing, forge)
    publishing.run(DATASET, "--to", "forge")
    forge.refusals = [429]

    names = (DATASET, "demo:000003", "demo:000004")
    first = publishing.run(*names, "--to", "forge", code=1)
    assert [one["status"] for one in first] == ["notneeded", "error"]

    second = publishing.run(*names, "--to", "forge")
    assert [one["status"] for one in second] == ["notneeded", "ok", "ok"]
    assert len(forge.repositories) == len(names)


def test_a_large_file_in_git_is_refused_before_anything_is_pushed(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing, max_file_megabytes=0.0001)

    [refused] = publishing.run(DATASET, "--to", "disk", code=1)

    assert refused["status"] == "error"
    assert not (tmp_path / "published").exists()


def test_a_private_store_is_never_published(publishing: Publishing, tmp_path: Path) -> None:
    private = open_private_store(tmp_path / "private", publishing.store.root)
    _add_disk(publishing)

    result = CliRunner().invoke(
        main,
        [
            *("publish", DATASET, "--to", "disk", "--siblings", str(publishing.folder)),
            *("--store", str(private.root)),
        ],
    )

    assert result.exit_code == 2
    assert not (tmp_path / "published").exists()


def test_a_withdrawn_dataset_is_reported_until_it_is_forgotten(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing)
    publishing.run("demo", "--to", "disk")
    mirrors = str(publishing.mirror_harness.mirrors)
    common = ["--store", str(publishing.store.root), "--mirrors", mirrors]
    taken = CliRunner().invoke(main, ["takedown", DATASET, "--reason", "test", *common])
    assert taken.exit_code == 0, taken.output

    found = publishing.run("demo", "--to", "disk", code=1)
    assert [one["dataset"] for one in found if one["status"] == "impossible"] == [DATASET]

    publishing.run("--to", "disk", "--forget", DATASET)
    assert {one["status"] for one in publishing.run("demo", "--to", "disk")} <= {"ok", "notneeded"}


def test_vaults_are_published_only_if_the_sibling_file_says_so(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing)
    publishing.add("all", type="git", url=f"{tmp_path}/all/{{alias}}", vaults=True)
    store = publishing.store
    dataset = next(
        one.dataset_ref
        for _, one in store.journal.read(0)
        if isinstance(one, VersionMinted) and one.local_id == "000002"
    )
    remote = CustodyRemote(VAULT_UUID, "nas", directory_vault_config("nas", "/srv/secret-place"))
    assert publish_locations(store, dataset, remote, ["SHA256E-s1--" + 64 * "0"])

    for name in ("disk", "all"):
        publishing.run(DATASET, "--to", name)

    assert CUSTODY_BRANCH not in _refs(tmp_path / "published" / ALIAS)
    assert CUSTODY_BRANCH in _refs(tmp_path / "all" / ALIAS)


def test_a_dry_run_changes_nothing(publishing: Publishing, forge: Forge) -> None:
    _add_forge(publishing, forge, datasets=["demo:00000*"])

    done = publishing.run("--to", "forge", "--dry-run")

    assert DATASET in {one["dataset"] for one in done}
    assert not forge.requests
    assert not forge.repositories
    assert not publishing.store.task_state_path("publish-forge").exists()


@pytest.mark.parametrize(
    "content",
    [
        'type = "gitea"',
        'type = "git"\nurl = "/srv/one"',
        'type = "git"\nurl = "/srv/{alias}/{secret}"',
        'type = "svn"',
        'type = "github"\ntopics = ["Bad Topic"]',
        'type = "github"\nunknown = 1',
        "type = ",
        "\xff",
    ],
)
def test_a_wrong_sibling_file_is_one_clear_error(publishing: Publishing, content: str) -> None:
    (publishing.folder / "wrong.toml").write_bytes(content.encode("latin-1"))

    result = publishing.invoke(DATASET, "--to", "wrong")

    assert result.exit_code == 2
    assert "wrong.toml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_sibling_names_the_nearest(publishing: Publishing) -> None:
    publishing.add("forge", type="github")

    result = publishing.invoke(DATASET, "--to", "froge")

    assert result.exit_code == 2
    assert "forge" in result.stderr


def test_the_service_publishes_what_a_sibling_file_selects(
    publishing: Publishing, tmp_path: Path
) -> None:
    _add_disk(publishing, datasets=["demo:00000[12]"])
    publishing.add("manual", type="git", url=f"{tmp_path}/manual/{{alias}}")
    store = publishing.store

    def run() -> str:
        with (
            open_recorder(store, store.index_path) as recorder,
            Schedule.open(store.schedule_path) as schedule,
        ):
            settings = HousekeepingSettings(siblings_folder=publishing.folder)
            found = housekeeping_tasks(store, store.index_path, recorder, schedule, settings)
            [task] = [one for one in found if one.name == "publish"]
            return task.run()

    run()

    published = {path.name for path in (tmp_path / "published").iterdir()}
    assert {"demo--000001", "demo--000002"} <= published
    assert not (tmp_path / "manual").exists()
    # a failure is in the status until it is over
    head = tmp_path / "published" / ALIAS / "HEAD"
    head.rename(head.with_name("away"))
    store.task_state_path("publish-disk").unlink()
    head.mkdir()
    with pytest.raises(HousekeepingError):
        run()
    with Index.open_readonly(store.index_path) as index:
        assert [one.dataset for one in index.crawl.failed_tasks("publish disk")] == [DATASET]
    head.rmdir()
    head.with_name("away").rename(head)
    run()
    with Index.open_readonly(store.index_path) as index:
        assert not index.crawl.failed_tasks("publish disk")
