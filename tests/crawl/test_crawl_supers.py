"""Which dataset stands in which super-dataset."""

from __future__ import annotations

from collections.abc import Sequence

from neuromirror.crawl.supers import State, grouped
from neuromirror.model import DatasetRef
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
