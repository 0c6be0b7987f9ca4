"""The saved states of tasks."""

from pathlib import Path

import pytest
from msgspec import field

from neuromirror.store import Store
from neuromirror.store.store import TaskState


class CountingState(TaskState):
    task = "counting"
    counts: dict[str, int] = field(default_factory=dict)


def test_a_state_is_saved_with_names_that_are_not_utf_8(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    assert CountingState.load(store).counts == {}
    CountingState({"caf\udce9.lock": 1}).save(store)
    assert CountingState.load(store).counts == {"caf\udce9.lock": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"counts": 7}', b'{"other": 7}'])
def test_an_unreadable_state_is_that_of_a_new_store(tmp_path: Path, content: bytes) -> None:
    store = Store.open(tmp_path / "store", create=True)
    CountingState({"a": 1}).save(store)
    store.task_state_path("counting").write_bytes(content)
    assert CountingState.load(store).counts == {}
