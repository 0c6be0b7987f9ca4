"""Fuzz parsers of foreign bytes for some minutes each: scripts/fuzz TARGET --minutes N.

Each target runs in a process of its own, with bounds on memory, that this one watches. With atheris
installed (``pip install atheris``) inputs are guided by coverage; without it they are mutations of
the corpus alone. An input that breaks a bound or raises what its parser does not document is
minimised and written to build/fuzz/TARGET/findings, with its traceback. Move it to
tests/fuzz/findings/TARGET when the parser is fixed: the test suite runs all of them.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "tests")]

_STATE = struct.Struct("<QI")
"""Executions so far, and the length of the current input, which follows."""
_SHARED = 1 << 18
_ADDRESSES = 4 << 30
"""Bytes of address space of a process (RLIMIT_AS)."""
_HANG_CPU = 20.0
"""Seconds of CPU time without another execution after which a process is killed."""
_HANG_WALL = 300.0


class Shared:
    """Progress of a fuzzing process, in a file that survives its crash."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._view = mmap.mmap(file.fileno(), _SHARED)

    def put(self, count: int, data: bytes) -> None:
        """Note an input before it is executed."""
        kept = data[: _SHARED - _STATE.size]
        self._view[: _STATE.size + len(kept)] = _STATE.pack(count, len(kept)) + kept

    def get(self) -> tuple[int, bytes]:
        """Return the number of executions and the last input."""
        count, length = _STATE.unpack_from(self._view)
        return count, self._view[_STATE.size : _STATE.size + length]


class Fuzzing:
    """A target in this process: executes inputs and keeps those that fail."""

    def __init__(self, name: str, shared: Shared, folder: Path) -> None:
        from fuzz_all import TARGETS
        from fuzz_core import execute, minimise

        self.target = TARGETS[name]
        self._execute, self._minimised = execute, minimise
        self._shared, self._folder = shared, folder / "findings"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count = shared.get()[0]
        self._known = {path.stem for path in self._folder.iterdir()}

    def __call__(self, data: bytes) -> None:
        """Execute an input."""
        self._count += 1
        self._shared.put(self._count, data)
        finding = self._execute(self.target, data)
        if finding is None:
            return
        name = sha256(finding.signature.encode()).hexdigest()[:12]
        if name in self._known:
            return
        self._known.add(name)
        finding = self._minimised(self.target, finding)
        (self._folder / f"{name}.bin").write_bytes(finding.data)
        (self._folder / f"{name}.txt").write_text(
            f"{finding.signature}\n{finding.data[:400]!r}\n{finding.details}", errors="replace"
        )


def _child(name: str, seconds: float, seed: int, folder: Path) -> None:
    """Fuzz one target in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    shared = Shared(folder / "state")
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        _blindly(Fuzzing(name, shared, folder), seconds, seed)
        return
    with atheris.instrument_imports(include=["neuromirror"], enable_loader_override=False):
        _guided(atheris, Fuzzing(name, shared, folder), seconds, seed, folder)


def _blindly(fuzzing: Fuzzing, seconds: float, seed: int) -> None:
    from fuzz_mutate import mutate

    random, until = Random(seed), time.monotonic() + seconds
    corpus = fuzzing.target.corpus()
    for data in corpus:
        fuzzing(data)
    while time.monotonic() < until:
        data = random.choice(corpus)
        for _ in range(random.choice((1, 1, 2, 4))):
            data = mutate(fuzzing.target.kind, data, random)
        fuzzing(data)


def _guided(atheris: Any, fuzzing: Fuzzing, seconds: float, seed: int, folder: Path) -> None:
    from fuzz_core import MAX_INPUT_BYTES
    from fuzz_mutate import mutate

    def mutated(data: bytes, most: int, chosen: int) -> bytes:
        random = Random(chosen)
        if random.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutate(fuzzing.target.kind, data, random)[:most]

    found, seeds = folder / "corpus", folder / "seeds"
    for one in (found, seeds):
        one.mkdir(exist_ok=True)
    for number, data in enumerate(fuzzing.target.corpus()):
        (seeds / f"{number:04}").write_bytes(data[:MAX_INPUT_BYTES])
    options = {
        "max_total_time": max(1, int(seconds)),
        "seed": seed or 1,
        "max_len": MAX_INPUT_BYTES,
        "timeout": 3600,
        "rss_limit_mb": 0,
        "verbosity": 0,
        "print_final_stats": 0,
        "len_control": 0,
        "artifact_prefix": f"{folder}/artifact-",
    }
    arguments = ["fuzz", *(f"-{name}={value}" for name, value in options.items())]
    atheris.Setup([*arguments, str(found), str(seeds)], fuzzing, custom_mutator=mutated)
    atheris.Fuzz()


def _watch(name: str, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz a target in child processes until its time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state"
    state.write_bytes(bytes(_SHARED))
    before = {path.stem for path in (folder / "findings").glob("*.txt")}
    shared, started, spent = Shared(state), time.monotonic(), 0.0
    left = seconds
    while True:
        code, cpu = _one_process(name, left, seed, folder, shared)
        spent += cpu
        seed += 1
        if code:
            _keep_crash(folder, shared.get()[1], code)
        if (left := seconds - (time.monotonic() - started)) < 1:
            break
    findings = {path.stem for path in (folder / "findings").glob("*.txt")} - before
    return {
        "target": name,
        "executions": shared.get()[0],
        "cpu_minutes": round(spent / 60, 2),
        "minutes": round((time.monotonic() - started) / 60, 2),
        "findings": sorted(findings),
        "folder": str(folder),
    }


def _one_process(
    name: str, seconds: float, seed: int, folder: Path, shared: Shared
) -> tuple[int, float]:
    """Run one fuzzing process; return its exit code and CPU time."""
    home = Path(tempfile.mkdtemp(prefix="fuzz-home-"))
    (home / ".gitconfig").write_text("[user]\n\tname = Test\n\temail = test@example.invalid\n")
    environment = {**os.environ, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
    command = [sys.executable, "-X", "faulthandler", __file__, name, "--seed", str(seed)]
    command += ["--minutes", str(seconds / 60), "--corpus", str(folder.parent), "--child"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        code = _until_ended(process, shared, time.monotonic() + seconds + 60, folder / "log")
    shutil.rmtree(home, ignore_errors=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _until_ended(process: subprocess.Popen[bytes], shared: Shared, until: float, log: Path) -> int:
    """Wait for a process, and kill one that hangs on an input (exit code 124)."""
    last, cpu, at = 0, 0.0, time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(2)
        if log.stat().st_size > 50 << 20:
            os.truncate(log, 0)
        count, now, used = shared.get()[0], time.monotonic(), _cpu_of(process.pid)
        if count != last or not count:
            last, cpu, at = count, used, now
        hangs = used - cpu > _HANG_CPU or now - at > _HANG_WALL
        if hangs or now > until:
            process.kill()
            process.wait()
            return 124 if hangs else 0


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keep_crash(folder: Path, data: bytes, code: int) -> None:
    """Keep the input with which a process died or hung."""
    end = (folder / "log").read_bytes()[-4000:].decode("utf-8", "replace")
    name = "hang" if code == 124 else f"exit{code}"
    name += sha256(data).hexdigest()[:8]
    (folder / "findings").mkdir(exist_ok=True)
    (folder / "findings" / f"{name}.bin").write_bytes(data)
    (folder / "findings" / f"{name}.txt").write_text(f"{name}\n{data[:400]!r}\n{end}")


@click.command()
@click.argument("target", required=False)
@click.option("--minutes", default=1.0, show_default=True, help="How long each target runs.")
@click.option("--all", "every", is_flag=True, help="Fuzz all targets, one after the other.")
@click.option("--list", "names", is_flag=True, help="Name the targets and what they parse.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "fuzz",
    show_default=True,
    help="Directory for inputs and findings, with which a later run continues.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per target.")
@click.option("--child", is_flag=True, hidden=True)
def main(
    target: str | None,
    minutes: float,
    every: bool,
    names: bool,
    seed: int,
    corpus: Path,
    as_json: bool,
    child: bool,
) -> None:
    """Fuzz the parser TARGET, or all of them; exit code 1 if there were findings."""
    if child and target:
        _child(target, minutes * 60, seed, corpus / target)
        return
    from fuzz_all import TARGETS

    if names:
        for one in TARGETS.values():
            click.echo(f"{one.name:20} {(one.run.__doc__ or '').splitlines()[0]}")
        return
    if every == (target is not None) or (target is not None and target not in TARGETS):
        raise click.UsageError("name one target (--list names them), or give --all")
    found = False
    for name in [target] if target else list(TARGETS):
        summary = _watch(name, minutes * 60, seed, corpus.absolute() / name)
        found = found or bool(summary["findings"])
        click.echo(json.dumps(summary) if as_json else _line(summary))
    sys.exit(1 if found else 0)


def _line(summary: dict[str, Any]) -> str:
    findings = len(summary["findings"])
    where = f" in {summary['folder']}/findings" if findings else ""
    return (
        f"{summary['target']}: {summary['executions']} executions in {summary['cpu_minutes']} CPU"
        f" minutes, {findings} findings{where}"
    )


if __name__ == "__main__":
    main()
