"""No package calls a higher one through a function or an object that the higher one passes to it.

Checked are calls in which a package passes a function, a bound method, or an object of its own to
a parameter of a lower package that is annotated with a Callable or a Protocol. Those in REVIEWED
were reviewed: nothing of a higher package is reached through them, or the reason is given.
"""

from __future__ import annotations

import ast
import configparser
import gc
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STANDARD_METHODS = {"read", "run", "sub", "submit"}
"""Methods of files, asyncio, patterns and thread pools with the names of our functions."""

_PROGRESS = "receives progress or results to show, and returns nothing"
_PURE = "a pure function of its arguments"
_AT_ONCE = "called at once with the index, like the body of a with block"
_SETTING = "returns a setting of the caller: a token, a session, or whether an address is allowed"

REVIEWED = {
    "annex.initialize(git)": "runs git in the clone; annex may not import git",
    "conformance.check_archive(progress)": _PROGRESS,
    "crawl.ask(question)": _AT_ONCE,
    "crawl.FailureLog(recorder)": "the recorder that crawl.open_recorder returned",
    "crawl.rebuild_index(progress)": _PROGRESS,
    "custody.KeepOptions(report_bytes)": _PROGRESS,
    "custody.adopt_files(progress)": _PROGRESS,
    "index.RemoteIndex(sender)": "sends queries to the writer of the service (ADR 26)",
    "index.SandboxIndex(prepare)": "adds the SQL functions of Datasette to a connection",
    "lab.AuditSettings(token)": _SETTING,
    "lab.run_digests(token)": _SETTING,
    "lab.verify(token)": _SETTING,
    "mint.mint(label)": _PURE,
    "mint.mint_delta(changes)": "reads a file of changes",
    "mint.mint_delta(label)": _PURE,
    "mint.SortedLines(key)": _PURE,
    "mint.names_in_folder(key)": _PURE,
    "mint.names_in_folder(lines_from)": "reads lines of a file",
    "mint.run_worker(write)": "writes a pack in a worker process; mint calls nothing else",
    "net.ConnectionFactory(session_for)": _SETTING,
    "net.Session(is_private_allowed)": _SETTING,
    "net.Session(private_hint)": _SETTING,
    "net.get_bytes(parse)": _PURE,
    "service.ask(question)": _AT_ONCE,
    "service.serve_once(on_result)": _PROGRESS,
    "store.JournalRefs(entries)": "a list",
    "store.drop_entries(should_drop)": _PURE,
    "stream.export_references(progress)": _PROGRESS,
    "transfer.BlockDigestsRecorder(report_bytes)": _PROGRESS,
    "transfer.RangeFile(session_for)": _SETTING,
    "transfer.S3Access(is_private_allowed)": _SETTING,
    "transfer.map_in_order(work)": "the function of a thread pool's map",
    "volume.export(progress)": _PROGRESS,
    "transfer.VerifyScope(is_selected)": _PURE,
    "transfer.VerifyScope(reaches)": _PURE,
    "web.serve_catalogue(on_ready)": _PROGRESS,
    "service.join(progress)": _PROGRESS,
}
"""The reason by package, function and parameter."""


def layer_ranks() -> dict[str, int]:
    """Return the rank of each package in the import contract; a higher package has a higher one."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].split("\n")
    rows = [[one.strip() for one in layer.split("|")] for layer in layers if layer.strip()]
    return {name: -number for number, row in enumerate(rows) for name in row}


@dataclass
class Module:
    """A parsed file."""

    package: str
    path: str
    tree: ast.Module

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        """Yield all functions, with the name of their class or an empty string."""
        for node in self.nodes:
            if isinstance(node, (ast.Module, ast.ClassDef)):
                owner = node.name if isinstance(node, ast.ClassDef) else ""
                for one in node.body:
                    if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        yield owner, one

    @cached_property
    def function_names(self) -> set[str]:
        """The names of all functions, also of nested ones."""
        return {
            node.name
            for node in self.nodes
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }

    @cached_property
    def imported(self) -> dict[str, str]:
        """The package of each name that is imported from another package."""
        return {
            alias.asname or alias.name: node.module.split(".")[1]
            for node in self.nodes
            if isinstance(node, ast.ImportFrom)
            and node.module is not None
            and node.module.startswith("neuromirror.")
            for alias in node.names
        }


@dataclass(frozen=True)
class Callee:
    """A function with parameters that take callables."""

    package: str
    name: str
    positional: tuple[str, ...]
    callables: frozenset[str]


def _is_struct(node: ast.ClassDef) -> bool:
    return any("Struct" in ast.unparse(base) for base in node.bases)


class Checker:
    """Finds the calls in parsed modules."""

    def __init__(self, modules: list[Module], ranks: dict[str, int]) -> None:
        self._modules = modules
        self._ranks = ranks
        self._types = self._callable_types()
        self._callees = self._find_callees()
        self._functions = defaultdict(set)
        for module in modules:
            self._functions[module.package] |= module.function_names

    def _callable_types(self) -> set[str]:
        """Return the names of Callable, its aliases and all Protocols."""
        names = {"Callable"}
        for module in self._modules:
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef):
                    if any("Protocol" in ast.unparse(base) for base in node.bases):
                        names.add(node.name)
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    is_alias = ast.unparse(node.value).startswith("Callable[")
                    names.update([node.targets[0].id] if is_alias else [])
        return names

    def _takes_callable(self, annotation: ast.expr | None) -> bool:
        if annotation is None:
            return False
        return any(
            isinstance(node, ast.Name) and node.id in self._types for node in ast.walk(annotation)
        )

    def _find_callees(self) -> dict[str, list[Callee]]:
        found = defaultdict(list)
        for module in self._modules:
            for owner, function in module.functions():
                if function.name.startswith("_") and function.name != "__init__":
                    continue
                arguments = [*function.args.posonlyargs, *function.args.args][bool(owner) :]
                callables = frozenset(
                    one.arg
                    for one in (*arguments, *function.args.kwonlyargs)
                    if self._takes_callable(one.annotation)
                )
                name = owner if function.name == "__init__" else function.name
                full = name if name == owner or not owner else f"{owner}.{name}"
                positional = tuple(one.arg for one in arguments)
                if callables:
                    found[name].append(Callee(module.package, full, positional, callables))
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef) and (node.decorator_list or _is_struct(node)):
                    fields = {
                        one.target.id: self._takes_callable(one.annotation)
                        for one in node.body
                        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                    }
                    callables = frozenset(name for name, taken in fields.items() if taken)
                    if callables:
                        callee = Callee(module.package, node.name, tuple(fields), callables)
                        found[node.name].append(callee)
        return found

    def calls_upward(self) -> Iterator[tuple[str, str]]:
        """Yield the parameter and the location of each call."""
        for module in self._modules:
            for node in module.nodes:
                if isinstance(node, ast.Call):
                    for callee in self._lower_callees(node, module):
                        for parameter in sorted(self._own_callables(node, callee, module)):
                            name = callee.name.rpartition(".")[2]
                            location = f"{module.path}:{node.lineno}"
                            yield f"{callee.package}.{name}({parameter})", location

    def _lower_callees(self, call: ast.Call, module: Module) -> Iterator[Callee]:
        called = call.func
        if isinstance(called, ast.Name):
            package = module.imported.get(called.id)
            candidates = [one for one in self._callees[called.id] if one.package == package]
        elif isinstance(called, ast.Attribute) and called.attr not in STANDARD_METHODS:
            candidates = [one for one in self._callees[called.attr] if "." in one.name]
        else:
            candidates = []
        for one in candidates:
            if self._ranks[one.package] < self._ranks[module.package]:
                yield one

    def _own_callables(self, call: ast.Call, callee: Callee, module: Module) -> Iterator[str]:
        imported = module.imported
        functions = {one for one in imported if one in self._functions[imported[one]]}
        functions |= module.function_names | {"self"}
        given = dict(zip(callee.positional, call.args, strict=False))
        given |= {one.arg: one.value for one in call.keywords if one.arg is not None}
        for name in callee.callables & given.keys():
            match given[name]:
                case ast.Lambda():
                    yield name
                case ast.Name(id=value) if value in functions:
                    yield name
                case ast.Attribute(attr=value) if value in self._functions[module.package]:
                    yield name
                case ast.Call(func=ast.Name(id=value)) if value[0].isupper() and (
                    self._ranks.get(imported.get(value, module.package), 1)
                    > self._ranks[callee.package]
                ):
                    yield name


def read_modules(folder: Path, ranks: dict[str, int]) -> list[Module]:
    """Parse the files of all packages in the import contract."""
    return [
        Module(path.relative_to(folder).parts[0], path.relative_to(folder).as_posix(), tree)
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0] in ranks
        for tree in [ast.parse(path.read_text())]
    ]


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Do not search the trees, which all stay in memory, for garbage again and again."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_functions_passed_to_lower_packages_were_reviewed() -> None:
    ranks = layer_ranks()
    checker = Checker(read_modules(ROOT / "src" / "neuromirror", ranks), ranks)
    found = defaultdict(list)
    for parameter, location in checker.calls_upward():
        found[parameter].append(location)
    new = {name: locations for name, locations in found.items() if name not in REVIEWED}
    assert new == {}, "move what is called into the lower package, or add the reason to REVIEWED"
    assert REVIEWED.keys() - found.keys() == set(), "these calls are gone; remove them"
