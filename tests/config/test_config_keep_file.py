"""``keep.toml``: a plain list of lock files and their vaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.config.vault_files import KEEP_FILE, Keep, load_keeps
from neuromirror.model import ConfigurationError

GOOD = '[[keep]]\nlocks = "../papers/*/datasets.lock"\nvault = "nas"\n'


def write(folder: Path, text: str) -> Path:
    (folder / "vaults").mkdir(exist_ok=True)
    (folder / "vaults" / KEEP_FILE).write_text(text)
    return folder / "vaults"


def test_locks_are_found_relative_to_the_file_wherever_the_command_runs(tmp_path: Path) -> None:
    folder = tmp_path / "[lab]"
    for name in ("a", "b"):
        (folder / "papers" / name).mkdir(parents=True)
        (folder / "papers" / name / "datasets.lock").touch()
    (folder / "papers" / "c" / "datasets.lock").mkdir(parents=True)
    found = load_keeps(
        write(folder, GOOD + '[[keep]]\nlocks = "/no/*.lock"\nvault = "nas"'), ["nas"]
    )
    assert found.keeps[0] == Keep(locks="../papers/*/datasets.lock", vault="nas", check_days=90)
    papers = folder / "papers"
    assert found.find_locks(found.keeps[0]) == [
        papers / "a" / "datasets.lock",
        papers / "b" / "datasets.lock",
    ]
    assert found.find_locks(found.keeps[1]) == []
    assert load_keeps(tmp_path, ()).keeps == ()


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('vault = "nas"', "", "keep.0.vault"),
        ('vault = "nas"', 'vault = "tape"', "keep.0.vault.*tape.toml"),
        ('vault = "nas"', 'vault = "nas"\nhours = "20:00-06:00"', "unknown setting 'keep.0.hours'"),
        ('vault = "nas"', 'vault = "nas"\ncheck_days = 0', "keep.0.check_days"),
        ("../papers/*/datasets.lock", "", "keep.0.locks"),
        ("[[keep]]", "announce_days = 14\n[[keep]]", "unknown setting 'announce_days'"),
    ],
)
def test_an_invalid_file_is_one_error_that_names_the_file_and_the_key(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as error:
        load_keeps(write(tmp_path, GOOD.replace(before, after)), ["nas"])
    assert KEEP_FILE in str(error.value)
