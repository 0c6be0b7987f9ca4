"""Failed tests run a second time, and only those that then pass do not fail the run."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BESIDE_OTHERS = """
import os, sys, pytest
beside_others = not any(one.startswith("--passed-to=") for one in sys.argv)
"""
FLAKY = """
@pytest.mark.parametrize("name", ["a b", "a::b[", "\\u00e9"])
def test_call(name):
    assert not beside_others
@pytest.fixture
def setup():
    assert not beside_others
@pytest.fixture
def teardown():
    yield
    assert not beside_others
def test_setup_and_teardown(setup, teardown):
    pass
def test_teardown(teardown):
    pass
def test_crash():
    if beside_others:
        os._exit(3)
"""
FAILS = "def test_fails():\n    assert False\n"
FAILS_TEARDOWN = """
@pytest.fixture
def broken():
    yield
    assert False
def test_fails_teardown(broken):
    pass
"""
SKIPPED = """
def test_fails_and_skips():
    if not beside_others:
        pytest.skip("not passed")
    assert False
"""
PASSES = "def test_passes():\n    pass\n"


IN_WORKERS = ("-p", "xdist", "-n", "1", "--dist", "worksteal", "--rerun-failed=40")


def run(folder: Path, text: str, *options: str) -> tuple[int, dict[str, int]]:
    """Run ``text`` as a test file, and return the exit code and the counts of the last line."""
    (folder / "test_it.py").write_text(BESIDE_OTHERS + text, "utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p pytest_timeout -p support.rerun_failed\n"
    )
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    environment |= {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.splitlines()[-1]
    found = re.findall(r"(\d+) (passed|failed|errors?|flaky)", last)
    return done.returncode, {name.removesuffix("s"): int(count) for count, name in found}


def test_flaky_tests_do_not_fail_the_run(tmp_path: Path) -> None:
    # The two tests of which only the teardown failed count as passed as well, as pytest does
    code, counts = run(tmp_path, FLAKY + PASSES, *IN_WORKERS)
    assert (code, counts) == (0, {"passed": 2, "flaky": 6})


def test_tests_that_do_not_pass_in_the_second_run_fail_the_run(tmp_path: Path) -> None:
    failing = FAILS + FAILS_TEARDOWN + SKIPPED
    code, counts = run(tmp_path, failing + PASSES + FLAKY, *IN_WORKERS, "-k", "not crash")
    assert (code, counts) == (1, {"failed": 2, "error": 1, "passed": 3, "flaky": 5})
