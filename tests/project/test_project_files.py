"""The files of the project: sizes, words that must not be in them, links that lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from itertools import filterfalse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_CODE_LINES = 460
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def texts() -> Iterator[tuple[str, str]]:
    """Yields name and content of every text file that is part of the project."""
    left_out = re.compile(
        r"\.venv.*|\.git|__pycache__|.*\.egg-info|build|dist|\..*(cache|hypothesis|benchmarks)"
    )
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not left_out.fullmatch(name)]
        for name in filterfalse(left_out.fullmatch, names):
            path = Path(folder, name)
            try:
                content = path.read_bytes().decode()
            except (UnicodeDecodeError, OSError):
                continue
            if "\0" not in content:
                yield path.relative_to(ROOT).as_posix(), content


def code_lines(path: Path) -> int:
    """Count the lines of a module without docstrings, comments and blank lines."""
    text = path.read_text("utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in docstrings
        for number, line in lines
    )


def test_source_files_stay_short_enough_to_read() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): code_lines(path) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_CODE_LINES} == {}


def test_nothing_is_left_to_do_in_the_text() -> None:
    pattern = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert [name for name, text in texts() if pattern.search(text)] == []


def test_no_file_mentions_a_machine() -> None:
    folders = re.compile(r"(?<![\w./*-])/(home|Users|root|work|opt)/[\w.]")
    registries = re.compile(r"py" r"pi\.org|python" r"hosted\.org|registry\.npm" r"js")
    found = [
        f"{name}: {match.group()}"
        for name, text in texts()
        for match in (folders.search(text), registries.search(text))
        if match
    ]
    assert found == []


def test_no_test_skips_itself_because_something_is_missing() -> None:
    pattern = re.compile(r"import" r"orskip|skip" r"if\(\s*(not )?(shutil|which|find_spec)")
    assert [path.name for path in TESTS if pattern.search(path.read_text("utf-8"))] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS if path.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)


def test_every_package_has_tests() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "neuromirror").glob("*/__init__.py")}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert packages - tested == set()


@pytest.mark.parametrize("name", ["scripts/demo", "scripts/test"])
def test_the_two_commands_of_the_readme_exist(name: str) -> None:
    assert re.search(rf"^ +{name}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_scripts_can_be_started_and_explain_themselves() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.is_file()]
    assert {"bootstrap", "demo", "docs", "lock", "test"} <= {path.name for path in scripts}
    for path in [*scripts, ROOT / ".ci" / "run"]:
        assert path.stat().st_mode & stat.S_IXUSR, path
        assert path.read_text("utf-8").startswith("#!"), path


def test_ci_runs_the_readmes_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert len(commands) == 1
    assert "scripts/test" in commands[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text("utf-8"))
    for target in filter(None, (one or other for one, other in links)):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_index_of_the_docs_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in PAGES
        if path.is_relative_to(ROOT / "docs") and path.parent.name != "adr"
    } - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_import_rules_name_every_package() -> None:
    rules = (ROOT / ".importlinter").read_text("utf-8")
    for path in (ROOT / "src" / "neuromirror").glob("*/__init__.py"):
        # packages of the same layer share a line
        named = re.search(rf"^    (.* )?\(?{path.parent.name}\)?( .*)?$", rules, re.MULTILINE)
        assert named, path.parent.name


def test_mirror_files_fit_the_schema_and_open() -> None:
    import json

    from jsonschema import Draft202012Validator

    from neuromirror.config.mirror_files import load_mirrors

    schema = json.loads((ROOT / "docs" / "reference" / "mirror.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    mirrors = load_mirrors(ROOT / "mirrors")
    assert {"dandi", "dandi-sandbox", "ember", "linc"} <= set(mirrors)
    for mirror in mirrors.values():
        content = tomllib.loads(mirror.path.read_text("utf-8"))
        assert [error.message for error in validator.iter_errors(content)] == []
        assert mirror.open().uri.startswith(("https://", "s3://", "boss://", "ndstore://"))
        assert list(validator.iter_errors({**content, "surce": 1})), "the schema accepts anything"
