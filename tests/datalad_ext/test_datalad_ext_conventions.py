"""DataLad's own tests of its interfaces, on our commands."""

import inspect
import re
from importlib import import_module

import pytest
from datalad.interface.common_opts import eval_params
from datalad.tests import test_api

from neuromirror.datalad_ext import command_suite


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
    for one in parameters - set(eval_params):
        assert re.search(rf"^{one}( :|$)", documented, re.MULTILINE), one
    assert interface._examples_[0].keys() == {"text", "code_py", "code_cmd"}


def test_the_python_api_stays_clean() -> None:
    test_api.test_basic_setup()
