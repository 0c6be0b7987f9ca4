"""Shared parts of the benchmarks: synthetic files, one process per program, lines and tables."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import click

from benchmarks.memory import Memory
from neuromirror.annex import key_for, link_target, location_log, log_path, url_log
from neuromirror.model import (
    DatasetRef,
    Digest,
    FileRecord,
    Location,
    SnapshotEntry,
    SnapshotHeader,
    VersionKind,
    VersionRef,
    dump_snapshot_entry,
)

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime(2024, 3, 1, tzinfo=UTC)
STAMP = int(MOMENT.timestamp())
REPEATS = 3

Contender = Callable[[Path, int], tuple[float, dict[str, Any]]]
"""Processes a number of files in a folder; returns the seconds that count, and extra fields."""


# --- the input


def synthetic(count: int) -> Iterator[SnapshotEntry]:
    """Yield ``count`` files as a large archive would list them, sorted by path."""
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        subject, session = divmod(number // 20, 50)
        name = b"sub-%06d_ses-%03d_run-%08d.nwb" % (subject, session, number)
        path = b"sub-%06d/ses-%03d/%s" % (subject, session, name)
        blob = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
        hosts = (
            (f"bucket.example.org/blobs/{blob[:3]}/{blob[3:6]}", digest[32:64]),
            ("copy.example.org/blobs", digest[:32]),
        )
        record = FileRecord(
            path=path,
            size=100_000 + number,
            digests=(Digest("sha256", digest, "bench"),),
            locations=tuple(
                Location(f"https://{host}/{blob}?versionId={version}", "s3", version)
                for host, version in hosts
            ),
            modified=MOMENT,
        )
        yield SnapshotEntry(path, key_for(record, path), record)


def header() -> SnapshotHeader:
    """Return the header of the synthetic state."""
    dataset = DatasetRef("bench", "000001", "https://api.example.org/api/dandisets/000001/")
    return SnapshotHeader(VersionRef(dataset, "draft", VersionKind.OBSERVED, MOMENT))


def write_records(path: Path, count: int) -> Path:
    """Write the record lines of the synthetic state to a file."""
    with path.open("wb", buffering=1 << 20) as file:
        file.writelines(dump_snapshot_entry(placed) + b"\n" for placed in synthetic(count))
    return path


def write_fast_import(
    path: Path, files: Callable[[], Iterable[SnapshotEntry]], stamp: int = STAMP, *, onto: bool
) -> Path:
    """Write files as input of ``git fast-import``, for both branches.

    ``onto`` adds them to the last commits of the branches.
    """
    who = b"bench <bench@example.org> %d +0000" % stamp
    with path.open("wb", buffering=1 << 20) as file:

        def data(content: bytes) -> None:
            file.write(b"data %d\n%s\n" % (len(content), content))

        def begin(branch: bytes) -> None:
            file.write(b"commit refs/heads/%s\ncommitter %s\n" % (branch, who))
            data(b"bench")
            if onto:
                file.write(b"from refs/heads/%s^0\n" % branch)

        begin(b"main")
        for placed in files():
            file.write(b"M 120000 inline %s\n" % placed.git_path)
            data(link_target(placed.key, placed.git_path))
        begin(b"git-annex")
        for placed in files():
            name = log_path(placed.key)
            file.write(b"M 100644 inline %s\n" % name)
            data(location_log(stamp))
            file.write(b"M 100644 inline %s.web\n" % name)
            data(url_log([location.url for location in placed.record.locations], stamp))
        file.write(b"done\n")
    return path


# --- other programs


def run_git(*arguments: str, stdin: IO[bytes] | None = None, text: str | None = None) -> None:
    """Run a git command; raise CalledProcessError if it fails."""
    given: dict[str, Any] = {"stdin": stdin} if text is None else {"input": text.encode()}
    subprocess.run(["git", *arguments], check=True, stdout=subprocess.DEVNULL, **given)


def fast_import(repository: Path, stream: Path) -> None:
    """Run ``git fast-import`` with a prepared stream."""
    with stream.open("rb") as file:
        run_git("-C", str(repository), "fast-import", "--quiet", stdin=file)


def annex_repository(repository: Path) -> Path:
    """Create a git-annex repository."""
    run_git("init", "-q", "-b", "main", str(repository))
    run_git("-C", str(repository), "annex", "init", "-q", "bench")
    return repository


def register(repository: Path, files: Iterable[tuple[str, str, Sequence[str]]]) -> None:
    """Add keys, paths and their URLs by git-annex's batch commands, as other crawlers do."""
    rows = list(files)
    keys = "".join(f"{key} {path}\n" for key, path, _ in rows)
    urls = "".join(f"{key} {url}\n" for key, _, at in rows for url in at)
    annex = ("-C", str(repository), "annex")
    run_git(*annex, "fromkey", "-q", "--force", "--batch", text=keys)
    run_git(*annex, "registerurl", "-q", "--batch", text=urls)


def row(placed: SnapshotEntry) -> tuple[str, str, list[str]]:
    """Return a file's key, path and URLs."""
    urls = [location.url for location in placed.record.locations]
    return placed.key, placed.git_path.decode(), urls


def create_dataset(folder: Path) -> Path:
    """Create a DataLad dataset in the folder."""
    _datalad("create", str(folder / "dataset"))
    return folder / "dataset"


def add_urls(dataset: Path, table: Path, *options: str) -> None:
    """Run ``datalad addurls --key`` with a table of files, one URL each; it saves."""
    given = ["-d", str(dataset), "-x", "*", "--key", "{key}", *options]
    _datalad("addurls", *given, str(table), "{url}", "{path}")


def write_table(table: Path, files: Iterable[SnapshotEntry]) -> Path:
    """Write the table for ``datalad addurls``: URL, path and key."""
    rows = (f"{urls[0]},{path},{key}\n" for key, path, urls in map(row, files))
    table.write_text("url,path,key\n" + "".join(rows))
    return table


def _datalad(*arguments: str) -> None:
    done = subprocess.run(["datalad", *arguments], capture_output=True, text=True, check=False)
    expect(not done.returncode, f"datalad {arguments[0]} failed: {done.stderr[-2000:]}")


# --- measuring


def timed(run: Callable[[], Any], *, status: str | None = None) -> float:
    """Return the seconds of a call; exit if its result does not have the expected status."""
    begin = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begin
    if status is not None:
        expect(result.status == status, f"the sync should have been {status}: {result}")
    return seconds


def median(run: Callable[[], float]) -> float:
    """Return the median of several runs."""
    return statistics.median(run() for _ in range(REPEATS))


def with_cpu(run: Callable[[], Any]) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a call, and the CPU seconds of this process and its children."""
    before = sum(os.times()[:4])
    seconds = timed(run)
    return seconds, {"cpu_s": round(sum(os.times()[:4]) - before, 2)}


def expect(holds: bool, otherwise: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(f"bench: {otherwise}")


def in_own_process(
    bench: str, what: str, run: Contender, count: int, folder: Path
) -> dict[str, Any]:
    """Return the line of one program: seconds, files per second, peak memory in MB."""
    click.echo(f"{what}: {count} files …", err=True)
    subfolder = folder / what
    subfolder.mkdir()
    (seconds, extra), peak = in_separate_process(_contend, run, subfolder, count)
    shutil.rmtree(subfolder, onerror=_force)
    return {
        "bench": bench,
        "what": what,
        "n": count,
        "seconds": round(seconds, 3),
        "per_s": round(count / seconds),
        "peak_mb": peak,
        **extra,
        "commit": commit(),
        "machine": machine(),
    }


def in_separate_process(run: Callable[..., Any], *given: Any) -> tuple[Any, int]:
    """Return the result of a function in its own process, and the peak memory in MB."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_run_and_send, args=(run, given, theirs))
    process.start()
    theirs.close()
    try:
        result, peak = ours.recv()
    except EOFError:
        sys.exit(f"bench: {getattr(run, '__name__', run)} failed; see above")
    process.join()
    return result, peak


def _contend(run: Contender, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    own_environment(folder)
    return run(folder, count)


def _run_and_send(run: Callable[..., Any], given: tuple[Any, ...], pipe: Any) -> None:
    with Memory() as memory:
        result = run(*given)
    pipe.send((result, memory.peak_mb))


def own_environment(folder: Path) -> None:
    """Set up this process as that of a user without any configuration."""
    # a separate home: the user's git configuration must not influence the result
    os.environ |= {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    for name in ("AUTHOR", "COMMITTER"):
        os.environ |= {f"GIT_{name}_NAME": "bench", f"GIT_{name}_EMAIL": "bench@example.org"}
    # no background maintenance during the measurement; servers are on loopback
    os.environ |= {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "maintenance.auto",
        "GIT_CONFIG_VALUE_0": "false",
        "GIT_CONFIG_KEY_1": "annex.security.allowed-ip-addresses",
        "GIT_CONFIG_VALUE_1": "127.0.0.1",
    }


def run_contenders(
    bench: str, contenders: Mapping[str, Contender], sizes: Iterable[int], most: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Return the lines of all programs at all sizes; ``most`` limits the files of slow ones."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        done: set[tuple[str, int]] = set()
        for size in sizes:
            for what, run in contenders.items():
                count = min(size, most.get(what, size))
                if (what, count) not in done:
                    done.add((what, count))
                    yield in_own_process(bench, what, run, count, Path(folder))


def missing(bench: str, what: str, count: int, why: str) -> dict[str, Any]:
    """Return the line of a program that cannot run here."""
    here = {"commit": commit(), "machine": machine()}
    return {"bench": bench, "what": what, "n": count, "missing": why, **here}


def _force(function: Callable[[str], Any], path: str, _: Any) -> None:
    if os.path.lexists(path):
        os.chmod(os.path.dirname(path), 0o700)
        function(path)


def cpu_of_children() -> float:
    """Return the CPU seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit() -> str:
    """Return the measured commit, with ``+`` if files differ from it."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude", "*"]
    done = subprocess.run(describe, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Return a short description of the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


# --- options and output


def json_option(command: Any) -> Any:
    """Add the option that all benchmarks have."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")(
        command
    )


def sizes_option(default: int) -> Callable[[Any], Any]:
    """Add ``--json`` and the number of files."""
    sizes = click.option(
        "--files",
        "--objects",
        "files",
        multiple=True,
        default=[default],
        show_default=True,
        type=click.IntRange(1),
        help="Size of the state; may be given several times.",
    )
    return lambda command: sizes(json_option(command))


def report(lines: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Print lines as they come (``as_json``), or as Markdown tables."""
    gathered = []
    for line in lines:
        gathered.append(line)
        if as_json:
            print(json.dumps(line), flush=True)
    if not as_json:
        print(as_table(gathered))


_IN_NO_COLUMN = ("bench", "task", "to", "of", "latency_ms", "commit", "machine", "missing")


def as_table(lines: list[dict[str, Any]]) -> str:
    """Return one table per task, with neuromirror's speed relative to that of each program."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        given = [str(line[name]) for name in ("task", "of") if name in line]
        given += [f"{line['latency_ms']} ms"] if "latency_ms" in line else []
        groups.setdefault(", ".join(given), []).append(line)
    blocks = []
    for of, group in groups.items():
        blocks += [f"{of}:"] if of else []
        blocks.append("\n".join(_rows(group)))
    when = datetime.now(UTC).date().isoformat()
    blocks.append(f"Measured {when} at commit {lines[0]['commit']} on {lines[0]['machine']}.")
    return "\n\n".join(blocks)


def _rows(lines: list[dict[str, Any]]) -> Iterator[str]:
    found = dict.fromkeys(name for line in lines for name in line)
    names = [name for name in found if name not in _IN_NO_COLUMN]
    relative = "seconds" in names
    yield f"| {' | '.join([*names, *(['neuromirror is'] if relative else [])])} |"
    yield f"|---{'|---:' * (len(names) - 1 + relative)}|"
    own = {
        line.get("n"): line["seconds"] / line.get("n", 1)
        for line in lines
        if line["what"] == "neuromirror" and "seconds" in line
    }
    for line in lines:
        cells = [f"{line['what']} {line.get('missing', '')}".strip()]
        cells += [_cell(line.get(name, "")) for name in names[1:]]
        if relative and own and "seconds" in line:
            size = line.get("n")
            ratio = line["seconds"] / (size or 1) / own.get(size, next(iter(own.values())))
            cells.append(f"{ratio:.2f}×")
        yield f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
