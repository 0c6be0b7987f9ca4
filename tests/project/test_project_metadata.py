"""The project's metadata agrees in all places."""

import ast
import configparser
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import neuromirror

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="setup")
def fixture_setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    return setup


def requirement_lines(extra: str | None) -> list[Requirement]:
    """Return what the project asks for, in an extra or in the base."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    text = (
        setup["options"]["install_requires"]
        if extra is None
        else setup["options.extras_require"][extra]
    )
    return [Requirement(line) for line in text.split("\n") if line]


def requirements(extra: str | None) -> set[str]:
    """Return the names of the packages that the project asks for, in an extra or in the base."""
    return {canonicalize_name(one.name) for one in requirement_lines(extra)}


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def hashed(layer: str) -> set[str]:
    """Return the pins of ``requirements/<layer>.txt`` and of what it includes, all with hashes."""
    _, *lines = (ROOT / "requirements" / f"{layer}.txt").read_text("utf-8").splitlines()
    text = re.sub(r" \\\n +(?=--hash)", " ", "\n".join(lines))
    found: set[str] = set()
    for line in text.splitlines():
        if line.startswith("--requirement "):
            found |= hashed(line.split()[1].removesuffix(".txt"))
            continue
        pin, *hashes = line.split(" --hash=sha256:")
        assert hashes, line
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
        found.add(pin)
    return found


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def group(name: str) -> set[str]:
    """Names of the packages in a dependency group, with those of the groups that it includes."""
    found: set[str] = set()
    for one in pyproject()["dependency-groups"][name]:
        if isinstance(one, dict):
            found |= group(one["include-group"])
        else:
            found.add(canonicalize_name(Requirement(one).name))
    return found


def test_the_installed_package_has_the_version_of_the_source() -> None:
    assert version("neuromirror") == neuromirror.__version__


def test_citation_and_changelog_name_the_version_and_its_day() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(citation)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = f"{citation['version']}, first release ({citation['date-released']})"
    assert re.findall(r"^## (.*)$", changelog, re.MULTILINE) == [newest]
    assert citation["version"] == neuromirror.__version__


def test_entry_points_lead_to_something(setup: configparser.ConfigParser) -> None:
    groups = setup["options.entry_points"]
    assert {"console_scripts", "neuromirror.sources"} <= set(groups)
    for group, lines in groups.items():
        for line in lines.strip().splitlines():
            module, _, name = line.partition("=")[2].strip().partition(":")
            loaded = __import__(module, fromlist=[name])
            # DataLad takes a description of commands: nothing to call
            assert group == "datalad.extensions" or callable(getattr(loaded, name)), line


def test_a_base_install_has_what_a_user_needs_and_nothing_of_an_operator() -> None:
    assert {"boto3", "datalad", "git-annex", "sqlite-utils"} <= requirements(None)
    assert not requirements(None) & {"apscheduler", "dandi", "flask", "intern", "moto", "pynwb"}


def test_extras_are_for_users_and_groups_for_a_checkout(setup: configparser.ConfigParser) -> None:
    extras = set(setup["options.extras_require"])
    assert extras == {"all", "cluster", "dandi-cli", "demo", "service", "stream", "volumes", "web"}
    for extra in extras:
        assert requirements(extra), extra
        assert requirements(extra) <= requirements("all"), extra
    assert not requirements("all") & group("test")


def test_constraints_pin_every_requirement_once(setup: configparser.ConfigParser) -> None:
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names))
    assert requirements(None) | requirements("all") | group("test") | {"pip", "setuptools"} <= set(
        names
    )
    for pin in pins():
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.+!]*", str(pin.specifier)), pin
        assert pin.url is None


def test_constraints_fit_the_requirements() -> None:
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins()}
    for one in [*requirement_lines(None), *requirement_lines("all")]:
        chosen = pinned[canonicalize_name(one.name)]
        assert one.specifier.contains(chosen, prereleases=True), one


def test_what_is_installed_has_the_pins_of_the_constraints_and_hashes() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert hashed("test") == {line for line in lines if "==" in line}
    for layer, wanted in {
        "build": {"pip", "setuptools", "uv"},
        "service": requirements(None) | requirements("cluster") | requirements("web"),
        "all": requirements(None) | requirements("all"),
    }.items():
        pinned = hashed(layer)
        assert pinned < hashed("test")
        assert wanted <= {canonicalize_name(Requirement(pin).name) for pin in pinned}


def test_every_imported_package_is_required() -> None:
    distributions = packages_distributions()
    required = requirements(None) | requirements("all")
    # parts of Starlette, uvicorn and Jinja2
    required |= {"anyio", "h11", "markupsafe"}
    imported = set()
    for path in (ROOT / "src/neuromirror").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    for name in imported - sys.stdlib_module_names - {"neuromirror", "neuromirror_demo"}:
        names = {canonicalize_name(distribution) for distribution in distributions[name]}
        assert names & required, f"setup.cfg lacks {name}"
