"""Public functions and classes have numpydoc sections for parameters, results and errors."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import griffe
import msgspec

SRC = Path(__file__).resolve().parents[2] / "src"
HELP_TEXTS = {"cli", "datalad_ext"}
"""Packages in which docstrings are the help texts of commands."""
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _public() -> dict[str, Any]:
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


PUBLIC = _public()
FUNCTIONS = {
    name: inspect.unwrap(one)
    for name, one in PUBLIC.items()
    if inspect.isfunction(inspect.unwrap(one))
}
CLASSES = {name: one for name, one in PUBLIC.items() if inspect.isclass(one)}


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
METHODS = {
    f"{name}.{method}": inspect.unwrap(getattr(member, "__func__", member))
    for name, one in CLASSES.items()
    if name.split(".")[1:-1] in COMPLETE
    for method, member in vars(one).items()
    if not method.startswith("_") and inspect.isfunction(getattr(member, "__func__", member))
}
FIELDS = {
    name: one
    for name, one in CLASSES.items()
    if name.split(".")[1:-1] in COMPLETE
    and (dataclasses.is_dataclass(one) or issubclass(one, msgspec.Struct))
}
DOCUMENTED = {**FUNCTIONS, **METHODS}
NO_RESULT = {"None", "NoReturn", "Iterator[None]"}


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
    assert len(FUNCTIONS) > 150
    assert len(METHODS) > 150
    lacking = [one for name, function in DOCUMENTED.items() for one in undocumented(name, function)]
    assert lacking == []


def test_public_records_document_their_fields() -> None:
    lacking = []
    for name, record in FIELDS.items():
        found = sections(record)
        own = {one for one in vars(record).get("__annotations__", {}) if one[0] != "_"}
        commented = set(re.findall(r"^    (\w+): .*\n    \"\"\"", inspect.getsource(record), re.M))
        documented = {
            one
            for group in (*found.get("attributes", []), *found.get("parameters", []))
            for one in group.split(", ")
        }
        lacking += [f"{name}.{one}" for one in own - commented - documented]
    assert len(FIELDS) > 100
    assert lacking == []
