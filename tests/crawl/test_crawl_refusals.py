"""Since when objects are refused, from visit to visit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from neuromirror.crawl import refusals
from neuromirror.crawl.refusals import Refusals
from neuromirror.store.memos import MemoFolder

ID = "0" * 36


def noted(store: Path, upstream: str, *urls: str, whole: bool = True) -> list[bool]:
    read = Refusals(MemoFolder(store), ID, upstream)
    found = [read.note(url) for url in urls]
    read.keep(whole=whole)
    return found


def age(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Let refusals count as lasting as if so many days had passed."""
    monkeypatch.setattr(refusals, "LASTING", timedelta(days=1) - timedelta(days=days))


def test_a_refusal_lasts_after_a_day_whichever_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert noted(tmp_path, "1", "u", "v") == [False, False]
    assert noted(tmp_path, "1", "u", "v") == [False, False]
    age(monkeypatch, 1)
    assert noted(tmp_path, "draft", "u", "v") == [True, True]


def test_an_object_that_answered_meanwhile_counts_anew(tmp_path: Path) -> None:
    noted(tmp_path, "1", "u", "v")
    memo = MemoFolder(tmp_path).read(ID, "refused")
    assert memo is not None
    noted(tmp_path, "1", whole=False)
    assert MemoFolder(tmp_path).read(ID, "refused") == memo
    noted(tmp_path, "1", "v")
    assert b'"u"' not in MemoFolder(tmp_path).read(ID, "refused").content  # type: ignore[union-attr]
    noted(tmp_path, "1")
    assert MemoFolder(tmp_path).read(ID, "refused") is None
    assert not list(tmp_path.rglob("*.memo"))
