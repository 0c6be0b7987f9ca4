"""Pages name existing tests, modules and commands; the generated pages are up to date."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from neuromirror.cli import main
from support.documented_tests import ROOT, check_rows, named_tests, table_rows

DOCS = ROOT / "docs"
FAULTS = DOCS / "explanation" / "faults.md"
FAULT_HEAD = ["fault", "what must hold", "what the operator sees", "test"]
EXPECTED_FAULTS = [
    *("SIGKILL at every step", "SIGTERM to a sync", "SIGTERM to the service"),
    *("full for a pack", "full for the index", "full for temporary", "EIO", "Read-only store"),
    *("between git's refs and the index", "Index deleted", "Index corrupt", "Two services"),
    *("same dataset on two hosts", "Stale locks", "Clock off by a day", "Summer time"),
    *("Empty list with 200", "cut in mid-page", "token that repeats", "changing while it is"),
    *("Mass removal", "HTML login page", "403 on everything", "404 once", "404 N times"),
    *("Retry-After in seconds or as a date", "huge Retry-After", "5xx", "Timeouts", "slow drip"),
    *("Truncated or wrong-length", "same id with new bytes", "with `modified` unchanged"),
    *("`modified` going back", "digest that appears later", "digest wrong upstream"),
    *("URL A corrupt", "Hostile names", ".gitmodules", "`file:`", "127.0.0.1", "169.254.169.254"),
    *("A redirect to", "DNS rebinding", "A token in a URL", "JSON bomb", "Deep nesting"),
    *("gzip bomb", "10 million entries", "script", "flipped bit", "Takedown", "30 days down"),
    "An old state replayed",
]
THREATS = DOCS / "explanation" / "threat-model.md"
THREAT_HEAD = ["entry point", "attack", "defence", "module", "test"]
ADVERSARY_HEAD = ["adversary", "what they control", "what they do not"]
ADVERSARIES = {
    *("Hostile archive", "Lock sender", "Mirror", "Clone", "Visitor", "Plug-in", "Local user"),
}


def generate(root: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(root / "scripts" / "reference.py"), "--check"]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_generated_pages_are_up_to_date() -> None:
    ended = generate(ROOT)
    assert (ended.stdout, ended.returncode) == ("", 0), ended.stdout + ended.stderr


def test_a_generated_page_that_differs_is_named(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "reference.py", tmp_path / "scripts")
    (tmp_path / "docs" / "reference" / "commands.md").write_text("# Commands\n", "utf-8")
    ended = generate(tmp_path)
    assert ended.returncode == 1
    assert "docs/reference/commands.md is out of date: run scripts/docs" in ended.stdout
    assert "mirror.schema.json" not in ended.stdout


def test_every_fault_has_a_row_and_tests_that_exist() -> None:
    rows = table_rows(FAULTS, FAULT_HEAD)
    assert sum(len(named_tests(row)) for row in rows) > 100
    faults = [row[0].lower() for row in rows]
    assert [fault for fault in faults if faults.count(fault) > 1] == []
    assert [
        one for one in EXPECTED_FAULTS if not any(one.lower() in fault for fault in faults)
    ] == []
    check_rows(rows, FAULT_HEAD)


def test_every_attack_has_a_module_a_defence_and_tests_that_exist() -> None:
    rows = table_rows(THREATS, THREAT_HEAD)
    assert len(rows) > 40
    assert sum(len(named_tests(row)) for row in rows) > 60
    check_rows(rows, THREAT_HEAD)
    for row in rows:
        for name in re.findall(r"`([^`]+)`", row[3]):
            path = Path("src", *name.split(".")) if name.startswith("neuromirror") else Path(name)
            assert any((ROOT / one).exists() for one in (path, path.with_suffix(".py"))), name
    assert {row[0] for row in table_rows(THREATS, ADVERSARY_HEAD)} >= ADVERSARIES
    assert "\n## Residual risks\n" in THREATS.read_text("utf-8")


def test_life_of_a_sync_names_modules_that_exist_each_in_one_step() -> None:
    text = (DOCS / "explanation" / "life-of-a-sync.md").read_text("utf-8")
    steps = re.findall(r"^\| \d+\. .*\|(.*)\|$", text, re.M)
    modules = [name for step in steps for name in re.findall(r"`(neuromirror[\w.]+)`", step)]
    assert len(steps) >= 10
    assert sorted(set(modules)) == sorted(modules)
    service = set(re.findall(r"`(neuromirror\.service\.[\w.]+)`", text))
    assert {f"neuromirror.service.{name}" for name in ("job_recorder", "writer")} <= service
    assert [name for name in {*modules, *service} if find_spec(name) is None] == []


def test_which_command_names_every_command_and_no_other() -> None:
    text = (DOCS / "reference" / "which-command.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    code = " ".join(one for row in rows for one in re.findall(r"`([^`]+)`", row))
    visible = {name for name, one in main.commands.items() if not one.hidden}
    assert visible - set(re.findall(r"[\w-]+", code)) == set()
    called = set(re.findall(r"`neuromirror(?: --[\w-]+)* ([a-z][\w-]*)", text))
    assert called <= set(main.commands)
