"""Which dataset stands in which super-dataset, and when super-datasets are written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crawl_place import Place, git
from scripted import Box, File, Scripted, Thing

from neuromirror.crawl.supers import PATIENCE, State, grouped
from neuromirror.model import DatasetHint, DatasetRef, VersionRef
from neuromirror.net import ListingBroken
from neuromirror.sources import Known, Listing
from neuromirror.store import Member


def ref(local_id: str) -> DatasetRef:
    return DatasetRef("m", local_id, f"boss://host/{local_id}")


def tree(*local_ids: str, groups: bool = True) -> dict[str, list[str]]:
    """Members' paths by super-dataset, the mirror's own under an empty name."""
    made: dict[str, list[str]] = {}

    def bring(group: DatasetRef, members: Sequence[Member]) -> State:
        made[group.local_id] = [one.path for one in members]
        return State("a" * 40, max(one.date for one in members))

    states = {ref(one): State("b" * 40, number) for number, one in enumerate(local_ids)}
    members = grouped(states, lambda name: ref(name) if groups else None, bring)
    return {"": [one.path for one in members], **made}


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


def test_a_dataset_in_the_place_of_a_group_keeps_out_what_was_below_it() -> None:
    assert tree("c/e", "c/e/one", "c/f/one") == {"": ["c"], "c": ["e", "f"], "c/f": ["one"]}
    assert tree("c/e", "c/e/one", groups=False) == {"": ["c/e"]}


# --- runs in which something fails


@dataclass
class Faulty(Scripted):
    """A source that cannot list some of its datasets."""

    faulty: set[str] = field(default_factory=set)
    listed: bool = True

    def datasets(self) -> Iterator[DatasetHint]:
        if not self.listed:
            raise ListingBroken("the list of datasets: HTTP 503")
        return super().datasets()

    def listing(self, version: VersionRef, known: Known) -> Listing:
        if version.dataset.local_id in self.faulty:
            raise ListingBroken(f"{version.dataset.name}: HTTP 503")
        return super().listing(version, known)


def stocked(folder: Path, *names: str) -> tuple[Box, Faulty]:
    source = Faulty({one: Thing({"file.txt": File(one.encode())}) for one in names})
    return Box(folder, source), source


def exit_codes(place: Place, *names: str) -> set[int]:
    return {one.exit_code for one in place.sync(*names).values()}


def test_failed_syncs_leave_no_trace_in_super_datasets(tmp_path: Path) -> None:
    calm, calm_source = stocked(tmp_path / "calm", "a", "b", "c")
    place, source = stocked(tmp_path / "faulty", "a", "b", "c")
    assert exit_codes(calm) == {0}
    for faulty in ({"a", "b"}, {"b"}, {"b", "c"}):
        source.faulty = faulty
        assert exit_codes(place) == {0, 1}
    source.faulty = set()
    assert exit_codes(place) == {0}
    assert place.refs() == calm.refs()
    # and once there is something to differ from
    source.faulty = {"c"}
    for one in (source, calm_source):
        for name in "bc":
            one.things[name].files["new.txt"] = File(b"new")
    assert exit_codes(place) == {0, 1}
    source.faulty = set()
    assert exit_codes(place) == exit_codes(calm) == {0}
    assert place.refs() == calm.refs()
    for alias in ("box", "neuromirror"):
        assert git(place.repository(alias), "rev-list", "--count", "main").strip() == "2"


def test_a_list_that_fails_leaves_no_trace_either(tmp_path: Path) -> None:
    calm, _ = stocked(tmp_path / "calm", "a")
    place, source = stocked(tmp_path / "faulty", "a")
    assert exit_codes(calm) == {0}
    source.listed = False
    assert [one.dataset for one in place.sync().values()] == ["box"]
    source.listed = True
    assert exit_codes(place) == {0}
    source.listed = False
    assert [one.dataset for one in place.sync().values()] == ["box"]
    assert place.refs() == calm.refs()


def test_several_datasets_of_one_run_make_one_commit_of_their_super_dataset(tmp_path: Path) -> None:
    place, _ = stocked(tmp_path, "a", "b")
    assert exit_codes(place, "box:a", "box:b") == {0}
    for alias in ("box", "neuromirror"):
        assert git(place.repository(alias), "rev-list", "--count", "main").strip() == "1"


def linked(place: Place) -> list[str]:
    """The paths of the mirror's super-dataset."""
    lines = git(place.repository("box"), "ls-tree", "main").splitlines()
    return [line.split()[3] for line in lines if line.startswith("160000")]


def let_a_day_pass(place: Place) -> None:
    for mark in (place.folder / "neuromirror" / "postponed").iterdir():
        since = mark.stat().st_mtime - PATIENCE.total_seconds()
        os.utime(mark, (since, since))


def test_a_new_super_dataset_does_not_wait_for_what_fails(tmp_path: Path) -> None:
    place, source = stocked(tmp_path, "a", "b")
    source.faulty = {"b"}
    assert exit_codes(place) == {0, 1}
    assert linked(place) == ["a"]
    assert "neuromirror refs/heads/main" in place.refs()
    let_a_day_pass(place)
    assert exit_codes(place) == {0, 1}
    kept = place.refs()["box refs/heads/main"]
    source.faulty = set()
    assert exit_codes(place) == {0}
    assert linked(place) == ["a", "b"]
    assert git(place.repository("box"), "rev-parse", "main^").strip() == kept


def test_a_lasting_fault_holds_super_datasets_up_for_a_day(tmp_path: Path) -> None:
    place, source = stocked(tmp_path, "a")
    assert exit_codes(place) == {0}
    source.things["b"] = Thing({"file.txt": File(b"b")})
    source.things["c"] = Thing({"file.txt": File(b"c")})
    source.faulty = {"b"}
    assert exit_codes(place) == {0, 1}
    assert linked(place) == ["a"]
    let_a_day_pass(place)
    assert exit_codes(place) == {0, 1}
    assert linked(place) == ["a", "c"]
