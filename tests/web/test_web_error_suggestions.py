"""The name that causes an error is found among many, or given up soon."""

from __future__ import annotations

import pytest

from neuromirror.index import QueryStoppedError, UnknownVersionError
from neuromirror.web.request import find_cause
from support.mirror_harness import MirrorHarness

NAME = "demo:000001"
ERROR = UnknownVersionError("no such version")


def wrong_names(count: int) -> dict[str, tuple[str, str]]:
    return {f"demo:9{number:05}": (f"demo:9{number:05}", "") for number in range(count)}


def test_the_cause_is_found_after_other_names(demo_harness: MirrorHarness) -> None:
    right = {f"{NAME}?{number}": (NAME, "") for number in range(100)}
    cause = {"cause": (NAME, "nothing")}
    with demo_harness.index() as index:
        assert find_cause(index, ERROR, right | cause) == "cause"
        assert find_cause(index, ERROR, right | wrong_names(10) | cause) == "cause"
        assert find_cause(index, ERROR, right | wrong_names(1000) | cause) is None


def test_the_search_for_a_cause_notices_the_time_limit(demo_harness: MirrorHarness) -> None:
    with (
        demo_harness.index() as index,
        index.stop_when(lambda: True),
        pytest.raises(QueryStoppedError),
    ):
        find_cause(index, ERROR, wrong_names(3))
