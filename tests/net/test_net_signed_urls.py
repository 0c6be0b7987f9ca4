"""Signed URLs in texts that are constructed to take long to search."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from neuromirror.model.archive_metadata import plain_text, split_person_names
from neuromirror.sources.dandi.document import clean, may_need_cleaning
from neuromirror.sources.s3.sidecars import without_secrets

SHORT, LONG = 1_000, 16_000


def of_sidecar(text: str) -> object:
    return without_secrets(b'"%s"' % text.encode())


TEXTS: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "addresses": (clean, lambda count: "http://a?x" * count),
    "addresses without a query": (may_need_cleaning, lambda count: "=" + "https://a" * count),
    "addresses in a sidecar": (of_sidecar, lambda count: "s3://a?x " * 2 + "s3://a?x" * count),
    "schemes in a sidecar": (of_sidecar, lambda count: "://" + "a.b" * count),
    "scripts": (plain_text, lambda count: "<script>" * count),
    "scripts without an end": (plain_text, lambda count: "<script " * count),
    "spaces": (split_person_names, lambda count: "A" + " " * count + "B"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_sixteen_times_the_length_takes_no_more_than_its_share(name: str) -> None:
    read, text = TEXTS[name]

    def seconds(count: int) -> float:
        made = text(count)
        began = time.process_time()
        read(made)
        return time.process_time() - began

    # in quadratic time it would take 256 times as long
    assert seconds(LONG) < 1.0 + 64 * seconds(SHORT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://u:p@h/x now", "see http://h/x now"),
        ("http://h/x?a=1&token=t2 and http://k", "http://h/x?a=1 and http://k"),
        ("http://a,http://u:p@h/x", "http://a,http://h/x"),
        ("http://[u@x", "***"),
        ("no http:// address", "no http:// address"),
    ],
)
def test_secrets_are_removed(text: str, expected: str) -> None:
    assert clean({"a": [text]}) == {"a": [expected]}
