"""The benchmark ``soak``: run a service while archives change and fail at random."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import click

from benchmarks.common import commit, machine, own_environment, write_section
from benchmarks.soak_archive import Ledger, RestlessArchive, State, is_data, write_schedules
from neuromirror.annex import key_digest, key_from_file_name, parse_key, upstream_path
from neuromirror.index import Index, Schedule, VersionRow
from neuromirror.model import VersionKind
from neuromirror.store import Store
from neuromirror_demo import DemoArchive

_SETTLE_TIMEOUT = 300.0
"""Seconds within which everything must be mirrored at first, and after the last change."""

_KILLED_EVERY = 45.0
"""Seconds after which a worker is killed."""

_MOST_FAULTS, _LONGEST_FAULT = 3, 8.0


@click.command("soak")
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--seed", default=1, show_default=True, help="Of changes and faults.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--keep", type=click.Path(path_type=Path), help="Keep store and log in this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def soak_bench(
    minutes: float, seed: int, workers: int, keep: Path | None, *, as_json: bool, write: bool
) -> None:
    """Run a service with a few workers while archives change and fail continuously.

    Exit code 1 if a version was lost or duplicated, or if memory or open files grew.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name) if keep is None else keep.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        own_environment(folder)
        lines = _soak(folder, minutes, seed, workers)
    here = {"commit": commit(), "machine": machine()}
    lines = [{"bench": "soak", "minutes": minutes, "seed": seed, **one, **here} for one in lines]
    for line in lines if as_json else ():
        click.echo(json.dumps(line))
    if not as_json:
        click.echo(_table(lines))
    if write:
        write_section("soak", _table(lines))
    if not all(line["holds"] for line in lines):
        sys.exit(1)


def _soak(folder: Path, minutes: float, seed: int, workers: int) -> list[dict[str, Any]]:
    with DemoArchive(folder / "demo", buckets=True) as demo:
        archive = RestlessArchive(demo, seed)
        write_schedules(demo.mirrors)
        store = folder / "store"
        with _serving(demo.mirrors, store, workers, folder / "serve.log") as service:
            _wait_until_settled(service, store, archive.ledger)
            _print(f"all is mirrored once; {minutes:g} minutes of changes and faults begin")
            _trouble(service, archive, minutes * 60, seed)
            archive.heal()
            _print("faults are over; it has to settle")
            healed = time.monotonic()
            _wait_until_settled(service, store, archive.ledger)
            settled = time.monotonic() - healed
            before = time.monotonic()
            code = service.stop()
            stopped = time.monotonic() - before
        _print("store and ledger are compared")
        fresh = folder / "fresh"
        _neuromirror(demo.mirrors, fresh, "sync", "--jobs", str(workers))
        found = _compare(store, fresh, archive.ledger, folder / "clones")
    ledger = archive.ledger
    happened = {"changes": ledger.changes, "faults": ledger.faults, "killed": service.killed}
    return [
        {
            **{"what": "versions", "workers": workers, **happened, **found.report()},
            **{"settled_s": round(settled, 1), "stopped_s": round(stopped, 1)},
            "holds": not found.wrong and code == 0,
        },
        *_flat(service.samples),
    ]


# --- the service


@dataclass
class _Service:
    """A running service: its process, the sizes of it and its workers, and killed processes."""

    process: subprocess.Popen[bytes]
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)
    killed: int = 0

    def look(self) -> None:
        """Record time (s), memory of the service alone and with workers (MB), and open files."""
        own = self.process.pid
        sizes = {pid: _megabytes(pid) for pid in (own, *_below(own))}
        files = len(os.listdir(f"/proc/{own}/fd"))
        now = time.monotonic()
        self.samples.append((now, sizes[own], round(sum(sizes.values())), files))

    def kill_a_worker(self, choose: random.Random) -> None:
        """Send SIGKILL to one of its workers, if there is one."""
        workers = [pid for pid in _below(self.process.pid) if b"neuromirror" in _command(pid)]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(choose.choice(workers), signal.SIGKILL)
                self.killed += 1

    def check(self) -> None:
        """Exit if the service has exited."""
        if self.process.poll() is not None:
            sys.exit(f"bench: the service ended with {self.process.returncode}; see its log")

    def stop(self) -> int:
        """Stop it as systemd would; return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextmanager
def _serving(mirrors: Path, store: Path, workers: int, log: Path) -> Iterator[_Service]:
    command = [*_program(mirrors, store), "serve", "--workers", str(workers), "--log-json"]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield _Service(process)
        finally:
            if process.poll() is None:
                process.kill()


def _program(mirrors: Path, store: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "neuromirror"),
        *("--mirrors", str(mirrors), "--store", str(store)),
    ]


def _neuromirror(mirrors: Path, store: Path, *arguments: str) -> None:
    done = subprocess.run(
        [*_program(mirrors, store), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"bench: neuromirror {arguments[0]} failed: {done.stdout}{done.stderr}")


def _trouble(service: _Service, archive: RestlessArchive, seconds: float, seed: int) -> None:
    """Cause changes and faults for this time."""
    choose = random.Random(f"workers {seed}")
    began = time.monotonic()
    faults: list[tuple[float, Callable[[], None]]] = []
    change = fault = looked = began
    kill = began + min(_KILLED_EVERY, seconds / 2)
    while (now := time.monotonic()) < began + seconds:
        if now >= change:
            archive.change()
            change = now + archive.pause(1.5)
        for over in [one for one in faults if one[0] <= now]:
            over[1]()
            faults.remove(over)
        if now >= fault and len(faults) < _MOST_FAULTS:
            faults.append((now + archive.pause(_LONGEST_FAULT), archive.fail()))
            fault = now + archive.pause(6.0)
        if now >= kill:
            service.kill_a_worker(choose)
            kill = now + _KILLED_EVERY
        if now >= looked:
            service.check()
            service.look()
            looked = now + 1.0
        time.sleep(0.05)
    for _, end in faults:
        end()


def _wait_until_settled(service: _Service, store: Path, ledger: Ledger) -> None:
    """Wait until the service has mirrored everything and no task is left."""
    since = time.time()
    while time.time() < since + _SETTLE_TIMEOUT:
        service.check()
        time.sleep(1)
        if _is_settled(store, since) and not _not_current(store, ledger):
            return
    left = _not_current(store, ledger)
    sys.exit(
        f"bench: after {_SETTLE_TIMEOUT:.0f} s not all is mirrored: {', '.join(left) or 'tasks'}"
    )


def _is_settled(folder: Path, since: float) -> bool:
    """Return whether every listing, and every dataset without a fingerprint, was visited since."""
    path = Store(folder).schedule_path
    if not path.exists():
        return False
    with Schedule.open(path) as schedule:
        rows = [row for row in schedule.tasks() if row.mirror]
        busy = schedule.leases.in_force(time.time())
    lists = [row for row in rows if not row.local_id and row.name == row.mirror]
    without_fingerprint = [row for row in rows if row.local_id and row.fingerprint is None]
    looked = all(
        (row.ended or 0.0) - row.seconds >= since for row in [*lists, *without_fingerprint]
    )
    return bool(lists) and looked and not busy and not any(row.failures for row in rows)


def _not_current(folder: Path, ledger: Ledger) -> list[str]:
    """Return the datasets whose newest state differs from upstream's."""
    store = Store(folder)
    if not store.index_path.exists():
        return sorted(ledger.states)
    with Index.open_readonly(store.index_path) as index:
        rows = {name: _versions(index, name) for name in ledger.states}
    return [
        name
        for name, states in ledger.states.items()
        if not rows[name] or not _same(states[-1], _state_of(store, rows[name][-1]))
    ]


# --- comparison of the mirrored datasets


@dataclass
class _Comparison:
    """Counts of the comparison; ``wrong`` lists all deviations."""

    published: int = 0
    observed: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        for one in self.wrong[:20]:
            _print(f"WRONG: {one}")
        return {
            **{"published": self.published, "observed": self.observed},
            **{"lost": self.lost, "doubled": self.doubled, "wrong": len(self.wrong)},
        }


def _compare(folder: Path, fresh: Path, ledger: Ledger, clones: Path) -> _Comparison:
    """Compare a store with the ledger, and with a store that was synced only at the end."""
    found, store = _Comparison(), Store(folder)
    with Index.open_readonly(store.index_path) as index:
        versions = {row.name: _versions(index, row.name, "") for row in index.datasets()}
    for name, states in ledger.states.items():
        _compare_observed(found, name, states, store, versions.get(name, []))
        _compare_published(found, name, ledger.published.get(name, {}), store, versions[name])
    mine, theirs = _refs(store), _refs(Store(fresh))
    for name, sha in theirs.items():
        if name.endswith(" refs/heads/published") and mine.get(name) != sha:
            found.wrong.append(f"{name} is {mine.get(name)}, and {sha} where it was made at once")
        if name.endswith(" refs/heads/main") and _tree(store, name, mine) != _tree(
            Store(fresh), name, theirs
        ):
            found.wrong.append(f"{name} has another tree than where it was made at once")
    clones.mkdir()
    for alias, repository in store.aliases():
        output = _git(repository.path, "fsck", "--strict", "--no-dangling")
        if output.strip():
            found.wrong.append(f"{alias}: {output.strip()[:200]}")
        _git(clones, "clone", "-q", str(repository.path), alias)
        for tag in _git(repository.path, "tag").split():
            _git(clones / alias, "checkout", "-q", tag)
    _git_free_rebuild(found, store, versions)
    return found


def _git_free_rebuild(
    found: _Comparison, store: Store, versions: Mapping[str, list[VersionRow]]
) -> None:
    """Rebuild the index from the store; it must contain the same versions."""
    from neuromirror.crawl import rebuild_index

    rebuild_index(store, store.index_path)
    with Index.open_readonly(store.index_path) as index:
        for name, rows in versions.items():
            rebuilt = [(row.label, row.commit) for row in _versions(index, name, "")]
            if rebuilt != [(row.label, row.commit) for row in rows]:
                found.wrong.append(f"{name}: a rebuilt index has other versions")


def _versions(index: Index, name: str, kind: str = VersionKind.OBSERVED.value) -> list[VersionRow]:
    if name not in {row.name for row in index.datasets()}:
        return []
    return [row for row in index.versions(name) if row.kind == kind or not kind]


def _compare_observed(
    found: _Comparison, name: str, states: list[State], store: Store, rows: list[VersionRow]
) -> None:
    """Check that each observed state is in the ledger, in order, and not twice in succession."""
    observed = [row for row in rows if row.kind == VersionKind.OBSERVED.value]
    found.observed += len(observed)
    at, last = 0, ""
    for row in observed:
        state = _state_of(store, row)
        if row.tree == last:
            found.doubled += 1
            found.wrong.append(f"{name}@{row.label} is the version before it again")
        last = row.tree
        while at < len(states) and not _same(states[at], state):
            at += 1
        if at == len(states):
            found.wrong.append(f"{name}@{row.label} is no state that upstream was in then")
            return
    if not observed or not _same(states[-1], _state_of(store, observed[-1])):
        found.lost += 1
        found.wrong.append(f"{name}: the last state of upstream is not mirrored")


def _compare_published(
    found: _Comparison,
    name: str,
    published: Mapping[str, State],
    store: Store,
    rows: list[VersionRow],
) -> None:
    mirrored = [row for row in rows if row.kind == VersionKind.PUBLISHED.value]
    labels = [row.label for row in mirrored]
    found.published += len(set(labels) & set(published))
    lost, more = set(published) - set(labels), len(labels) - len(set(labels))
    found.lost += len(lost)
    found.doubled += more
    found.wrong += [f"{name}@{label} was published, and is not mirrored" for label in sorted(lost)]
    found.wrong += [f"{name}: {more} published versions twice"] if more else []
    for row in mirrored:
        if row.label not in published or not _same(published[row.label], _state_of(store, row)):
            found.wrong.append(f"{name}@{row.label} is not what was published")


Observed = Mapping[str, tuple[int | None, str | None]]


def _state_of(store: Store, row: VersionRow) -> Observed:
    """Return the files of a version by upstream's path, from git: sizes and digests in the keys."""
    repository = dict(store.aliases())[row.dataset_name.replace(":", "--").replace("/", "--")]
    listed = _git_bytes(repository.path, "ls-tree", "-r", "-z", row.commit).split(b"\0")
    links: list[tuple[str, str]] = []
    for line in filter(None, listed):
        about, _, path = line.partition(b"\t")
        mode, _, sha = about.decode().split()
        if mode == "120000":
            links.append((upstream_path(path).decode(), sha))
    requests = "".join(f"{sha}\n" for _, sha in links).encode()
    answers = _git_bytes(repository.path, "cat-file", "--batch", given=requests)
    state: dict[str, tuple[int | None, str | None]] = {}
    for path, _ in links:
        head, _, answers = answers.partition(b"\n")
        size = int(head.split()[2])
        target, answers = answers[:size], answers[size + 1 :]
        if row.mirror != "demo" and not is_data(path):
            continue
        key = key_from_file_name(target.rpartition(b"/")[2])
        digest = key_digest(key)
        state[path] = (parse_key(key).size, None if digest is None else digest[1])
    return state


def _same(ledger: State, found: Observed) -> bool:
    return ledger.keys() == found.keys() and all(
        ledger[path][0] == size and (digest is None or digest in ledger[path][1])
        for path, (size, digest) in found.items()
    )


def _refs(store: Store) -> dict[str, str]:
    return {
        f"{alias} {ref}": sha
        for alias, repository in store.aliases()
        for ref, sha in repository.refs().items()
    }


def _tree(store: Store, name: str, refs: Mapping[str, str]) -> str:
    repository = dict(store.aliases()).get(name.partition(" ")[0])
    if repository is None or name not in refs:
        return ""
    tree = _git(repository.path, "rev-parse", f"{refs[name]}^{{tree}}").strip()
    # superdatasets contain commits, which depend on the states in between
    return "" if "--" not in name.partition(" ")[0] else tree


def _git(folder: Path, *arguments: str) -> str:
    return _git_bytes(folder, *arguments).decode()


def _git_bytes(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], input=given, capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(f"bench: git {' '.join(arguments)} in {folder}: {done.stderr.decode()}")
    return done.stdout


# --- memory and open files


def _flat(samples: list[tuple[float, float, int, int]]) -> Iterator[dict[str, Any]]:
    """Compare the last minute with the third (of less than 5 minutes: quarters)."""
    began, ended = samples[0][0], samples[-1][0]
    span = 60.0 if ended - began >= 300 else (ended - began) / 4
    third = 2 * span if span == 60.0 else span
    early = [one for one in samples if began + third <= one[0] < began + third + span]
    late = [one for one in samples if one[0] >= ended - span]
    for what, at, unit in (("memory", 1, "mb"), ("memory with workers", 2, "mb"), ("files", 3, "")):
        first, last = (mean(one[at] for one in some) for some in (early, late))
        suffix = f"_{unit}" if unit else ""
        yield {
            "what": what,
            f"third{suffix}": round(first, 1),
            f"last{suffix}": round(last, 1),
            f"peak{suffix}": round(max(one[at] for one in samples), 1),
            "ratio": round(last / first, 3),
            # workers come and go, and their size depends on the visited dataset
            "holds": last <= 1.1 * first or at == 2,
        }


def _megabytes(pid: int) -> float:
    """Return a process's private memory and its share of shared memory."""
    with suppress(OSError, IndexError):
        smaps = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(smaps.partition("\nPss:")[2].split()[0]) / 1024
    return 0.0


def _below(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield int(child)
                    yield from _below(int(child))


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _print(text: str) -> None:
    click.echo(f"bench: {text}", err=True)


def _table(lines: list[dict[str, Any]]) -> str:
    one, *rest = lines
    facts = (
        f"{one['minutes']:g} minutes (seed {one['seed']}), {one['workers']} workers: "
        f"{one['changes']} changes and {one['faults']} faults upstream, {one['killed']} workers "
        f"killed. {one['published']} published and {one['observed']} observed versions: "
        f"{one['lost']} lost, {one['doubled']} doubled, {one['wrong']} wrong in any way. All was "
        f"current {one['settled_s']:g} s after the last fault, and the service ended in "
        f"{one['stopped_s']:g} s."
    )
    rows = [
        "| what | third minute | last minute | most | last / third |",
        "|---|---|---|---|---|",
    ]
    for one in rest:
        third = one.get("third_mb", one.get("third"))
        last, peak = one.get("last_mb", one.get("last")), one.get("peak_mb", one.get("peak"))
        unit = " MB" if "last_mb" in one else ""
        figures = (one["what"], f"{third}{unit}", f"{last}{unit}", f"{peak}{unit}", one["ratio"])
        rows.append(f"| {' | '.join(map(str, figures))} |")
    today = datetime.now(UTC).date()
    measured = f"Measured {today} at commit {lines[0]['commit']} on {lines[0]['machine']}."
    return f"{facts}\n\n" + "\n".join(rows) + f"\n\n{measured}"
