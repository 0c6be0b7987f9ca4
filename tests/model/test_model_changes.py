"""Differences of versions, and their composition."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.model import LinePair, compose_pairs, diff_lines, patch_lines, reverse_pairs

# few names and contents, so that files are often kept, changed, removed and added again
_STATES = st.lists(
    st.dictionaries(st.sampled_from(["a", "b/c", "b-c", "é", "z"]), st.integers(0, 2)),
    min_size=2,
    max_size=6,
)


def _lines(state: dict[str, int]) -> list[bytes]:
    found = sorted(state.items(), key=lambda one: one[0].encode())
    return [
        json.dumps({"git": name, "size": size}, ensure_ascii=False, separators=(",", ":")).encode()
        for name, size in found
    ]


@given(_STATES)
def test_differences_in_a_row_are_the_difference_of_their_ends(
    states: list[dict[str, int]],
) -> None:
    steps = [list(diff_lines(_lines(one), _lines(other))) for one, other in pairwise(states)]
    whole: list[LinePair] = []
    for step in steps:
        whole = list(compose_pairs(whole, step))
    assert whole == list(diff_lines(_lines(states[0]), _lines(states[-1])))
    assert list(patch_lines(_lines(states[0]), whole)) == _lines(states[-1])
    assert list(patch_lines(_lines(states[-1]), reverse_pairs(whole))) == _lines(states[0])


def test_differences_that_do_not_fit_are_refused() -> None:
    before, between, other, after = ([b'{"git":"a","size":%d}' % one] for one in range(4))
    first, then = diff_lines(before, between), diff_lines(other, after)
    with pytest.raises(ValueError, match="no such file to change"):
        list(compose_pairs(first, then))
