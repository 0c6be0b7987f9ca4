"""DataLad's own tests of its interfaces, on our commands; the store that all front ends open."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datalad.interface.common_opts import eval_params
from datalad.tests import test_api

import neuromirror
import neuromirror.volume
from neuromirror.cli import main
from neuromirror.datalad_ext import command_suite
from neuromirror.index import Index
from neuromirror.model import NeuromirrorError
from neuromirror.store import Store


@pytest.mark.parametrize(("module", "name"), [one[:2] for one in command_suite[1]])
def test_an_interface_is_as_datalad_expects(module: str, name: str) -> None:
    interface = getattr(import_module(module), name)
    spec = interface._params_
    positional = {one for one, it in spec.items() if it.cmd_args and it.cmd_args[0][0] != "-"}
    test_api._test_consistent_order_of_args(interface, positional)
    parameters = set(inspect.signature(interface.__call__).parameters)
    assert parameters - set(eval_params) == set(spec) - set(eval_params)
    documented = interface.__call__.__doc__
    assert documented.count("Parameters\n") == 1
    for parameter in parameters - set(eval_params):
        assert re.search(rf"^{parameter}( :|$)", documented, re.MULTILINE), parameter
    assert interface._examples_[0].keys() == {"text", "code_py", "code_cmd"}


def test_the_python_api_stays_clean() -> None:
    test_api.test_basic_setup()


@pytest.mark.parametrize("front", ["command line", "datalad", "stream", "volume"])
def test_all_front_ends_open_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: str
) -> None:
    for name in ("STORE", "INDEX", "MIRRORS"):
        monkeypatch.delenv(f"NEUROMIRROR_{name}", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with Index.open(Store.open(tmp_path / "data/neuromirror/store", create=True).index_path):
        pass
    version = "dandi:000027"
    if front == "command line":
        message = CliRunner().invoke(main, ["show", version]).output
    elif front == "datalad":
        pin = import_module("datalad.api").mirror_pin
        (record,) = pin(version, lock=str(tmp_path / "a.lock"), on_failure="ignore")
        message = record["message"]
    else:
        opened: Any = neuromirror.open if front == "stream" else neuromirror.volume.open
        with pytest.raises(NeuromirrorError) as error:
            opened(version, *["a.nwb"] * (front == "stream"))
        message = str(error.value)
    assert "the store has no mirror yet" in message
