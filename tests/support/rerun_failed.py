"""A pytest plugin: run failed tests again alone, so that a loaded machine does not fail the suite.

With ``--rerun-failed N``, up to ``N`` tests that failed beside others run once more, in one new
process. Those that pass are reported as ``flaky``, with their first failure, and do not fail the
run. Errors outside of tests (collection, an internal error, an interruption) always fail it.
"""

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

SECONDS = 900
"""The longest time for all tests that run again; a test not reached in it has failed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rerun failed")
    group.addoption(
        "--rerun-failed",
        type=int,
        default=0,
        metavar="N",
        help="run failed tests again in a process of their own, unless more than N failed",
    )
    group.addoption(
        "--passed-to", type=Path, metavar="FILE", help="write the ids of passed tests as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        if config.getoption("--rerun-failed"):
            config.pluginmanager.register(RerunFailed(config), "rerun-failed")
        if config.getoption("--passed-to"):
            config.pluginmanager.register(PassedTests(config.getoption("--passed-to")))


class PassedTests:
    """Write the ids of the tests that passed, including setup and teardown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.failed:
            self.passed.discard(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(sorted(self.passed)), "utf-8")


class RerunFailed:
    """Run failed tests again after the others have finished."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.limit: int = config.getoption("--rerun-failed")
        self.failed: dict[str, list[pytest.TestReport]] = {}
        self.collected = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.collected = self.collected and not report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Includes the report that xdist makes for the test during which a worker crashed
        if report.failed:
            self.failed.setdefault(report.nodeid, []).append(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        if self.failed and self.collected and not session.shouldstop and not session.shouldfail:
            self._rerun(session)
        return result

    def _rerun(self, session: pytest.Session) -> None:
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line("")
        count = len(self.failed)
        if count > self.limit:
            terminal.write_sep("=", f"{count} tests failed, too many to run again", red=True)
            return
        terminal.write_sep("=", f"running {count} failed tests again, alone", yellow=True)
        passed = self._run_separately(list(self.failed))
        for name in self.failed.keys() & passed:
            reports = self.failed[name]
            for category in ("failed", "error"):
                rest = [stat for stat in terminal.stats.pop(category, []) if stat not in reports]
                if rest:
                    terminal.stats[category] = rest
            session.testsfailed -= len(reports)
            terminal._add_stats("flaky", reports[:1])

    def _run_separately(self, names: Sequence[str]) -> set[str]:
        path = Path(self.config.cache.mkdir("rerun-failed"), "passed.json")
        path.unlink(missing_ok=True)
        sys.stdout.flush()
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
        options = ["-v", "--tb=short", f"--passed-to={path}", f"--session-timeout={SECONDS}"]
        subprocess.run([*command, *options, "--", *names], cwd=self.config.rootpath, check=False)
        return set(json.loads(path.read_text("utf-8"))) if path.exists() else set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        flaky = terminalreporter.getreports("flaky")
        if not flaky:
            return
        terminalreporter.write_sep("=", "FLAKY: failed beside other tests, passed alone")
        for report in flaky:
            terminalreporter.write_sep("_", report.nodeid, yellow=True)
            report.toterminal(terminalreporter._tw)
        for report in flaky:
            terminalreporter.write_line(f"FLAKY {report.nodeid}", yellow=True)
