"""Public functions and classes have numpydoc sections for parameters, results and errors."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import msgspec

SRC = Path(__file__).resolve().parents[2] / "src"
HELP_TEXTS = {"cli", "datalad_ext"}
"""Packages in which docstrings are the help texts of commands."""
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@cache
def public() -> dict[str, Any]:
    """Return what packages export, by its full name in the first package that exports it."""
    found: dict[str, Any] = {}
    for path in sorted((SRC / "neuromirror").rglob("__init__.py")):
        parts = path.parent.relative_to(SRC).parts
        if len(parts) == 1 or parts[1] in HELP_TEXTS:
            continue
        module = importlib.import_module(".".join(parts))
        for name in getattr(module, "__all__", ()):
            exported = getattr(module, name)
            if not any(exported is one for one in found.values()):
                found[f"{module.__name__}.{name}"] = exported
    return found


COMPLETE = [
    ["annex"],
    ["config"],
    ["conformance"],
    ["crawl"],
    ["git"],
    ["index"],
    ["lab"],
    ["lab", "cite"],
    ["lab", "verify"],
    ["mint"],
    ["model"],
    ["net"],
    ["previews"],
    ["service"],
    ["sources"],
    ["sources", "boss"],
    ["sources", "dandi"],
    ["sources", "ndstore"],
    ["sources", "precomputed"],
    ["sources", "s3"],
    ["sources", "volumes"],
    ["store"],
    ["transfer"],
    ["volume"],
    ["web"],
    ["web", "api"],
    ["web", "pages"],
    ["web", "server"],
]
"""Packages whose public classes also have documented methods and fields."""
NO_RESULT = {"None", "NoReturn", "Iterator[None]"}


def public_functions() -> dict[str, Any]:
    """Return public functions, and the methods of public classes, by their full names."""
    functions = {name: inspect.unwrap(one) for name, one in public().items()}
    methods = {
        f"{name}.{method}": inspect.unwrap(getattr(member, "__func__", member))
        for name, one in complete_classes().items()
        for method, member in vars(one).items()
        if not method.startswith("_") and inspect.isfunction(getattr(member, "__func__", member))
    }
    return {name: one for name, one in functions.items() if inspect.isfunction(one)} | methods


def complete_classes() -> dict[str, type]:
    """Return the public classes of the packages in COMPLETE."""
    return {
        name: one
        for name, one in public().items()
        if inspect.isclass(one) and name.split(".")[1:-1] in COMPLETE
    }


def sections(function: Any) -> dict[str, list[str]]:
    """Return the names in the sections of a docstring, by the kind of section."""
    parsed = griffe.Docstring(inspect.getdoc(function) or "", lineno=1).parse(
        "numpy", warnings=False
    )
    return {
        one.kind.value: [getattr(item, "name", "") or str(item.annotation) for item in one.value]
        for one in parsed
        if one.kind.value in ("attributes", "parameters", "returns", "yields", "raises")
    }


def raised(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the names of the exception classes that the function's own body raises."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    left = list(ast.iter_child_nodes(node))
    while left:
        one = left.pop()
        if isinstance(one, _NESTED):
            continue
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call):
            kind = ast.unparse(one.exc.func).rpartition(".")[2]
            if kind[0].isupper():
                yield kind
        left += ast.iter_child_nodes(one)


def undocumented(name: str, function: Any) -> Iterator[str]:
    """Yield what the docstring of a function lacks."""
    found, signature = sections(function), inspect.signature(function)
    parameters = {one.lstrip("*") for one in found.get("parameters", [])}
    for one in parameters ^ (set(signature.parameters) - {"self", "cls"}):
        yield f"{name}: parameter {one}"
    if signature.return_annotation not in NO_RESULT and not {"returns", "yields"} & set(found):
        yield f"{name}: result"
    errors = {
        one.rpartition(".")[2] for group in found.get("raises", []) for one in group.split(", ")
    }
    for one in set(raised(function)) - errors:
        yield f"{name}: error {one}"


def test_public_functions_document_their_parameters_results_and_errors() -> None:
    functions = public_functions()
    assert len(functions) > 500
    assert [one for name in functions for one in undocumented(name, functions[name])] == []


def test_public_records_document_their_fields() -> None:
    lacking = []
    records = {
        name: one
        for name, one in complete_classes().items()
        if dataclasses.is_dataclass(one) or issubclass(one, msgspec.Struct)
    }
    for name, record in records.items():
        found = sections(record)
        own = {one for one in vars(record).get("__annotations__", {}) if one[0] != "_"}
        commented = set(re.findall(r"^    (\w+): .*\n    \"\"\"", inspect.getsource(record), re.M))
        documented = {
            one
            for group in (*found.get("attributes", []), *found.get("parameters", []))
            for one in group.split(", ")
        }
        lacking += [f"{name}.{one}" for one in own - commented - documented]
    assert len(records) > 100
    assert lacking == []
