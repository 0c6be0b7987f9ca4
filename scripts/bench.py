"""Benches: every contender in the same run, on the same input, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from neuromirror.annex import key_for, link_target, location_log, log_path, url_log
from neuromirror.mint import ObjectReader, Parents, Snapshot, mint
from neuromirror.model import (
    DatasetRef,
    Digest,
    FileRecord,
    Location,
    PlacedFile,
    SnapshotHeader,
    VersionKind,
    VersionRef,
)
from neuromirror.store import ANNEX, MAIN, Repository

ROOT = Path(__file__).resolve().parent.parent
MOMENT = datetime(2024, 3, 1, tzinfo=UTC)
STAMP = int(MOMENT.timestamp())
SLOW_PEER_FILES = 2000


def synthetic(count: int) -> Iterator[PlacedFile]:
    """``count`` files as a large archive would list them, sorted by path."""
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        subject, session = divmod(number // 20, 50)
        path = b"sub-%06d/ses-%03d/sub-%06d_ses-%03d_run-%08d.nwb" % (
            subject,
            session,
            subject,
            session,
            number,
        )
        blob = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
        record = FileRecord(
            path=path,
            size=100_000 + number,
            digests=(Digest("sha256", digest, "bench"),),
            locations=(
                Location(
                    f"https://bucket.example.org/blobs/{blob[:3]}/{blob[3:6]}/{blob}"
                    f"?versionId={digest[32:64]}",
                    "s3",
                    digest[32:64],
                ),
                Location(f"https://api.example.org/api/assets/{blob}/download/", "api"),
            ),
            modified=MOMENT,
        )
        yield PlacedFile(path, key_for(record, path), record)


def header() -> SnapshotHeader:
    """The header of the synthetic state."""
    dataset = DatasetRef("bench", "000001", "https://api.example.org/api/dandisets/000001/")
    return SnapshotHeader(VersionRef(dataset, "draft", VersionKind.OBSERVED, MOMENT))


def bench_neuromirror(folder: Path, count: int) -> float:
    """Mints into a new repository of a store's kind, refs and all."""
    repository = Repository(folder / "repository")
    begin = time.perf_counter()
    repository.create()
    snapshot = Snapshot(header(), lambda: synthetic(count))
    minted = mint(snapshot, repository.path, Parents(), lambda state: "bench", folder)
    assert minted.pack is not None
    repository.place(minted.pack)
    repository.publish({MAIN: None, ANNEX: None}, {MAIN: minted.commit, ANNEX: minted.annex_commit})
    return time.perf_counter() - begin


def bench_fast_import(folder: Path, count: int) -> float:
    """``git fast-import`` fed the same files and log files from a stream made beforehand."""
    stream = folder / "stream"
    with stream.open("wb", buffering=1 << 20) as file:
        _fast_import_stream(file.write, count)
    repository = folder / "repository"
    begin = time.perf_counter()
    _run("git", "init", "-q", "--bare", "-b", "main", str(repository))
    with stream.open("rb") as file:
        subprocess.run(
            ["git", "-C", str(repository), "fast-import", "--quiet"], stdin=file, check=True
        )
    return time.perf_counter() - begin


def _fast_import_stream(write: Callable[[bytes], Any], count: int) -> None:
    who = b"bench <bench@example.org> %d +0000" % STAMP

    def data(content: bytes) -> None:
        write(b"data %d\n%s\n" % (len(content), content))

    write(b"commit refs/heads/main\ncommitter %s\n" % who)
    data(b"bench")
    for placed in synthetic(count):
        write(b"M 120000 inline %s\n" % placed.git_path)
        data(link_target(placed.key, placed.git_path))
    write(b"commit refs/heads/git-annex\ncommitter %s\n" % who)
    data(b"bench")
    present = location_log(STAMP)
    for placed in synthetic(count):
        path = log_path(placed.key)
        write(b"M 100644 inline %s\n" % path)
        data(present)
        write(b"M 100644 inline %s.web\n" % path)
        data(url_log([place.url for place in placed.record.locations], STAMP))
    write(b"done\n")


def bench_fromkey(folder: Path, count: int) -> float:
    """``git annex fromkey --batch`` and ``registerurl --batch``, as crawlers do today."""
    repository = folder / "repository"
    _run("git", "init", "-q", str(repository))
    _run("git", "-C", str(repository), "annex", "init", "-q", "bench")
    files = list(synthetic(count))
    keys = "".join(f"{one.key} {one.git_path.decode()}\n" for one in files)
    urls = "".join(f"{one.key} {place.url}\n" for one in files for place in one.record.locations)
    begin = time.perf_counter()
    _annex(repository, keys, "fromkey", "--force", "--batch")
    _annex(repository, urls, "registerurl", "--batch")
    return time.perf_counter() - begin


def _annex(repository: Path, lines: str, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(repository), "annex", *arguments],
        input=lines,
        text=True,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


CONTENDERS: dict[str, Callable[[Path, int], float]] = {
    "neuromirror": bench_neuromirror,
    "fast-import": bench_fast_import,
    "fromkey+registerurl": bench_fromkey,
}


def measured(what: str, count: int, folder: Path) -> dict[str, Any]:
    """One contender's line: seconds, files a second, peak memory of its processes in MB."""
    place = folder / what
    place.mkdir()
    parent, child = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_contend, args=(what, place, count, child))
    process.start()
    child.close()
    try:
        seconds, peak = parent.recv()
    except EOFError:
        sys.exit(f"bench: {what} failed; see above")
    process.join()
    if what != "fromkey+registerurl":
        _verify(what, place / "repository")
    shutil.rmtree(place, onerror=_force)
    return {
        "bench": "mint",
        "what": what,
        "n": count,
        "seconds": round(seconds, 3),
        "per_s": round(count / seconds),
        "peak_mb": round(peak / 1024),
        "commit": _commit(),
        "machine": machine(),
    }


def _force(function: Callable[[str], Any], path: str, _: Any) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    function(path)


def _contend(what: str, folder: Path, count: int, pipe: Any) -> None:
    # a home of its own: the person's git configuration must not weigh in
    os.environ["HOME"] = str(folder)
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
    for name in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{name}_NAME"] = "bench"
        os.environ[f"GIT_{name}_EMAIL"] = "bench@example.org"
    seconds = CONTENDERS[what](folder, count)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    pipe.send((seconds, peak // 1024 if sys.platform == "darwin" else peak))


_TREES: dict[str, bytes] = {}


def _verify(what: str, repository: Path) -> None:
    """The git-annex branch must be the same tree whoever made it."""
    with ObjectReader(repository) as reader:
        tree = reader.commit_tree(ANNEX)
    if _TREES.setdefault("git-annex", tree) != tree:
        sys.exit(f"bench: {what} made another git-annex tree than the first contender")


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """What the numbers were measured on, in a few words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


@click.group()
def main() -> None:
    """Measures neuromirror beside its peers, in one run on one machine."""


@main.command("mint")
@click.option("--files", default=200_000, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.option("--write", is_flag=True, help="Update docs/benchmarks.md.")
def mint_bench(files: int, *, as_json: bool, write: bool) -> None:
    """A new repository from a listing: neuromirror, git fast-import, git annex fromkey."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for what in CONTENDERS:
            count = min(files, SLOW_PEER_FILES) if what == "fromkey+registerurl" else files
            click.echo(f"{what}: {count} files …", err=True)
            line = measured(what, count, Path(name))
            lines.append(line)
            if as_json:
                click.echo(json.dumps(line))
                sys.stdout.flush()
    table = as_table(lines)
    if not as_json:
        click.echo(table)
    if write:
        write_section("mint", table)


def as_table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table, with each contender's speed as a ratio to neuromirror's."""
    own = next(line["per_s"] for line in lines if line["what"] == "neuromirror")
    rows = [
        "| what | files | seconds | files/s | neuromirror is | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for line in lines:
        ratio = own / line["per_s"]
        rows.append(
            f"| {line['what']} | {line['n']:,} | {line['seconds']} | {line['per_s']:,} "
            f"| {ratio:.1f}× | {line['peak_mb']} |"
        )
    when = datetime.now(UTC).date().isoformat()
    rows += ["", f"Measured {when} at commit {lines[0]['commit']} on {lines[0]['machine']}."]
    return "\n".join(rows)


def write_section(name: str, table: str) -> None:
    """Puts a table between the section's marks in docs/benchmarks.md."""
    path = ROOT / "docs" / "benchmarks.md"
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    text = path.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        sys.exit(f"bench: {path} has no section '{begin} … {end}'")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


if __name__ == "__main__":
    main()
