"""The members of superdatasets, and when superdatasets are written."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuromirror.crawl.superdatasets import MAX_POSTPONEMENT, MemberState, group_members
from neuromirror.model import DatasetHint, DatasetRef, VersionRef
from neuromirror.net import InvalidListingError
from neuromirror.sources import Listing, VisitContext
from neuromirror.store import SuperdatasetMember
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource


def ref(local_id: str) -> DatasetRef:
    return DatasetRef("m", local_id, f"boss://host/{local_id}")


def tree(*local_ids: str, groups: bool = True) -> dict[str, list[str]]:
    """Return the members' paths by superdataset; the mirror's own has an empty name."""
    made: dict[str, list[str]] = {}

    def update_group(group: DatasetRef, members: Sequence[SuperdatasetMember]) -> MemberState:
        made[group.local_id] = [member.path for member in members]
        return MemberState("a" * 40, max(member.date for member in members))

    states = {ref(one): MemberState("b" * 40, number) for number, one in enumerate(local_ids)}
    members = group_members(states, lambda name: ref(name) if groups else None, update_group)
    return {"": [member.path for member in members], **made}


def test_each_group_holds_what_is_directly_below_it() -> None:
    assert tree("c/e/one", "c/e/two", "c/f/one", "d/e/one", "alone") == {
        "": ["alone", "c", "d"],
        "c": ["e", "f"],
        "d": ["e"],
        "c/e": ["one", "two"],
        "c/f": ["one"],
        "d/e": ["one"],
    }


def test_without_groups_all_are_the_mirrors_own() -> None:
    assert tree("c/e/one", "d", groups=False) == {"": ["c/e/one", "d"]}


def test_a_dataset_at_the_path_of_a_group_excludes_datasets_below_it() -> None:
    assert tree("c/e", "c/e/one", "c/f/one") == {"": ["c"], "c": ["e", "f"], "c/f": ["one"]}
    assert tree("c/e", "c/e/one", groups=False) == {"": ["c/e"]}


# --- runs with failures


@dataclass
class FaultySource(ScriptedSource):
    """A source that cannot list some of its datasets."""

    unlistable_ids: set[str] = field(default_factory=set)
    is_list_available: bool = True

    def datasets(self) -> Iterator[DatasetHint]:
        if not self.is_list_available:
            raise InvalidListingError("the list of datasets: HTTP 503")
        return super().datasets()

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        if version.dataset.local_id in self.unlistable_ids:
            raise InvalidListingError(f"{version.dataset.name}: HTTP 503")
        return super().listing(version, context)


def faulty_harness(folder: Path, *names: str) -> tuple[ScriptedHarness, FaultySource]:
    source = FaultySource(
        {name: ScriptedDataset({"file.txt": ScriptedFile(name.encode())}) for name in names}
    )
    return ScriptedHarness(folder, source), source


def exit_codes(mirror_harness: MirrorHarness, *names: str) -> set[int]:
    return {one.exit_code for one in mirror_harness.sync(*names).values()}


def test_failed_syncs_leave_no_trace_in_superdatasets(tmp_path: Path) -> None:
    calm, calm_source = faulty_harness(tmp_path / "calm", "a", "b", "c")
    mirror_harness, source = faulty_harness(tmp_path / "faulty", "a", "b", "c")
    assert exit_codes(calm) == {0}
    for faulty in ({"a", "b"}, {"b"}, {"b", "c"}):
        source.unlistable_ids = faulty
        assert exit_codes(mirror_harness) == {0, 1}
    source.unlistable_ids = set()
    assert exit_codes(mirror_harness) == {0}
    assert mirror_harness.refs() == calm.refs()
    # and also once a commit exists
    source.unlistable_ids = {"c"}
    for one in (source, calm_source):
        for name in "bc":
            one.scripted_datasets[name].files["new.txt"] = ScriptedFile(b"new")
    assert exit_codes(mirror_harness) == {0, 1}
    source.unlistable_ids = set()
    assert exit_codes(mirror_harness) == exit_codes(calm) == {0}
    assert mirror_harness.refs() == calm.refs()
    for alias in ("box", "neuromirror"):
        assert (
            run_git(mirror_harness.repository(alias), "rev-list", "--count", "main").strip() == "2"
        )


def test_a_list_that_fails_leaves_no_trace_either(tmp_path: Path) -> None:
    calm, _ = faulty_harness(tmp_path / "calm", "a")
    mirror_harness, source = faulty_harness(tmp_path / "faulty", "a")
    assert exit_codes(calm) == {0}
    source.is_list_available = False
    assert [one.dataset for one in mirror_harness.sync().values()] == ["box"]
    source.is_list_available = True
    assert exit_codes(mirror_harness) == {0}
    source.is_list_available = False
    assert [one.dataset for one in mirror_harness.sync().values()] == ["box"]
    assert mirror_harness.refs() == calm.refs()


def test_several_datasets_of_one_run_make_one_commit_of_their_superdataset(tmp_path: Path) -> None:
    mirror_harness, _ = faulty_harness(tmp_path, "a", "b")
    assert exit_codes(mirror_harness, "box:a", "box:b") == {0}
    for alias in ("box", "neuromirror"):
        assert (
            run_git(mirror_harness.repository(alias), "rev-list", "--count", "main").strip() == "1"
        )


def superdataset_members(mirror_harness: MirrorHarness) -> list[str]:
    """Return the paths in the mirror's superdataset."""
    lines = run_git(mirror_harness.repository("box"), "ls-tree", "main").splitlines()
    return [line.split()[3] for line in lines if line.startswith("160000")]


def age_postponements(mirror_harness: MirrorHarness) -> None:
    for mark in (mirror_harness.folder / "neuromirror" / "postponed").iterdir():
        since = mark.stat().st_mtime - MAX_POSTPONEMENT.total_seconds()
        os.utime(mark, (since, since))


def test_a_new_superdataset_is_not_postponed(tmp_path: Path) -> None:
    mirror_harness, source = faulty_harness(tmp_path, "a", "b")
    source.unlistable_ids = {"b"}
    assert exit_codes(mirror_harness) == {0, 1}
    assert superdataset_members(mirror_harness) == ["a"]
    assert "neuromirror refs/heads/main" in mirror_harness.refs()
    age_postponements(mirror_harness)
    assert exit_codes(mirror_harness) == {0, 1}
    kept = mirror_harness.refs()["box refs/heads/main"]
    source.unlistable_ids = set()
    assert exit_codes(mirror_harness) == {0}
    assert superdataset_members(mirror_harness) == ["a", "b"]
    assert run_git(mirror_harness.repository("box"), "rev-parse", "main^").strip() == kept


def test_a_lasting_fault_postpones_superdatasets_for_a_day(tmp_path: Path) -> None:
    mirror_harness, source = faulty_harness(tmp_path, "a")
    assert exit_codes(mirror_harness) == {0}
    source.scripted_datasets["b"] = ScriptedDataset({"file.txt": ScriptedFile(b"b")})
    source.scripted_datasets["c"] = ScriptedDataset({"file.txt": ScriptedFile(b"c")})
    source.unlistable_ids = {"b"}
    assert exit_codes(mirror_harness) == {0, 1}
    assert superdataset_members(mirror_harness) == ["a"]
    age_postponements(mirror_harness)
    assert exit_codes(mirror_harness) == {0, 1}
    assert superdataset_members(mirror_harness) == ["a", "c"]
