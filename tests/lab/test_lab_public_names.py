"""The public names of the package, and their lazy imports."""

import subprocess
import sys

import pytest

import neuromirror.lab as package


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there() -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = package.nothing_of_ours  # type: ignore[attr-defined]


def test_a_verb_does_not_load_the_others() -> None:
    code = (
        "import sys\n"
        "from neuromirror.lab import Lock, load_lock\n"
        "loaded = [name for name in sys.modules if name.startswith('neuromirror.')]\n"
        "print([name for name in loaded if name.split('.')[1] in ('crawl', 'store', 'index')])\n"
    )
    assert output_of(code) == "[]"


def test_a_verb_is_a_function_even_once_its_module_was_imported() -> None:
    code = (
        "import neuromirror.lab.pin, neuromirror.lab.restore, neuromirror.lab.reproduce\n"
        "from neuromirror.lab.pin import Outcome\n"
        "from neuromirror.lab import pin, reproduce, restore\n"
        "print(callable(pin), callable(reproduce), callable(restore))\n"
    )
    assert output_of(code) == "True True True"
