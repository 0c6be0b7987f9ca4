"""Files, functions and classes of the packages stay small enough to be read at once."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SOURCES = Path(__file__).parents[2] / "src"

MAX_FILE = 400
"""Lines of code, without docstrings, comments and blank lines."""
MAX_FUNCTION = 60
"""Lines of code in a function's body: a command has as many parameters as options."""
MAX_METHODS = 12
"""Public methods of a class itself, without those that it inherits."""

EXEMPT = {
    "neuromirror/net/session.py": "one request: its limits, retries, redirects and errors",
    "neuromirror/sources/dandi/source.py:DandiSource": "the Source protocol and its optional parts",
    "neuromirror/store/store.py:Store": "the folders, locks and repositories of a store",
    "neuromirror/stream/file.py:VerifiedFile": "the interface of Python's binary files",
    "neuromirror/vault/directory.py:DirectoryVault": "one method per verb of a vault",
    "neuromirror/vault/protocol.py:Vault": "one method per verb of a vault",
    "neuromirror_demo/archive.py:Archive": "one method per verb of the simulated archive",
    "neuromirror_demo/boss/state.py:BossState": "one method per verb of the simulated archive",
    "neuromirror_demo/bucket_state.py:BucketState": "one method per verb of the simulated bucket",
    "neuromirror_demo/documents.py:DandiDocuments": "one method per document of the API",
}
"""Exceptions from the limits, with the reason."""


def _code_lines(text: str, tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that have code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE):
            continue
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def _too_long(
    text: str, path: str, tree: ast.AST, functions: list[tuple[Function, range]]
) -> Iterator[str]:
    """Yield the names of a file and of its functions that have too many lines of code."""
    code = _code_lines(text, tree)
    if len(code) > MAX_FILE:
        yield path
    for node, body in functions:
        if len(code.intersection(body)) > MAX_FUNCTION:
            yield f"{path}:{node.name}"


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements in a module or statement, without the expressions in them."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for one in getattr(node, block, ()):
            yield one
            yield from _statements(one)


def too_large(text: str, path: str) -> Iterator[str]:
    """Yield the names of a file and of what it defines that exceed a limit."""
    tree = ast.parse(text)
    nodes = [node for node in _statements(tree) if isinstance(node, (*_FUNCTIONS, ast.ClassDef))]
    functions = [
        (node, range(node.body[0].lineno, (node.end_lineno or 0) + 1))
        for node in nodes
        if isinstance(node, _FUNCTIONS)
    ]
    # counting the lines of code takes long: only where the lines of the text exceed a limit
    if text.count("\n") > MAX_FILE or any(len(body) > MAX_FUNCTION for _, body in functions):
        yield from _too_long(text, path, tree, functions)
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            methods = [
                one.name
                for one in node.body
                if isinstance(one, _FUNCTIONS) and not one.name.startswith("_")
            ]
            if len(methods) > MAX_METHODS:
                yield f"{path}:{node.name}"


def test_only_named_files_functions_and_classes_are_large() -> None:
    found = {
        name
        for path in sorted(SOURCES.rglob("*.py"))
        for name in too_large(path.read_text(), path.relative_to(SOURCES).as_posix())
    }
    assert found - set(EXEMPT) == set(), "split them, or add the reason to EXEMPT"
    assert set(EXEMPT) - found == set(), "these are small by now; remove them from EXEMPT"
