"""The time since which objects are refused, from visit to visit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from neuromirror.crawl import listing
from neuromirror.crawl.listing import RefusalHistory
from neuromirror.store.memos import MemoFolder

ID = "0" * 36


def record_refusals(store: Path, upstream: str, *urls: str, whole: bool = True) -> list[bool]:
    read = RefusalHistory(MemoFolder(store), ID, upstream)
    found = [read.record(url) for url in urls]
    read.save(is_complete=whole)
    return found


def simulate_days(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Shorten the lasting period as if so many days had passed."""
    monkeypatch.setattr(listing, "LASTING_AFTER", timedelta(days=1) - timedelta(days=days))


def test_a_refusal_lasts_after_a_day_whichever_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record_refusals(tmp_path, "1", "u", "v") == [False, False]
    assert record_refusals(tmp_path, "1", "u", "v") == [False, False]
    simulate_days(monkeypatch, 1)
    assert record_refusals(tmp_path, "draft", "u", "v") == [True, True]


def test_an_object_that_was_available_meanwhile_starts_a_new_period(tmp_path: Path) -> None:
    record_refusals(tmp_path, "1", "u", "v")
    memo = MemoFolder(tmp_path).read(ID, "refused")
    assert memo is not None
    record_refusals(tmp_path, "1", whole=False)
    assert MemoFolder(tmp_path).read(ID, "refused") == memo
    record_refusals(tmp_path, "1", "v")
    assert b'"u"' not in MemoFolder(tmp_path).read(ID, "refused").content  # type: ignore[union-attr]
    record_refusals(tmp_path, "1")
    assert MemoFolder(tmp_path).read(ID, "refused") is None
    assert not list(tmp_path.rglob("*.memo"))
