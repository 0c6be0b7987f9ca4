"""The file of policies: what is accepted, and one clear error for everything else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuromirror.config.policy_files import Policy, load_policies
from neuromirror.config.vault_files import POLICY_FILE, load_vaults
from neuromirror.model import ConfigurationError

GOOD = """
announce_days = 10

[[keep]]
name = "papers"
what = "pins"
locks = ["../locks"]
vaults = ["nas", "cloud"]

[[keep]]
name = "hippocampus"
what = "published"
mirrors = ["dandi"]
keywords = ["hippocampus"]
vaults = ["cloud", "nas"]
copies = 1
max_gigabytes = 1.5
megabytes_per_second = 20
hours = "20:00-06:00"
"""


def write(folder: Path, text: str) -> Path:
    """Write the file of policies; return the folder."""
    (folder / POLICY_FILE).write_text(text, "utf-8")
    return folder


def test_a_file_with_two_policies(tmp_path: Path) -> None:
    policies = load_policies(write(tmp_path, GOOD), {"nas", "cloud"})
    first, second = policies.find(())
    assert (first.required_copies, first.max_bytes, first.bytes_per_second) == (2, None, None)
    assert (second.required_copies, second.max_bytes) == (1, 1_500_000_000)
    assert second.bytes_per_second == 20_000_000
    assert policies.announce.days == 10
    assert policies.find(("hippocampus",)) == (second,)
    assert load_vaults(tmp_path) == {}


def test_without_a_file_there_are_no_policies(tmp_path: Path) -> None:
    policies = load_policies(tmp_path, set())
    assert policies.settings.keep == ()
    with pytest.raises(ConfigurationError, match="no policy"):
        policies.find(())


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('what = "pins"', 'what = "some"', "what"),
        ('locks = ["../locks"]', "", "locks"),
        ('vaults = ["nas", "cloud"]', "vaults = []", "vaults"),
        ('vaults = ["nas", "cloud"]', 'vaults = ["nas", "nas"]', "twice"),
        ('vaults = ["nas", "cloud"]', 'vaults = ["nas", "tape"]', "tape"),
        ("copies = 1", "copies = 3", "copies"),
        ("copies = 1", "copy = 1", "copy"),
        ('hours = "20:00-06:00"', 'hours = "8pm"', "8pm"),
        ('hours = "20:00-06:00"', 'hours = "20:00-25:00"', "25:00"),
        ("announce_days = 10", "announce_days = 3", "announce_days"),
        ('name = "hippocampus"', 'name = "papers"', "papers"),
        ('name = "hippocampus"', 'name = "Hippo Campus"', "Hippo"),
    ],
)
def test_an_invalid_file_is_one_error_that_names_the_setting(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    assert before in GOOD
    with pytest.raises(ConfigurationError, match=named) as error:
        load_policies(write(tmp_path, GOOD.replace(before, after)), {"nas", "cloud"})
    assert POLICY_FILE in str(error.value)


def test_mirrors_and_patterns_select_datasets() -> None:
    base = {"name": "p", "what": "all", "vaults": ["nas"]}
    policy = Policy.model_validate(base | {"mirrors": ["dandi"], "datasets": ["*:0000[12]*"]})
    assert policy.selects("dandi:000010")
    assert not policy.selects("dandi:000030")
    assert not policy.selects("ember:000010")
    assert Policy.model_validate(base).selects("ember:000010")


@pytest.mark.parametrize(
    ("hours", "open_at", "share"),
    [
        (None, set(range(24)), 1.0),
        ("20:00-06:00", {20, 21, 22, 23, 0, 1, 2, 3, 4, 5}, 10 / 24),
        ("08:00-10:00", {8, 9}, 2 / 24),
        ("22:00-24:00", {22, 23}, 2 / 24),
        ("00:00-24:00", set(range(24)), 1.0),
    ],
)
def test_hours_of_a_day(hours: str | None, open_at: set[int], share: float) -> None:
    policy = Policy.model_validate({"name": "p", "what": "all", "vaults": ["v"], "hours": hours})
    moments = [datetime(2026, 11, 23, hour, tzinfo=UTC) for hour in range(24)]
    assert {at.hour for at in moments if policy.is_open_at(at)} == open_at
    assert policy.open_share == pytest.approx(share)
