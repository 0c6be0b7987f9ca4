"""Files of the project and its pages: forbidden text, links, scripts, commands that exist."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import filterfalse
from pathlib import Path

from neuromirror.cli import main

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
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


def test_the_commands_of_the_readme_and_of_ci_can_be_started() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.is_file()]
    assert {"bootstrap", "demo", "docs", "lock", "test"} <= {path.name for path in scripts}
    for path in [*scripts, ROOT / ".ci" / "run"]:
        assert path.stat().st_mode & stat.S_IXUSR, path
        assert path.read_text("utf-8").startswith("#!"), path
    for name in ("scripts/demo", "scripts/test"):
        assert re.search(rf"^ +{name}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    (command,) = [line for line in lines if line and not line.startswith("#")]
    assert "scripts/test" in command


def test_links_in_pages_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text("utf-8"))
        for target in filter(None, link)
        if not re.match(r"[a-z]+:|#", target)
        if not (page.parent / target.partition("#")[0]).exists()
    ]
    assert dead == []


def test_the_index_of_the_docs_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in PAGES
        if path.is_relative_to(ROOT / "docs") and path.parent.name != "adr"
    } - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


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


DOCS = ROOT / "docs"


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


def test_life_of_a_sync_names_modules_that_exist() -> None:
    text = (DOCS / "explanation" / "life-of-a-sync.md").read_text("utf-8")
    steps = re.findall(r"^\| \d+\. .*\|(.*)\|$", text, re.M)
    modules = [name for step in steps for name in re.findall(r"`(neuromirror[\w.]+)`", step)]
    assert len(steps) >= 10
    service = set(re.findall(r"`(neuromirror\.service\.[\w.]+)`", text))
    assert {f"neuromirror.service.{name}" for name in ("jobs", "writer")} <= service
    assert [name for name in {*modules, *service} if find_spec(name) is None] == []


def test_which_command_names_every_command_and_no_other() -> None:
    text = (DOCS / "reference" / "which-command.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    code = " ".join(one for row in rows for one in re.findall(r"`([^`]+)`", row))
    visible = {name for name, one in main.commands.items() if not one.hidden}
    assert visible - set(re.findall(r"[\w-]+", code)) == set()
    called = set(re.findall(r"`neuromirror(?: --[\w-]+)* ([a-z][\w-]*)", text))
    assert called <= set(main.commands)
