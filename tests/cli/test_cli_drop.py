"""``neuromirror drop``, and what ``vault check`` finds."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.cli import vault as vault_commands
from neuromirror.index.ledger import Ledger
from neuromirror.store import Store, file_lock
from neuromirror.store.custody import published_locations
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.vaults import write_vault


@pytest.fixture
def lab(shared_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a mirror and two vaults."""
    mirror = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    mirror.sync("demo:000001")
    for name in ("nas", "cloud"):
        write_vault(tmp_path / "vaults", name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def records(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def of_kind(found: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [one for one in found if one.get("kind") == kind]


def keep_twice() -> None:
    for vault in ("nas", "cloud"):
        assert run("keep", "demo:000001", "--in", vault).exit_code == 0


def test_copies_are_listed_first_and_then_dropped(lab: Path) -> None:
    keep_twice()
    (plan,) = of_kind(records(run("drop", "demo:000001", "--in", "nas", "--json")), "plan")
    assert int(str(plan["contents"])) > 0
    assert run("drop", "demo:000001", "--in", "nas", "--confirm", "0" * 12).exit_code == 2
    done = run("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]), "--json")
    assert done.exit_code == 0
    assert {record["status"] for record in records(done)} == {"ok"}
    # the last copies stay
    last = run("drop", "demo:000001", "--in", "cloud", "--json")
    assert (last.exit_code, of_kind(records(last), "plan")[0]["contents"]) == (1, 0)


def test_a_keep_goes_on_if_some_of_its_copies_were_not_removed(lab: Path) -> None:
    keep_twice()
    lost = next(one for one in (lab / "vault-cloud").rglob("annex/objects/**/*") if one.is_file())
    lost.parent.chmod(0o755)
    lost.unlink()
    (plan,) = of_kind(records(run("drop", "demo:000001", "--in", "nas", "--json")), "plan")
    done = run("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]), "--json")
    assert done.exit_code == 1
    assert {record["status"] for record in records(done)} == {"ok", "impossible"}
    with Ledger.open(Store.open(lab / "store").ledger_path) as ledger:
        (nas,) = [vault.uuid for vault in ledger.vaults() if vault.name == "nas"]
        assert ledger.wishes.needed([lost.name], nas) == {lost.name}


def test_a_folder_with_two_vault_files_counts_as_one_copy(lab: Path) -> None:
    write_vault(lab / "vaults", "share", kind="directory", path=str(lab / "vault-nas"))
    assert run("keep", "demo:000001", "--in", "nas").exit_code == 0
    refused = run("drop", "demo:000001", "--in", "share", "--json")
    (plan,) = of_kind(records(refused), "plan")
    assert (refused.exit_code, plan["contents"]) == (1, 0)


def test_copies_of_a_withdrawn_dataset_are_listed_first_and_then_dropped(
    lab: Path, shared_demo: DemoArchive
) -> None:
    mirror = MirrorHarness(shared_demo.mirrors, lab / "store")
    mirror.sync()
    names = ["demo:000001", "demo:000002"]
    assert run("keep", names[0], "--in", "nas").exit_code == 0
    with mirror.index() as index:
        own, others = ({content.key for content in index.files.contents(name)} for name in names)
        (dataset,) = (one.dataset_ref for one in index.datasets.select() if one.name == names[0])
    folder = lab / "vault-nas" / "annex" / "objects"

    def copies() -> set[str]:
        return {one.name for one in folder.rglob("*") if one.is_file()}

    kept = copies()
    assert kept <= own
    assert kept & others
    assert kept - others
    mirrors = ["--mirrors", str(shared_demo.mirrors)]
    assert run("takedown", names[0], "--reason", "by request", *mirrors).exit_code == 0
    drop = ["drop", names[0], "--in", "nas", "--json"]
    listed = run(*drop)
    (plan,) = of_kind(records(listed), "plan")
    assert (listed.exit_code, set(plan["keys"])) == (0, kept - others)  # type: ignore[call-overload]
    assert copies() == kept != others
    done = run(*drop, "--confirm", str(plan["id"]))
    assert (done.exit_code, copies()) == (0, kept & others)
    # after a reinstatement, clones do not look for them there
    assert run("takedown", names[0], "--undo", *mirrors).exit_code == 0
    published = published_locations(mirror.store, dataset)
    assert {key for key, vaults in published if vaults} == kept & others


def test_nothing_is_removed_during_another_removal(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_twice()
    (plan,) = of_kind(records(run("drop", "demo:000001", "--in", "nas", "--json")), "plan")
    monkeypatch.setattr(vault_commands, "_LOCK_WAIT", 0.0)
    path = Store.open(lab / "store").ledger_path.with_name("drop.lock")
    confirmed = ("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]))
    with file_lock(path, "the removal of copies"):
        assert run(*confirmed).exit_code != 0
        assert any(one.is_file() for one in (lab / "vault-nas").rglob("annex/objects/**/*"))
    assert run(*confirmed).exit_code == 0


def test_a_check_finds_a_copy_that_was_removed_behind_our_back(lab: Path) -> None:
    keep_twice()
    copies = sorted(one for one in (lab / "vault-nas").rglob("annex/objects/**/*") if one.is_file())
    copies[0].parent.chmod(0o755)
    copies[0].unlink()
    result = run("vault", "check", "nas", "--json")
    lost = [one for one in records(result) if one.get("key") and one["status"] == "error"]
    assert result.exit_code == 1
    assert [(one["vault"], one["key"]) for one in lost] == [("nas", copies[0].name)]
    status = run("status", "--json")
    assert status.exit_code == 1
    (nas,) = [one for one in of_kind(records(status), "vault") if one["name"] == "nas"]
    assert nas["missing"] == 1
    keep_twice()
    assert copies[0].is_file()
    assert run("status").exit_code == 0
