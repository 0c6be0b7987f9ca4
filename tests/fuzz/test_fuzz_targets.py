"""Every target on its seeds, its past findings, and mutations of them; always the same ones."""

import json
import sys
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))

from fuzz_all import TARGETS
from fuzz_core import (
    CORPUS,
    FINDINGS,
    DisagreementError,
    Target,
    execute,
    fixed_seeds,
    minimise,
    target,
)
from fuzz_mutate import mutate


@pytest.mark.parametrize("one", TARGETS.values(), ids=lambda one: str(one.name))
def test_a_parser_of_foreign_bytes_keeps_its_bounds(one: Target) -> None:
    random, corpus = Random(one.name), one.corpus()
    inputs = [
        *corpus,
        *(mutate(one.kind, random.choice(corpus), random) for _ in range(_count(one))),
    ]
    for data in inputs:
        finding = execute(one, data)
        assert finding is None, (finding.data, finding.details)


def _count(one: Target) -> int:
    return 6 if one.is_slow else 20


def test_a_mutation_depends_only_on_its_seed_and_does_not_fail() -> None:
    # values that mutations share would be nested in themselves, which json cannot write
    first, again = ([mutate("json", b"[[1]]", Random(one)) for one in range(300)] for _ in "12")
    assert first == again


def test_a_valid_input_of_each_target_is_accepted() -> None:
    assert [one.name for one in TARGETS.values() if not any(map(one.accepts, one.seeds()))] == []


def test_stored_inputs_belong_to_targets_and_are_small() -> None:
    stored = [path for folder in (CORPUS, FINDINGS) for path in folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in stored} <= set(TARGETS)
    assert sum(path.stat().st_size for path in stored) < 300_000


def test_findings_are_distinguished_and_minimised(monkeypatch: pytest.MonkeyPatch) -> None:
    @target("broken", ValueError, seeds=fixed_seeds("ok"))
    def broken(data: bytes) -> None:
        if b"bad" in data:
            raise KeyError(data)
        if b"odd" in data:
            raise DisagreementError
        if b"much" in data:
            bytearray(100 << 20)
        raise ValueError

    one = TARGETS.pop("broken")
    assert execute(one, b"good") is None
    finding = execute(one, b"some bad input")
    assert finding is not None
    assert minimise(one, finding).data == b"bad"
    other = execute(one, b"odd")
    assert other is not None
    assert other.signature != finding.signature
    grown = execute(one, b"much")
    assert grown is None or grown.reason == "memory"


def test_the_script_counts_executions(tmp_path: Path) -> None:
    import fuzz

    arguments = ["globs", "--minutes", "0.002", "--corpus", str(tmp_path)]
    done = CliRunner().invoke(fuzz.main, arguments)
    summary = json.loads(done.stdout)
    # a separate process also executes mutations
    assert summary["executions"] > len(TARGETS["globs"].corpus())
    assert done.exit_code == (1 if summary["findings"] else 0)
    for arguments in (["no-such-target"], [], ["globs", "--all"]):
        assert CliRunner().invoke(fuzz.main, arguments).exit_code == 2
