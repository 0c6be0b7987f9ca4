"""Fuzz parsers of foreign bytes for some minutes each: scripts/fuzz TARGET --minutes N.

Each target runs in a process of its own with bounds on memory and time. Inputs are mutations of the
corpus; with atheris (``pip install atheris``) coverage guides them. An input that breaks a bound or
raises what its parser does not document is minimised and written, with its traceback, to
build/fuzz/TARGET. Move it to tests/fuzz/findings/TARGET when the parser is fixed: the test suite
runs all of them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "tests")]

_ADDRESSES = 4 << 30
"""Bytes of address space of a process (RLIMIT_AS)."""
_HANG_SECONDS = 60
"""Time of one input after which a process ends."""


class Fuzzing:
    """A target in this process: executes inputs and keeps those that fail.

    The file ``current`` has the number of executions and the last input, for the parent of a
    process that crashes.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from fuzz_all import TARGETS

        self.target = TARGETS[name]
        self._folder = folder
        self._current = os.open(folder / "current", os.O_RDWR | os.O_CREAT)
        self._count = read_current(folder)[0]

    def __call__(self, data: bytes) -> None:
        """Execute an input."""
        from fuzz_core import execute, minimise

        self._count += 1
        os.pwrite(self._current, b"%020d%s" % (self._count, data), 0)
        os.ftruncate(self._current, 20 + len(data))
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        finding = execute(self.target, data)
        if finding is not None:
            path = self._folder / sha256(finding.signature.encode()).hexdigest()[:12]
            if not path.with_suffix(".txt").exists():
                faulthandler.cancel_dump_traceback_later()
                finding = minimise(self.target, finding)
                keep(path, finding.data, f"{finding.signature}\n{finding.details}")


def read_current(folder: Path) -> tuple[int, bytes]:
    """Return the number of executions and the last input."""
    held = (folder / "current").read_bytes() if (folder / "current").exists() else b""
    return int(held[:20] or 0), held[20:]


def keep(path: Path, data: bytes, details: str) -> None:
    """Write a finding."""
    path.with_suffix(".bin").write_bytes(data)
    path.with_suffix(".txt").write_text(f"{details}\n{data[:400]!r}\n", errors="replace")


def fuzz_here(name: str, seconds: float, seed: int, folder: Path) -> None:
    """Fuzz a target in this process."""
    from fuzz_core import MAX_INPUT_BYTES
    from fuzz_mutate import mutate

    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        fuzzing, random, until = Fuzzing(name, folder), Random(seed), time.monotonic() + seconds
        corpus = fuzzing.target.corpus()
        for data in corpus:
            fuzzing(data)
        while True:
            data = random.choice(corpus)
            for _ in range(random.choice((1, 1, 2, 4))):
                data = mutate(fuzzing.target.kind, data, random)
            fuzzing(data)
            # at least one mutation, even if the corpus took all the time
            if time.monotonic() >= until:
                return
    with atheris.instrument_imports(include=["neuromirror"], enable_loader_override=False):
        fuzzing = Fuzzing(name, folder)

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
    options = [f"-max_total_time={max(1, int(seconds))}", f"-seed={seed}", "-timeout=3600"]
    options += [f"-max_len={MAX_INPUT_BYTES}", "-rss_limit_mb=0", "-len_control=0", "-verbosity=0"]
    atheris.Setup(["fuzz", *options, str(found), str(seeds)], fuzzing, custom_mutator=mutated)
    atheris.Fuzz()


def fuzz_in_processes(name: str, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz a target in child processes until its time is over; a new one follows a crash."""
    folder.mkdir(parents=True, exist_ok=True)
    before, left, until = set(folder.glob("*.bin")), seconds, time.monotonic() + seconds
    while left > 0:
        with tempfile.TemporaryDirectory(prefix="fuzz-home-") as home:
            Path(home, ".gitconfig").write_text("[user]\nname = Test\nemail = t@example.invalid\n")
            environment = {**os.environ, "HOME": home, "GIT_CONFIG_NOSYSTEM": "1"}
            command = [sys.executable, "-X", "faulthandler", __file__, name, "--seed", str(seed)]
            command += ["--minutes", str(left / 60), "--corpus", str(folder.parent), "--child"]
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            data = read_current(folder)[1]
            end = done.stderr[-4000:].decode("utf-8", "replace")
            keep(folder / f"crash-{sha256(data).hexdigest()[:8]}", data, end)
        seed += 1
        left = until - time.monotonic()
    findings = sorted(path.stem for path in set(folder.glob("*.bin")) - before)
    return {"target": name, "executions": read_current(folder)[0], "findings": findings}


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
@click.option("--child", is_flag=True, hidden=True)
def main(
    target: str | None,
    minutes: float,
    every: bool,
    names: bool,
    seed: int,
    corpus: Path,
    child: bool,
) -> None:
    """Fuzz the parser TARGET, or all; print a JSON object for each. Findings give exit code 1."""
    if child and target:
        fuzz_here(target, minutes * 60, seed, corpus / target)
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
        summary = fuzz_in_processes(name, minutes * 60, seed, corpus.absolute() / name)
        found = found or bool(summary["findings"])
        click.echo(json.dumps(summary))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
