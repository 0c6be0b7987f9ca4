"""The project's metadata agrees in all places."""

from __future__ import annotations

import configparser
import re
import tomllib
from importlib.metadata import metadata, requires, version
from pathlib import Path

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


def requirements(extra: str | None) -> set[str]:
    """Names of the packages that the installed project asks for, in an extra or in the base."""
    found: set[str] = set()
    for line in requires("neuromirror") or []:
        one = Requirement(line)
        base = one.marker is None or one.marker.evaluate({"extra": ""})
        if base if extra is None else not base and one.marker.evaluate({"extra": extra}):
            found.add(canonicalize_name(one.name))
    return found


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_pyproject_holds_only_the_build_system() -> None:
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))) == {"build-system"}


def test_the_installed_package_has_the_version_of_the_source() -> None:
    assert version("neuromirror") == neuromirror.__version__


def test_citation_and_changelog_name_the_version_and_its_day() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(citation)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    newest = f"[{citation['version']}] - {citation['date-released']}"
    assert headings[1] == newest
    assert citation["version"] == neuromirror.__version__


def test_the_metadata_says_what_a_person_needs_to_know() -> None:
    fields = metadata("neuromirror")
    assert fields["Name"] == "neuromirror"
    assert fields["Requires-Python"] == ">=3.11"
    assert "MIT" in (fields.get_all("License-Expression") or fields.get_all("License") or [])
    assert fields["Author"] == "The neuromirror developers"
    assert "MIT License" in (ROOT / "LICENSE").read_text("utf-8")
    assert fields["Description-Content-Type"] == "text/markdown"
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in (
            fields.get_all("Classifier") or []
        )


def test_entry_points_lead_to_something(setup: configparser.ConfigParser) -> None:
    groups = setup["options.entry_points"]
    assert {"console_scripts", "neuromirror.sources"} <= set(groups)
    for group, lines in groups.items():
        for line in lines.strip().splitlines():
            module, _, name = line.partition("=")[2].strip().partition(":")
            loaded = __import__(module, fromlist=[name])
            # DataLad takes a description of commands, Datasette a module: nothing to call
            described = group in ("datalad.extensions", "datasette")
            assert described or callable(getattr(loaded, name)), line


def test_a_base_install_is_small() -> None:
    heavy = {"boto3", "dandi", "datalad", "flask", "git-annex", "intern", "moto", "numpy", "pynwb"}
    assert not requirements(None) & heavy
    assert len(requirements(None)) <= 9


def test_the_test_extra_holds_all_that_the_others_hold(setup: configparser.ConfigParser) -> None:
    for extra in setup["options.extras_require"]:
        assert requirements(extra), extra
        assert requirements(extra) <= requirements("test"), extra


def test_constraints_pin_every_requirement_once(setup: configparser.ConfigParser) -> None:
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names))
    assert requirements(None) | requirements("test") | {"pip", "setuptools"} <= set(names)
    for pin in pins():
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.+!]*", str(pin.specifier)), pin
        assert pin.url is None


def test_constraints_fit_the_requirements() -> None:
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins()}
    for line in requires("neuromirror") or []:
        one = Requirement(line)
        chosen = pinned[canonicalize_name(one.name)]
        assert one.specifier.contains(chosen, prereleases=True), line
