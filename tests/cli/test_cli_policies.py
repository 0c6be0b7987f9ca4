"""``neuromirror policies``, ``drop``, and what ``status`` shows of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import drop, main
from neuromirror.index.ledger import Ledger
from neuromirror.model import DatasetRef
from neuromirror.store import Store, file_lock
from neuromirror.store.custody import published_locations
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.vaults import write_vault

POLICY = """
[[keep]]
name = "papers"
what = "pins"
locks = ["../locks"]
vaults = ["nas", "cloud"]
"""


@pytest.fixture
def lab(shared_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a mirror, a lock file, two vaults and a policy."""
    mirror = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    mirror.sync("demo:000001")
    (tmp_path / "locks").mkdir()
    pin_latest(mirror, tmp_path / "locks" / "datasets.lock", "demo:000001")
    write_vault(tmp_path / "vaults", "nas")
    (tmp_path / "vaults" / "cloud.toml").write_text(
        f'kind = "directory"\npath = "{tmp_path}/cloud"\ncost_per_gb_month = 1e9\n'
    )
    (tmp_path / "vaults" / "policies.toml").write_text(POLICY)
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


def test_a_dry_run_states_copies_size_and_price_and_changes_nothing(lab: Path) -> None:
    result = run("policies", "--dry-run", "--json")
    found = records(result)
    (policy,) = of_kind(found, "policy")
    prices = {str(one["vault"]): one for one in of_kind(found, "vault")}
    count = int(str(prices["nas"]["contents"]))
    assert (result.exit_code, policy["planned"]) == (0, 2 * count)
    assert prices["cloud"]["per_month"] == prices["cloud"]["bytes"] != 0
    assert prices["nas"]["per_month"] == 0
    lines = run("policies", "--dry-run").stdout.splitlines()
    assert lines[0] == f"papers: 0 of {count} contents have all copies, {2 * count} to make"
    priced = {line.partition(":")[0]: "per month" in line for line in lines[1:]}
    assert priced == {"cloud": True, "nas": False}
    assert not (lab / "cloud").exists()


def test_a_vault_that_cannot_be_used_is_named_also_if_nothing_is_to_be_copied(lab: Path) -> None:
    assert run("policies").exit_code == 0
    (lab / "vault-nas").rename(lab / "unmounted")
    for options in ([], ["--dry-run"]):
        done = run("policies", *options)
        assert (done.exit_code, "nas: " in done.output, "mounted" in done.output) == (1, True, True)


def test_policies_are_run_and_their_copies_are_shown_and_protected(lab: Path) -> None:
    assert run("policies").exit_code == 0
    second = run("policies", "--json")
    (policy,) = of_kind(records(second), "policy")
    assert (second.exit_code, policy["status"], policy["lacking"]) == (0, "ok", 0)
    status = records(run("status", "--json"))
    (shown,) = of_kind(status, "policy")
    assert shown["contents"] == policy["contents"]
    assert {one["name"]: one["copies"] for one in of_kind(status, "vault")} == {
        "nas": policy["contents"],
        "cloud": policy["contents"],
    }
    refused = run("drop", "demo:000001", "--in", "nas", "--json")
    assert refused.exit_code == 1
    (plan,) = of_kind(records(refused), "plan")
    assert plan["contents"] == 0


def test_copies_that_no_policy_wants_are_listed_first_and_then_dropped(lab: Path) -> None:
    keep_twice()
    (plan,) = of_kind(records(run("drop", "demo:000001", "--in", "nas", "--json")), "plan")
    assert int(str(plan["contents"])) > 0
    assert run("drop", "demo:000001", "--in", "nas", "--confirm", "0" * 12).exit_code == 2
    done = run("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]), "--json")
    assert done.exit_code == 0
    assert {one["status"] for one in records(done)} == {"ok"}
    # the last copies stay
    last = run("drop", "demo:000001", "--in", "cloud", "--json")
    assert (last.exit_code, of_kind(records(last), "plan")[0]["contents"]) == (1, 0)


def test_a_keep_goes_on_if_some_of_its_copies_were_not_removed(lab: Path) -> None:
    keep_twice()
    lost = next(one for one in (lab / "cloud").rglob("annex/objects/**/*") if one.is_file())
    lost.parent.chmod(0o755)
    lost.unlink()
    (plan,) = of_kind(records(run("drop", "demo:000001", "--in", "nas", "--json")), "plan")
    done = run("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]), "--json")
    assert done.exit_code == 1
    assert {one["status"] for one in records(done)} == {"ok", "impossible"}
    with Ledger.open(Store.open(lab / "store").ledger_path) as ledger:
        (nas,) = [one.uuid for one in ledger.vaults() if one.name == "nas"]
        assert ledger.wishes.needed([lost.name], nas) == {lost.name}


def test_a_folder_with_two_vault_files_counts_as_one_copy(lab: Path) -> None:
    (lab / "vaults" / "policies.toml").write_text("minimum_copies = 2\n")
    write_vault(lab / "vaults", "share", kind="directory", path=str(lab / "vault-nas"))
    keep_twice()
    refused = run("drop", "demo:000001", "--in", "cloud", "--json")
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
        own, others = ({one.key for one in index.retained_files(name)} for name in names)
        (dataset,) = (
            DatasetRef(one.mirror, one.local_id, one.source_uri)
            for one in index.datasets()
            if one.name == names[0]
        )
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
    monkeypatch.setattr(drop, "_LOCK_WAIT", 0.0)
    path = Store.open(lab / "store").ledger_path.with_name("drop.lock")
    confirmed = ("drop", "demo:000001", "--in", "nas", "--confirm", str(plan["id"]))
    with file_lock(path, "the removal of copies"):
        assert run(*confirmed).exit_code != 0
        assert any(one.is_file() for one in (lab / "vault-nas").rglob("annex/objects/**/*"))
    assert run(*confirmed).exit_code == 0


def test_unknown_names_and_a_folder_without_policies_change_no_wish(lab: Path) -> None:
    assert run("policies", "paper").exit_code == 2
    assert run("drop", "demo:000001", "--in", "tape").exit_code == 2
    assert run("policies").exit_code == 0
    (lab / "vaults" / "policies.toml").unlink()
    assert run("policies").exit_code == 2
    with Ledger.open(Store.open(lab / "store").ledger_path) as ledger:
        assert {one.what for one in ledger.wishes.all()} == {"papers"}


def test_an_audit_finds_a_copy_that_was_removed_behind_our_back(lab: Path) -> None:
    assert run("policies").exit_code == 0
    copies = sorted(one for one in (lab / "vault-nas").rglob("annex/objects/**/*") if one.is_file())
    copies[0].parent.chmod(0o755)
    copies[0].unlink()
    result = run("audit", "--older-than", "0", "--json", "--budget", "100")
    lost = [one for one in records(result) if one.get("vault") and one["status"] == "error"]
    assert result.exit_code == 1
    assert [(one["vault"], one["key"]) for one in lost] == [("nas", copies[0].name)]
    status = run("status", "--json")
    assert status.exit_code == 1
    (nas,) = [one for one in of_kind(records(status), "vault") if one["name"] == "nas"]
    assert nas["missing"] == 1
    # the next run of the policy replaces it
    assert run("policies").exit_code == 0
    assert copies[0].is_file()
    assert run("status").exit_code == 0
