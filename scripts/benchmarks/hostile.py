"""The benchmark ``hostile``: buckets with odd keys in neuromirror and ``git annex import``.

Each group of keys is a bucket with an additional ordinary object, because one odd key can make a
whole import fail. Nothing is timed: the table has the result for each key.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    commit,
    machine,
    own_environment,
    write_section,
)
from benchmarks.s3 import annex_repository, tree_of
from benchmarks.servers import Served, expect, moto_server, sync_once

PLAIN = b"plain/file.dat"

GROUPS: dict[str, tuple[bytes, ...]] = {
    "a file and a folder of one name": (b"both", b"both/child"),
    "git's own folder": (b".git/config",),
    "git's own file, deeper": (b"x/.gitmodules",),
    "two slashes beside one": (b"a//b", b"a/b"),
    "a slash first": (b"/first",),
    "the folder above": (b"up/../x",),
    "the folder itself": (b"here/./x",),
    "a marker of a folder": (b"marker/",),
    "a tab": (b"tab\there",),
    "a carriage return": (b"cr\rhere",),
    "a backslash": (b"back\\slash",),
    "a space and a hash": (b"with space#and hash",),
    "a percent sign that reads as an escape": (b"100%25",),
    "a name of 300 bytes": (b"n" * 300,),
    "a path of 1,024 bytes": (b"p" * 200 + b"/q" * 412,),
    "beyond ASCII": ("grün/日本".encode(),),
    "one letter in two spellings": ("\u00e9".encode(), "e\u0301".encode()),
    "two cases of one name": (b"Case", b"case"),
}


def through_neuromirror(folder: Path, served: Served, keys: list[bytes]) -> dict[bytes, str]:
    """Return the result for each key: its path in git, or the exception."""
    from neuromirror.annex import upstream_path
    from neuromirror.index import Index
    from neuromirror.store import Store

    store = folder / "store"
    sync_once(served.mirror(folder / "mirrors"), store)
    opened = Store.open(store)
    with Index.open_readonly(opened.index_path) as index:
        (dataset,) = index.datasets()
        (version,) = index.versions(dataset.name)
        named = {one["path"].encode(): one["reason"] for one in index.exceptions(version)}
    repository = opened.root / dataset.dataset_id[:3] / dataset.dataset_id[3:]
    paths = {upstream_path(path): path for path in tree_of(repository, "main")}
    trouble = _checkout_error(repository, "main", folder / "clone")
    found = {}
    for key in keys:
        if key in paths:
            same = paths[key] == key
            found[key] = "as it is" if same else f"as `{_shown(paths[key])}`"
            found[key] += f", but {trouble}" if trouble else ""
        elif key in named:
            found[key] = f"named exception `{named[key]}`"
        else:
            found[key] = "lost"
    return found


def through_annex(folder: Path, served: Served, keys: list[bytes]) -> dict[bytes, str]:
    """Return the result for each key of ``git annex import`` and a checkout."""
    repository = annex_repository(folder / "repository", served)
    done = subprocess.run(
        ["git", "-C", str(repository), "annex", "import", "main", "--from", "s3"],
        capture_output=True,
        check=False,
        timeout=300,
    )
    if _has(repository, "refs/remotes/s3/main"):
        paths = tree_of(repository, "s3/main")
        trouble = _checkout_error(repository, "refs/remotes/s3/main", folder / "clone")
    else:
        paths, trouble = [], ""
    message = _shortened(done.stderr.decode(errors="replace"), folder)
    ended = f"the import fails: {message}" if done.returncode else ""
    found = {}
    for key in keys:
        if paths.count(key) > 1:
            found[key] = f"{paths.count(key)} times in one tree"
        elif key in paths:
            found[key] = f"as it is, but {trouble}" if trouble else "as it is"
        elif PLAIN not in paths:
            found[key] = f"nothing at all arrives; {ended}"
        else:
            found[key] = f"lost; {ended}" if ended else "lost without a word"
    return found


def _has(repository: Path, reference: str) -> bool:
    command = ["git", "-C", str(repository), "rev-parse", "-q", "--verify", reference]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _checkout_error(repository: Path, reference: str, clone: Path) -> str:
    """Return why the tree cannot be checked out; empty if it can."""
    here = ["git", "-C", str(clone)]
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    done = None
    for arguments in (
        ["fetch", "-q", str(repository), f"{reference}:refs/heads/got"],
        ["checkout", "-q", "got"],
        ["diff", "--quiet", "HEAD"],
    ):
        done = subprocess.run([*here, *arguments], capture_output=True, check=False)
        if done.returncode:
            message = _shortened(done.stderr.decode(errors="replace"), clone.parent)
            return f"`git {arguments[0]}` fails: {message}"
    return ""


def _shortened(message: str, folder: Path) -> str:
    """Shorten an error message for a table, without paths of this machine."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    error_lines = [line for line in lines if line.startswith(("error:", "fatal:", "git-annex:"))]
    path = re.search(r'path += "([^"]*)"', message)
    status = re.search(r"statusCode = (\d+)", message)
    if path and status:
        chosen = f"it asks for {path[1]} and gets HTTP {status[1]}"
    else:
        chosen = (error_lines or lines or ["without a word"])[0]
    chosen = re.sub(r"(.)\1{20,}", r"\1\1\1…", chosen.replace(str(folder), "…"))
    return chosen.replace("|", "¦").replace("`", "'")[:120]


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    if not text.isprintable() or unicodedata.normalize("NFC", text) != text:
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= 60 else f"{text[:24]}…{text[-12:]} ({len(name)} bytes)"


METHODS: dict[str, Callable[[Path, Served, list[bytes]], dict[bytes, str]]] = {
    "neuromirror": through_neuromirror,
    "git annex import": through_annex,
}


def _try(method: str, keys: tuple[bytes, ...], folder: Path, pipe: Any) -> None:
    own_environment(folder)
    contents = {key: b"bytes of %d" % number for number, key in enumerate((*keys, PLAIN))}
    with moto_server(contents) as served:
        pipe.send(METHODS[method](folder, served, list(keys)))


def _lines() -> Iterator[dict[str, Any]]:
    """Yield one line per key and program with the result."""
    here = {"commit": commit(), "machine": machine()}
    for group, keys in GROUPS.items():
        click.echo(f"{group} …", err=True)
        for method in METHODS:
            with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
                context = get_context("spawn")
                ours, theirs = context.Pipe()
                process = context.Process(target=_try, args=(method, keys, Path(name), theirs))
                process.start()
                theirs.close()
                try:
                    found = ours.recv()
                except EOFError:
                    found = dict.fromkeys(keys, "")
                process.join()
                subprocess.run(["chmod", "-R", "u+w", name], check=False)
            expect(all(found.values()), f"{method} failed on {group}; see above")
            for key in keys:
                row = {"group": group, "key": _shown(key), "outcome": found[key]}
                yield {"bench": "hostile", "what": method, **row, **here}


def as_table(lines: list[dict[str, Any]]) -> str:
    """Return the Markdown table: one row per key."""
    methods = list(METHODS)
    rows = [f"| | key | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    by_key: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        by_key.setdefault((line["group"], line["key"]), {})[line["what"]] = line["outcome"]
    last = ""
    for (group, key), outcomes in by_key.items():
        cells = " | ".join(outcomes[method] for method in methods)
        rows.append(f"| {'' if group == last else group} | `{key}` | {cells} |")
        last = group
    version = subprocess.run(
        ["git", "annex", "version", "--raw"], capture_output=True, text=True, check=False
    ).stdout
    when = datetime.now(UTC).date().isoformat()
    where = f"at commit {lines[0]['commit']}, git-annex {version}, on {lines[0]['machine']}"
    return "\n".join([*rows, "", f"Made {when} {where}."])


@click.command("hostile")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def hostile_bench(*, as_json: bool, write: bool) -> None:
    """Mirror odd keys with neuromirror and git annex import."""
    gathered = []
    for line in _lines():
        gathered.append(line)
        if as_json:
            click.echo(json.dumps(line))
    table = as_table(gathered)
    if not as_json:
        click.echo(table)
    if write:
        write_section("hostile", table)
