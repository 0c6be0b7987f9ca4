"""Shared parts of the benchmarks: synthetic listing, one process per program, lines and tables."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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

Contender = Callable[[Path, int], tuple[float, dict[str, Any]]]
"""Processes a number of files in a folder; returns the seconds that count, and extra fields."""


def synthetic(count: int) -> Iterator[SnapshotEntry]:
    """Yield ``count`` files as a large archive would list them, sorted by path."""
    for number in range(count):
        yield synthetic_file(number, number)


def synthetic_file(number: int, content: int) -> SnapshotEntry:
    """Return the file with this number, with the bytes of ``content``."""
    digest = synthetic_sha256(content)
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
        size=100_000 + content,
        digests=(Digest("sha256", digest, "bench"),),
        locations=(
            Location(
                f"https://bucket.example.org/blobs/{blob[:3]}/{blob[3:6]}/{blob}"
                f"?versionId={digest[32:64]}",
                "s3",
                digest[32:64],
            ),
            Location(
                f"https://copy.example.org/blobs/{blob}?versionId={digest[:32]}",
                "s3",
                digest[:32],
            ),
        ),
        modified=MOMENT,
    )
    return SnapshotEntry(path, key_for(record, path), record)


def synthetic_sha256(content: int) -> str:
    """Return the sha256 of synthetic bytes."""
    return hashlib.sha256(b"%d" % content).hexdigest()


def header() -> SnapshotHeader:
    """Return the header of the synthetic state."""
    dataset = DatasetRef("bench", "000001", "https://api.example.org/api/dandisets/000001/")
    return SnapshotHeader(VersionRef(dataset, "draft", VersionKind.OBSERVED, MOMENT))


def write_records(path: Path, count: int) -> Path:
    """Write the record lines of the synthetic state to a file."""
    with path.open("wb", buffering=1 << 20) as file:
        file.writelines(dump_snapshot_entry(placed) + b"\n" for placed in synthetic(count))
    return path


def fast_import_stream(path: Path, count: int) -> Path:
    """Write the same state as input of ``git fast-import``, both branches."""
    who = b"bench <bench@example.org> %d +0000" % STAMP
    with path.open("wb", buffering=1 << 20) as file:

        def data(content: bytes) -> None:
            file.write(b"data %d\n%s\n" % (len(content), content))

        file.write(b"commit refs/heads/main\ncommitter %s\n" % who)
        data(b"bench")
        for placed in synthetic(count):
            file.write(b"M 120000 inline %s\n" % placed.git_path)
            data(link_target(placed.key, placed.git_path))
        file.write(b"commit refs/heads/git-annex\ncommitter %s\n" % who)
        data(b"bench")
        present = location_log(STAMP)
        for placed in synthetic(count):
            name = log_path(placed.key)
            file.write(b"M 100644 inline %s\n" % name)
            data(present)
            file.write(b"M 100644 inline %s.web\n" % name)
            data(url_log([location.url for location in placed.record.locations], STAMP))
        file.write(b"done\n")
    return path


def write_fast_import(repository: Path, stream: Path, count: int) -> None:
    """Import the synthetic state into a bare repository with ``git fast-import``."""
    fast_import_stream(stream, count)
    with stream.open("rb") as file:
        run_git("-C", str(repository), "fast-import", "--quiet", stdin=file)


def run_git(*arguments: str, stdin: IO[bytes] | None = None, text: str | None = None) -> None:
    """Run a git command; raise CalledProcessError if it fails."""
    given: dict[str, Any] = {"stdin": stdin} if text is None else {"input": text.encode()}
    subprocess.run(["git", *arguments], check=True, stdout=subprocess.DEVNULL, **given)


def in_own_process(
    bench: str, what: str, run: Contender, count: int, folder: Path
) -> dict[str, Any]:
    """Return the line of one program: seconds, files per second, peak memory in MB."""
    click.echo(f"{what}: {count} files …", err=True)
    subfolder = folder / what
    subfolder.mkdir()
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_contend, args=(run, subfolder, count, theirs))
    process.start()
    theirs.close()
    try:
        seconds, peak, extra = ours.recv()
    except EOFError:
        sys.exit(f"bench: {what} failed; see above")
    process.join()
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


def missing(bench: str, what: str, count: int, why: str) -> dict[str, Any]:
    """Return the line of a program that cannot run here."""
    here = {"commit": commit(), "machine": machine()}
    return {"bench": bench, "what": what, "n": count, "missing": why, **here}


def _contend(run: Contender, folder: Path, count: int, pipe: Any) -> None:
    own_environment(folder)
    with Memory() as memory:
        seconds, extra = run(folder, count)
    pipe.send((seconds, memory.peak_mb, extra))


def own_environment(folder: Path) -> None:
    """Set up this process as that of a user without any configuration."""
    # a separate home: the user's git configuration must not influence the result
    os.environ["HOME"] = str(folder)
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
    for name in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{name}_NAME"] = "bench"
        os.environ[f"GIT_{name}_EMAIL"] = "bench@example.org"
    # no background maintenance during the measurement
    os.environ |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "maintenance.auto",
        "GIT_CONFIG_VALUE_0": "false",
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


def sizes_option(default: int) -> Callable[[Any], Any]:
    """Add the options that all benchmarks have."""

    def decorate(command: Any) -> Any:
        for option in (
            click.option(
                "--write", is_flag=True, help="Update docs/explanation/benchmarks.md and its plot."
            ),
            click.option("--json", "as_json", is_flag=True, help="One JSON object per line."),
            click.option(
                "--files",
                "--objects",
                "files",
                multiple=True,
                default=[default],
                show_default=True,
                type=click.IntRange(1),
                help="Size of the state; may be given several times, for a plot.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def _force(function: Callable[[str], Any], path: str, _: Any) -> None:
    if os.path.lexists(path):
        os.chmod(os.path.dirname(path), 0o700)
        function(path)


def commit() -> str:
    """Return the measured commit, with ``+`` if files differ from it."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
    )
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


def write_section(name: str, table: str, page: str = "explanation/benchmarks.md") -> None:
    """Write a table to its marked section in a page of docs/."""
    path = ROOT / "docs" / page
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    text = path.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        sys.exit(f"bench: {path} has no section '{begin} … {end}'")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def report(
    name: str,
    lines: Iterable[dict[str, Any]],
    *,
    as_json: bool,
    write: bool,
    table: Callable[[list[dict[str, Any]]], str] | None = None,
) -> None:
    """Print lines as they come (``as_json``) or as a table; with ``write`` update the page.

    A bench with a table of its own has no plot.
    """
    gathered = []
    for line in lines:
        gathered.append(line)
        if as_json:
            click.echo(json.dumps(line))
            sys.stdout.flush()
    text = (table or as_table)(gathered)
    if not as_json:
        click.echo(text)
    if write:
        picture = None if table is not None else draw(name, gathered)
        write_section(name, text if picture is None else f"{text}\n\n![{name}]({picture})")


def draw(name: str, lines: list[dict[str, Any]]) -> str | None:
    """Plot seconds against files into bench-<name>.svg beside the page; None for a single size."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        if "missing" in line:
            continue
        label = ", ".join(filter(None, (line["what"], line.get("of"))))
        series.setdefault(label, []).append((line["n"], line["seconds"]))
    if max(map(len, series.values())) < 2:
        return None
    with plot(f"bench-{name}") as axes:
        for what, points in series.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=what)
        axes.set(xscale="log", yscale="log", xlabel="files", ylabel="seconds", title=name)
    return f"bench-{name}.svg"


@contextmanager
def plot(name: str) -> Iterator[Any]:
    """Yield the axes of a plot with a legend; afterwards save docs/explanation/<name>.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    yield axes
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "explanation" / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


_SHOWN = (
    *(
        "bench",
        "task",
        "to",
        "what",
        "of",
        "n",
        "seconds",
        "per_s",
        "peak_mb",
        "commit",
        "machine",
        "missing",
    ),
)


def as_table(lines: list[dict[str, Any]]) -> str:
    """Return Markdown tables with neuromirror's speed relative to each other program.

    One table per processed object (``of``), if lines name several.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line.get("of", ""), []).append(line)
    blocks = []
    for of, group in groups.items():
        blocks.append("\n".join([*([f"{of}:", ""] if of else []), *_table_rows(group)]))
    when = datetime.now(UTC).date().isoformat()
    blocks.append(f"Measured {when} at commit {lines[0]['commit']} on {lines[0]['machine']}.")
    return "\n\n".join(blocks)


def _table_rows(lines: list[dict[str, Any]]) -> list[str]:
    extra = sorted({name for line in lines for name in line if name not in _SHOWN})
    heads = ["what", "files", "seconds", "files/s", "neuromirror is", "peak MB", *extra]
    rows = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    own = {
        line["n"]: line["n"] / line["seconds"] for line in lines if line["what"] == "neuromirror"
    }
    for line in lines:
        if "missing" in line:
            rows.append(f"| {line['what']} {line['missing']} |{' |' * (len(heads) - 1)}")
            continue
        ratio = own.get(line["n"], next(iter(own.values()))) * line["seconds"] / line["n"]
        cells = [
            line["what"],
            f"{line['n']:,}",
            str(line["seconds"]),
            f"{line['per_s']:,}",
            f"{ratio:.1f}×",
            str(line["peak_mb"]),
            *(str(line.get(name, "")) for name in extra),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows
