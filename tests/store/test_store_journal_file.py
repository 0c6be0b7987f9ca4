"""The journal has complete lines only, with concurrent writers and on a full disk."""

import os
import resource
from functools import partial
from pathlib import Path

import pytest

from neuromirror.model import HoldLapsed, JournalEntry, MirrorSeen, VersionMinted, dump_entry
from neuromirror.store import Store, StoreDamagedError
from support.store_publisher import exit_code, fork_child, run_in_child


def entries(store: Store, position: int = 0) -> list[JournalEntry]:
    return [entry for _, entry in store.journal.read(position)]


def journal(store: Store) -> Path:
    return store.root / "neuromirror" / "journal.jsonl"


def test_entries_come_back_in_order_from_any_position(store: Store) -> None:
    assert entries(store) == []
    store.journal.append()
    assert not journal(store).exists()
    written: list[JournalEntry] = [
        MirrorSeen("m", "dandi", "https://é/", "t"),
        HoldLapsed("a", "b"),
    ]
    store.journal.append(*written)
    store.journal.append(HoldLapsed("c", "d"))
    written.append(HoldLapsed("c", "d"))
    found = list(store.journal.read(0))
    assert [entry for _, entry in found] == written
    assert found[-1][0] == journal(store).stat().st_size
    for number, (position, _) in enumerate(found):
        assert entries(store, position) == written[number + 1 :]


def test_truncated_line_is_no_entry_and_the_next_one_overwrites_it(store: Store) -> None:
    first, torn, last = HoldLapsed("a", "1"), HoldLapsed("torn", "2"), HoldLapsed("c", "3")
    store.journal.append(first)
    whole = journal(store).read_bytes()
    for cut in range(len(dump_entry(torn))):
        journal(store).write_bytes(whole + dump_entry(torn)[:cut])
        assert entries(store) == [first]
        store.journal.append(last)
        assert entries(store) == [first, last]
        assert journal(store).read_bytes() == whole + dump_entry(last)


def test_a_long_torn_line_in_a_new_journal_is_dropped(store: Store) -> None:
    journal(store).write_bytes(b'{"type":"' + b"x" * 20_000)
    assert entries(store) == []
    store.journal.append(HoldLapsed("a", "b"))
    assert entries(store) == [HoldLapsed("a", "b")]


def test_invalid_journal_line_is_reported_as_damage(store: Store) -> None:
    store.journal.append(HoldLapsed("a", "b"))
    with journal(store).open("ab") as file:
        file.write(b"not json\n")
    store.journal.append(HoldLapsed("c", "d"))
    reading = store.journal.read(0)
    assert next(reading)[1] == HoldLapsed("a", "b")
    with pytest.raises(StoreDamagedError, match="neuromirror repair"):
        next(reading)


def test_several_processes_append_whole_lines(store: Store) -> None:
    def append(name: str) -> None:
        for number in range(200):
            store.journal.append(HoldLapsed(name, str(number)), HoldLapsed(name, "x" * 9000))

    running = [fork_child(partial(append, name)) for name in ("one", "two", "three")]
    seen = 0
    while os.waitid(os.P_PID, running[-1], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen = max(seen, len(entries(store)))
    assert [exit_code(child) for child in running] == [0, 0, 0]
    found = entries(store)
    assert len(found) == 3 * 400
    assert seen <= len(found)
    for name in ("one", "two", "three"):
        mine = [one.at for one in found if isinstance(one, HoldLapsed) and one.hold == name]
        assert [at for at in mine if len(at) < 9000] == [str(number) for number in range(200)]


def test_full_disk_keeps_old_entries_and_the_next_append_succeeds(store: Store) -> None:
    first, second = HoldLapsed("a", "1"), HoldLapsed("b", "2" * 300)
    store.journal.append(first)
    size = journal(store).stat().st_size

    def append_with_free_bytes(more: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, hard))
        with pytest.raises(OSError, match="too large"):
            store.journal.append(second)

    for more in (0, 1, 200, len(dump_entry(second)) - 1):
        run_in_child(lambda more=more: append_with_free_bytes(more))  # type: ignore[misc]
        assert entries(store) == [first]
    store.journal.append(second)
    assert entries(store) == [first, second]


def test_entry_that_would_be_unreadable_is_not_written(store: Store) -> None:
    written = VersionMinted(
        *("m", "x", "https://x/"),
        **{
            "label": "draft",
            "upstream": "draft",
            "kind": "observed",
            "state": f"sha256:{'0' * 64}",
        },
        **{"commit": "0" * 40, "tree": "0" * 40, "annex_commit": "", "time": None, "files": 1},
        **{"bytes": 1 << 63, "exceptions": [], "evidence": {}, "title": "x", "license": []},
        **{"doi": None, "metadata_only": False, "at": "t"},
    )
    store.journal.append(HoldLapsed("a", "b"))
    with pytest.raises(ValueError, match="entry"):
        store.journal.append(HoldLapsed("c", "d"), written)
    assert entries(store) == [HoldLapsed("a", "b")]
