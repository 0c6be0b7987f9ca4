"""The ledger of copies: nothing is counted that a vault did not confirm."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.index import IndexUnusableError
from neuromirror.index.ledger import Ledger, Stored, Wish

NAS, CLOUD = "uuid-nas", "uuid-cloud"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "custody.sqlite") as opened:
        opened.add_vault(NAS, "nas", "directory")
        opened.add_vault(CLOUD, "cloud", "s3")
        yield opened


def stored(*keys: str) -> list[Stored]:
    return [Stored(key, 10, "full-read") for key in keys]


def test_only_present_copies_count(ledger: Ledger) -> None:
    ledger.record(NAS, stored("a", "b", "c"))
    ledger.record(CLOUD, stored("b"))
    ledger.mark(NAS, ["b"], "damaged", "full-read")
    ledger.mark(NAS, ["c"], "missing", "head")
    assert ledger.missing(NAS, ["c", "a", "b", "d"]) == ["c", "b", "d"]
    assert {
        key: [one.vault for one in found] for key, found in ledger.copies(["a", "b", "c"]).items()
    } == {"a": [NAS], "b": [CLOUD]}
    states = ledger.copies(["b"], all_states=True)["b"]
    assert {state.vault: state.state for state in states} == {NAS: "damaged", CLOUD: "present"}
    cloud, nas = ledger.vaults()
    assert (nas.copies, nas.bytes, nas.damaged, nas.missing) == (1, 10, 1, 1)
    assert (cloud.name, cloud.copies) == ("cloud", 1)


def test_a_stored_copy_counts_again_and_a_forgotten_one_does_not(ledger: Ledger) -> None:
    ledger.record(NAS, stored("a"))
    ledger.mark(NAS, ["a"], "missing", "head")
    ledger.record(NAS, stored("a"))
    assert ledger.missing(NAS, ["a"]) == []
    ledger.forget(NAS, ["a"])
    assert ledger.missing(NAS, ["a"]) == ["a"]


def test_a_listing_finds_what_the_vault_lost(ledger: Ledger) -> None:
    ledger.record(NAS, stored("a", "b"))
    ledger.record(CLOUD, stored("b"))
    started = time.time()
    ledger.record(NAS, stored("a"))
    ledger.finish_listing(NAS, started)
    assert ledger.missing(CLOUD, ["b"]) == []
    assert [copy.key for copy in ledger.copies_in(NAS, state="missing")] == ["b"]


def test_copies_are_listed_in_parts(ledger: Ledger) -> None:
    ledger.record(NAS, stored("a", "b", "c"))
    ledger.record(NAS, stored("b"))
    assert [copy.key for copy in ledger.copies_in(NAS)] == ["a", "b", "c"]
    assert [copy.key for copy in ledger.copies_in(NAS, after="b")] == ["c"]


def test_wishes_name_what_is_to_be_kept_in_their_vault(ledger: Ledger) -> None:
    wish = Wish("lock", "paper.lock", NAS, ("*.nwb",))
    number = ledger.wishes.put(wish, [("a", 10), ("b", None)])
    assert ledger.wishes.put(wish, [("a", 10), ("b", None), ("c", 3)]) == number
    ledger.record(NAS, stored("a"))
    ledger.record(CLOUD, stored("b"))
    assert ledger.wishes.needed(["a", "c", "z"]) == {"a", "c"}
    assert ledger.wishes.needed(["a"], CLOUD) == set()
    (found,) = ledger.wishes.all(NAS)
    assert (found.what, found.globs, found.id) == ("paper.lock", ("*.nwb",), number)
    ledger.wishes.remove(number)
    assert ledger.wishes.needed(["a"]) == set()


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("PRAGMA application_id = 7")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(IndexUnusableError, match="not a ledger"):
        Ledger.open(path)


def test_a_copy_of_an_unknown_vault_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LookupError):
        ledger.record("uuid-other", stored("a"))


def test_only_a_check_that_hashes_the_bytes_clears_damage_and_counts_as_a_full_read(
    tmp_path: Path,
) -> None:
    times = iter(range(100, 200))
    with Ledger.open(tmp_path / "custody.sqlite", clock=lambda: float(next(times))) as ledger:
        ledger.add_vault(NAS, "nas", "directory")
        ledger.record(NAS, stored("a", "b"))
        ledger.mark(NAS, ["a"], "damaged", "full-read")
        ledger.record(NAS, [Stored("a", 10, "listing"), Stored("b", 10, "head")])
        (a,), (b,) = (ledger.copies([key], all_states=True)[key] for key in "ab")
        assert (a.state, a.hashed, a.checked) == ("damaged", 101.0, 102.0)
        assert (b.state, b.hashed, b.checked) == ("present", 100.0, 102.0)
        ledger.record(NAS, stored("a"))
        assert [one.key for one in ledger.least_recently_read(NAS, 9)] == ["b", "a"]
        (vault,) = ledger.vaults()
        assert (vault.oldest_read, vault.oldest_check) == (100.0, 102.0)


def test_a_check_that_states_no_size_keeps_the_recorded_one(ledger: Ledger) -> None:
    ledger.record(NAS, stored("a"))
    ledger.record(NAS, [Stored("a", 0, "listing"), Stored("b", 0, "listing")])
    assert {copy.key: copy.size for copy in ledger.copies_in(NAS)} == {"a": 10, "b": 0}
