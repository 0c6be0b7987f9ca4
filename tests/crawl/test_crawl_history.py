"""Earlier states that upstream can still list."""

from __future__ import annotations

from crawl_place import git
from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.crawl import dry_run, parse_requests, recording, release
from neuromirror.crawl.mirrors import load_mirrors
from neuromirror.net import Unreachable


def overwritten() -> Thing:
    """x.bin was written three times; y.bin came second, and z.bin was deleted in the end."""
    one, two, three = (File(b"x" * number, at(number), "x.bin") for number in (1, 2, 3))
    y, z = File(b"y", at(2), "y.bin"), File(b"z", at(0), "z.bin")
    return Thing(
        {"x.bin": three, "y.bin": y},
        past={at(1): {"x.bin": one, "z.bin": z}, at(2): {"x.bin": two, "y.bin": y, "z.bin": z}},
    )


def labels(box: Box) -> list[str]:
    with box.index() as index:
        return [row.label for row in index.versions("box:a")]


def test_earlier_states_come_before_the_present_one_each_in_its_time(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = overwritten()
    result = box.sync(history=True)["box:a"]
    assert (result.status, result.visit, result.exit_code) == ("ok", "full", 0)
    wanted = ["2024-03-01T120100Z", "2024-03-01T120200Z", "2024-03-01T120300Z"]
    assert list(result.versions) == labels(box) == wanted
    repository = box.repository("box:a")
    log = git(repository, "log", "--reverse", "--format=%ct", "main").split()
    assert [int(one) for one in log] == [int(at(minute).timestamp()) for minute in (1, 2, 3)]
    states = [git(repository, "ls-tree", "--name-only", f"main~{n}").split() for n in (2, 1, 0)]
    assert [[name for name in one if name.endswith(".bin")] for one in states] == [
        ["x.bin", "z.bin"],
        ["x.bin", "y.bin", "z.bin"],
        ["x.bin", "y.bin"],
    ]
    with box.index() as index:
        assert not list(index.events("box:a"))
    box.fsck()


def test_without_being_asked_for_the_past_is_not_listed(box: Box, source: Scripted) -> None:
    source.things["a"] = overwritten()
    box.sync()
    assert source.since == []
    assert labels(box) == ["2024-03-01T120300Z"]


def test_only_what_is_younger_than_the_last_state_is_added(box: Box, source: Scripted) -> None:
    thing = overwritten()
    source.things["a"] = thing
    box.sync(history=True)
    before = labels(box)
    results = box.sync(history=True)
    assert results["box:a"].status == "notneeded"
    assert results["box"].message.startswith("no earlier states")
    assert (results["box"].status, results["box"].exit_code) == ("notneeded", 0)
    assert source.since == [None, at(3)]
    # the last visit's state and two more, of which the present one is the second
    thing.past[at(4)] = {**thing.files, "x.bin": File(b"4", at(4), "v4")}
    thing.files = {**thing.files, "x.bin": File(b"5", at(5), "v5")}
    box.sync(history=True)
    assert labels(box) == [*before, "2024-03-01T120400Z", "2024-03-01T120500Z"]


def test_states_that_were_seen_are_not_minted_after_what_came_of_them(
    box: Box, source: Scripted
) -> None:
    """What was deleted leaves a present state older than its own past."""
    a, b, c = (files(f"{name}.bin", modified=at(0)) for name in "abc")
    thing = Thing({**c}, past={at(1): {**b, **c}, at(2): {**c}})
    source.things["a"] = thing
    box.sync()
    refs = box.refs()
    assert box.sync(history=True)["box:a"].status == "notneeded"
    assert box.refs() == refs
    thing.past[at(3)] = {**a, **c}
    thing.files = {**c, "new.bin": File(b"new", at(4))}
    box.sync(history=True)
    # only the state after the one that was seen, then the present one
    repository = box.repository("box:a")
    trees = [git(repository, "ls-tree", "--name-only", f"main~{n}").split() for n in (2, 1, 0)]
    assert [[name for name in one if name.endswith(".bin")] for one in trees] == [
        ["c.bin"],
        ["a.bin", "c.bin"],
        ["c.bin", "new.bin"],
    ]


def test_losses_and_overwrites_in_the_past_are_believed(box: Box, source: Scripted) -> None:
    many = files(*(f"{number}.bin" for number in range(40)))
    few = {"0.bin": File(b"other", at(1), "0.bin")}
    source.things["a"] = Thing(dict(few), past={at(0): many, at(1): few})
    source.things["a"].files["1.bin"] = File(b"1", at(2))
    result = box.sync(history=True)["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 3)
    assert source.asked == []


def test_an_emptied_past_waits_for_an_operator_and_nothing_overtakes_it(
    box: Box, source: Scripted
) -> None:
    past = {at(0): files("x.bin"), at(1): {}}
    source.things["a"] = Thing({"y.bin": File(b"y", at(2))}, past=past)
    result = box.sync(history=True)["box:a"]
    assert (result.visit, result.exit_code, len(result.versions)) == ("held", 3, 1)
    store = box.store
    with recording(store, store.index_path) as recorder:
        release(recorder, "")
    result = box.sync(history=True)["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 2)


def test_a_history_that_was_broken_off_comes_to_the_same_commits(
    box: Box, another_box: Box, source: Scripted
) -> None:
    source.things["a"] = overwritten()

    def die_at_the_second() -> None:
        if source.read:
            raise Unreachable("the bucket went away")

    source.on_entries = die_at_the_second
    result = box.sync(history=True)["box:a"]
    assert (result.visit, len(result.versions)) == ("partial", 1)
    source.on_entries = lambda: None
    box.sync(history=True)
    another_box.sync(history=True)
    wanted = {name: one for name, one in another_box.refs().items() if "box--a" in name}
    assert {name: one for name, one in box.refs().items() if "box--a" in name} == wanted


def test_a_dry_run_with_history_says_that_all_are_visited_and_writes_nothing(
    box: Box, source: Scripted
) -> None:
    source.fingerprint = "same"
    source.things["a"] = overwritten()
    box.sync()
    before = box.written()
    mirrors = {name: box.open_mirror(mirror) for name, mirror in load_mirrors(box.mirrors).items()}
    source.probed = {"versions": "listable"}
    requests = parse_requests([], mirrors)
    with box.index() as index:
        (plain,) = dry_run(requests, index, deep=False)
        (result,) = dry_run(requests, index, deep=False, history=True)
    assert plain.message == "unchanged"
    assert result.message == "would visit: looking for earlier states"
    assert box.written() == before
