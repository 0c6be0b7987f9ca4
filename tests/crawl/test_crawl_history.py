"""Earlier states that upstream can still list."""

from neuromirror.config.mirror_files import load_mirrors
from neuromirror.crawl import dry_run, open_recorder, parse_sync_requests, release_hold
from neuromirror.net import UnreachableError
from support.mirror_harness import run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)


def overwritten_dataset() -> ScriptedDataset:
    """A dataset with three versions of x.bin, a later y.bin and a deleted z.bin."""
    one, two, three = (ScriptedFile(b"x" * number, at(number), "x.bin") for number in (1, 2, 3))
    y, z = ScriptedFile(b"y", at(2), "y.bin"), ScriptedFile(b"z", at(0), "z.bin")
    return ScriptedDataset(
        {"x.bin": three, "y.bin": y},
        earlier_states={
            at(1): {"x.bin": one, "z.bin": z},
            at(2): {"x.bin": two, "y.bin": y, "z.bin": z},
        },
    )


def labels(box: ScriptedHarness) -> list[str]:
    with box.index() as index:
        return [row.label for row in index.versions.of("box:a")]


def test_earlier_states_come_before_the_present_one_each_in_its_time(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = overwritten_dataset()
    result = harness.sync(history=True)["box:a"]
    assert (result.status, result.visit, result.exit_code) == ("ok", "full", 0)
    expected = ["2024-03-01T120100Z", "2024-03-01T120200Z", "2024-03-01T120300Z"]
    assert list(result.versions) == labels(harness) == expected
    repository = harness.repository("box:a")
    log = run_git(repository, "log", "--reverse", "--format=%ct", "main").split()
    assert [int(one) for one in log] == [int(at(minute).timestamp()) for minute in (1, 2, 3)]
    states = [run_git(repository, "ls-tree", "--name-only", f"main~{n}").split() for n in (2, 1, 0)]
    assert [[name for name in state if name.endswith(".bin")] for state in states] == [
        ["x.bin", "z.bin"],
        ["x.bin", "y.bin", "z.bin"],
        ["x.bin", "y.bin"],
    ]
    with harness.index() as index:
        assert not list(index.crawl.events("box:a"))
    harness.fsck()


def test_earlier_states_are_listed_only_on_request(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = overwritten_dataset()
    harness.sync()
    assert harness.source.history_requests == []
    assert labels(harness) == ["2024-03-01T120300Z"]


def test_only_states_after_the_last_one_are_added(harness: ScriptedHarness) -> None:
    scripted_dataset = overwritten_dataset()
    harness.datasets["a"] = scripted_dataset
    harness.sync(history=True)
    before = labels(harness)
    results = harness.sync(history=True)
    assert results["box:a"].status == "notneeded"
    assert results["box"].message.startswith("no earlier states")
    assert (results["box"].status, results["box"].exit_code) == ("notneeded", 0)
    assert harness.source.history_requests == [None, at(3)]
    # the last visit's state and two more, the second of them the current one
    scripted_dataset.earlier_states[at(4)] = {
        **scripted_dataset.files,
        "x.bin": ScriptedFile(b"4", at(4), "v4"),
    }
    scripted_dataset.files = {**scripted_dataset.files, "x.bin": ScriptedFile(b"5", at(5), "v5")}
    harness.sync(history=True)
    assert labels(harness) == [*before, "2024-03-01T120400Z", "2024-03-01T120500Z"]


def test_observed_states_are_not_minted_after_their_successors(harness: ScriptedHarness) -> None:
    """After a deletion the current state is older than its own past."""
    a, b, c = (files(f"{name}.bin", modified=at(0)) for name in "abc")
    scripted_dataset = ScriptedDataset({**c}, earlier_states={at(1): {**b, **c}, at(2): {**c}})
    harness.datasets["a"] = scripted_dataset
    harness.sync()
    refs = harness.refs()
    assert harness.sync(history=True)["box:a"].status == "notneeded"
    assert harness.refs() == refs
    scripted_dataset.earlier_states[at(3)] = {**a, **c}
    scripted_dataset.files = {**c, "new.bin": ScriptedFile(b"new", at(4))}
    harness.sync(history=True)
    # only the state after the observed one, then the current one
    repository = harness.repository("box:a")
    trees = [run_git(repository, "ls-tree", "--name-only", f"main~{n}").split() for n in (2, 1, 0)]
    assert [[name for name in tree if name.endswith(".bin")] for tree in trees] == [
        ["c.bin"],
        ["a.bin", "c.bin"],
        ["c.bin", "new.bin"],
    ]


def test_losses_and_overwrites_in_the_past_are_accepted(harness: ScriptedHarness) -> None:
    many = files(*(f"{number}.bin" for number in range(40)))
    few = {"0.bin": ScriptedFile(b"other", at(1), "0.bin")}
    harness.datasets["a"] = ScriptedDataset(dict(few), earlier_states={at(0): many, at(1): few})
    harness.datasets["a"].files["1.bin"] = ScriptedFile(b"1", at(2))
    result = harness.sync(history=True)["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 3)
    assert harness.source.checked_paths == []


def test_an_emptied_past_waits_for_an_operator_and_nothing_overtakes_it(
    harness: ScriptedHarness,
) -> None:
    past = {at(0): files("x.bin"), at(1): {}}
    harness.datasets["a"] = ScriptedDataset(
        {"y.bin": ScriptedFile(b"y", at(2))}, earlier_states=past
    )
    result = harness.sync(history=True)["box:a"]
    assert (result.visit, result.exit_code, len(result.versions)) == ("held", 3, 1)
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        release_hold(recorder, "")
    result = harness.sync(history=True)["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 2)


def test_an_interrupted_history_leads_to_the_same_commits(
    harness: ScriptedHarness, other_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    source.scripted_datasets["a"] = overwritten_dataset()

    def die_at_the_second() -> None:
        if source.read_listings:
            raise UnreachableError("the bucket went away")

    source.on_entries = die_at_the_second
    result = harness.sync(history=True)["box:a"]
    assert (result.visit, len(result.versions)) == ("partial", 1)
    source.on_entries = lambda: None
    harness.sync(history=True)
    other_harness.sync(history=True)
    expected = {name: one for name, one in other_harness.refs().items() if "box--a" in name}
    assert {name: one for name, one in harness.refs().items() if "box--a" in name} == expected


def test_a_dry_run_with_history_says_that_all_are_visited_and_writes_nothing(
    harness: ScriptedHarness,
) -> None:
    harness.source.fingerprint = "same"
    harness.datasets["a"] = overwritten_dataset()
    harness.sync()
    before = harness.file_stamps()
    mirrors = {
        name: harness.open_mirror(mirror) for name, mirror in load_mirrors(harness.mirrors).items()
    }
    harness.source.probe_result = {"versions": "listable"}
    requests = parse_sync_requests([], mirrors)
    with harness.index() as index:
        (plain,) = dry_run(requests, index, deep=False)
        (result,) = dry_run(requests, index, deep=False, history=True)
    assert plain.message == "unchanged"
    assert result.message == "would visit: looking for earlier states"
    assert harness.file_stamps() == before
