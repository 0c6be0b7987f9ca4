"""DANDI's part sizes against dandischema's own."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuromirror.model import dandi_part_size
from neuromirror.sources.dandi.rows import part_count

MIB = 2**20


@given(st.integers(1, 5 * 2**40))
@example(64 * MIB)
@example(64 * MIB + 1)
@example(64 * MIB * 9_998 + 1)
@example(64 * MIB * 9_999)
@example(64 * MIB * 9_999 + 1)
@example(64 * MIB * 10_000)
@example(5 * 2**40)
def test_parts_are_dandischemas(size):
    from dandischema.digests.dandietag import PartGenerator

    theirs = PartGenerator.for_file_size(size)
    assert part_count(size) == len(theirs)
    if len(theirs) > 1:
        assert dandi_part_size(size) == theirs.initial_part_size
    else:
        assert dandi_part_size(size) == 64 * MIB >= size


def test_an_empty_file_has_no_parts():
    assert part_count(0) == 0
    assert dandi_part_size(0) == 64 * MIB


@pytest.mark.parametrize("size", [-1, 5 * 2**40 + 1])
def test_an_impossible_size_has_no_part_size(size):
    with pytest.raises(ValueError, match=str(size)):
        dandi_part_size(size)
