"""``neuromirror demo``: a walkthrough with the demo archives."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

import click

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror_demo.bucket_contents import RAW, SORTED_1, TRACES
from neuromirror_demo.demo_server import demo_variables
from neuromirror_demo.records import read_data

if TYPE_CHECKING:
    from neuromirror_demo import DemoBuckets

_SHOWN = 14


class StepFailedError(NeuromirrorError):
    """A command of the demonstration failed."""


def run_walkthrough(*, keep: Path | None, serve: bool, ask: bool, as_json: bool) -> int:
    """Run the demonstration; return the exit code.

    All files are in ``keep``, or in a temporary folder that is removed. Raises StepFailedError with
    the output of the command that failed, and ConfigurationError if a program is missing.
    """
    _need_programs()
    from neuromirror_demo import DemoArchive, DemoBuckets

    with ExitStack() as stack:
        stack.enter_context(stop_on_sigterm())
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuromirror-")))
            # annexed objects and their folders are read-only
            stack.callback(_make_writable, folder)
        else:
            folder = keep.absolute()
            _refuse_earlier(folder)
        _print_text(as_json, "Starting small DANDI and S3 archives on this machine …")
        demo = stack.enter_context(DemoArchive(folder))
        address = stack.enter_context(serve_folder(folder / "store"))
        steps = CommandSteps(folder, ask=ask, as_json=as_json)
        path = next(one for one in demo.paths("000002") if one.endswith(".nwb"))
        restored = "paper/data/demo--000002"
        steps.run_all(
            "archive",
            address=address,
            path=shlex.quote(path),
            restored=restored,
            damaged=shlex.quote(f"{restored}/{path}"),
        )
        changed = demo.paths("000008")[0]
        demo.change_file("000008", changed)
        label = demo.publish("000008")
        steps.print_text(
            f"\nMeanwhile, upstream: {changed} of 000008 changes, and {label} is published."
        )
        steps.run_all("news", label=label, digest=demo.sha256("000008", changed))
        served = demo.addresses()
        buckets = stack.enter_context(DemoBuckets(folder, layers=serve))
        _mirror_buckets(buckets, address, steps)
        served["buckets"] = buckets.addresses()
        _print_text(as_json, _END if keep is None else f"{_END}{_KEPT.format(folder=folder)}")
        if serve:
            serve_until_interrupted(served, address, folder, steps, stack)
    return 0


_END = """
This was the complete workflow: archive, mirror, clone, pin, restore. To continue, in a new folder:

    neuromirror sync dandi:000027       # one dandiset of the real archive
    neuromirror show dandi:000027

docs/tutorial.md explains each step."""

_KEPT = """

The store and the clones are in {folder}. There, 'neuromirror list' and the other
commands that only read continue to work."""


def _refuse_earlier(folder: Path) -> None:
    """Refuse to restart an archive, because it would appear to have lost its history."""
    for name in ("store", "dataset", "recording", "paper"):
        if (folder / name).exists():
            raise ConfigurationError(
                f"{folder} holds an earlier demonstration ({name}); name a new folder, or remove "
                "that one (chmod -R u+w first: git-annex protects its files)"
            )


def _mirror_buckets(buckets: DemoBuckets, address: str, steps: CommandSteps) -> None:
    values = {"raw": RAW, "sorted": SORTED_1, "samples": f"si_folder/{TRACES}"}
    steps.run_all("buckets", address=address, **values)
    buckets.edit_sidecar(SORTED_1, "quality_control.json")
    steps.print_text(
        "\nMeanwhile, upstream: the quality control of the sorted recording is edited."
    )
    steps.run_all("edited", **values)


class CommandSteps:
    """Runs commands in a folder, prints each with its output, and stops at the first failure."""

    def __init__(self, folder: Path, *, ask: bool, as_json: bool) -> None:
        self._folder = folder
        self._ask = ask and sys.stdin.isatty() and not as_json
        self.json = as_json
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "DATALAD_UI_PROGRESSBAR": "none",
        }
        for name in ("NEUROMIRROR_STORE", "NEUROMIRROR_MIRRORS", "NEUROMIRROR_INDEX"):
            self.environment.pop(name, None)
        self.environment |= demo_variables(folder)

    def print_text(self, text: str) -> None:
        """Print a sentence between steps."""
        _print_text(self.json, text)

    def run_all(self, part: str, **values: str) -> None:
        """Run the steps of a part of ``walkthrough.json``, with values for its places."""
        for step in read_data("walkthrough")[part]:
            shown, code = step.get("shown", _SHOWN), step.get("code", 0)
            if "run" in step:
                self.run(step["text"], step["run"].format(**values), shown=shown, code=code)
            else:
                command = step["shell"].format(**values)
                self._step(step["text"], command, ["sh", "-c", command], shown, code)

    def run(self, text: str, command: str, *, shown: int = _SHOWN, code: int = 0) -> None:
        """Run a neuromirror command and print the start of its output; ``code`` is expected."""
        arguments = [sys.executable, "-m", "neuromirror", *shlex.split(command)]
        self._step(text, f"neuromirror {command}", arguments, shown, code)

    def _step(self, text: str, typed: str, arguments: Sequence[str], shown: int, code: int) -> None:
        if text:
            self.print_text(f"\n{text}")
        if not self.json:
            click.secho(f"$ {typed}", bold=True)
        done = subprocess.run(
            arguments,
            cwd=self._folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != code:
            raise StepFailedError(
                f"'{typed}' failed in {self._folder} with exit code {done.returncode}:\n"
                f"{done.stdout.strip()}"
            )
        if self.json:
            record = {"action": "demo", "status": "ok", "command": typed, "output": done.stdout}
            click.echo(json.dumps(record, ensure_ascii=False))
            return
        lines = done.stdout.splitlines()
        for line in lines[:shown]:
            click.echo(f"  {line}")
        if len(lines) > shown:
            click.echo(f"  … {len(lines) - shown} more lines")
        if self._ask:
            click.pause("  (press a key)")


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder like any static HTTP server; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the demonstration prints its own steps."""


def _need_programs() -> None:
    missing = [name for name in ("git", "git-annex", "datalad") if not _found(name)]
    # pynwb is slow to import, and is needed only for files that are not cached
    missing += [name for name in ("pynwb", "werkzeug") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the demo needs {', '.join(missing)}; install them with "
            "pip install 'neuromirror[demo]' (git: from your system)"
        )


def _found(name: str) -> bool:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=path) is not None


def _make_writable(folder: Path) -> None:
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(root) / name
            if not path.is_symlink():
                path.chmod(0o700)


def _print_text(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text)
        sys.stdout.flush()


_STOP_TIMEOUT = 15
"""Seconds that the catalogue has to exit."""


class CatalogueExitedError(NeuromirrorError):
    """The catalogue process exited unexpectedly."""


@dataclass(slots=True)
class CatalogueProcess:
    """A process of ``neuromirror catalogue``; without an ``address`` it failed to start."""

    process: subprocess.Popen[str]
    address: str
    error: str

    def wait(self) -> None:
        """Wait until the process exits, which it should not; raise CatalogueExitedError."""
        code = self.process.wait()
        raise CatalogueExitedError(f"the catalogue at {self.address} has ended (exit code {code})")


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C during the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line of a process's output, and discard the rest in the background.

    A pipe without a reader blocks its writer once it is full.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    threading.Thread(target=_discard, args=(process.stdout,), name="discard", daemon=True).start()
    return line


def _discard(output: IO[str]) -> None:
    with suppress(OSError, ValueError):  # closed meanwhile
        while output.read(1 << 16):
            pass


@contextmanager
def run_catalogue(folder: Path, environment: Mapping[str, str]) -> Iterator[CatalogueProcess]:
    """Run the catalogue of the folder's store until the end of the block."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "neuromirror", "--json"),
            *("catalogue", "--listen", "127.0.0.1:0", "--title", "neuromirror demo"),
        ],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is handled by the demonstration, which then stops this process
        start_new_session=True,
    ) as process:
        try:
            line = first_line(process)
            message = json.loads(line) if line else {"message": "it does not start"}
            yield CatalogueProcess(process, message.get("url", ""), message.get("message", ""))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def serve_until_interrupted(
    archives: dict[str, Any], static: str, folder: Path, steps: CommandSteps, stack: ExitStack
) -> None:
    """Mirror everything, then serve archives, store and catalogue until Ctrl-C.

    ``static`` is the URL of the store alone, used if the catalogue is not available.
    """
    from neuromirror_demo.boss import DemoBoss
    from neuromirror_demo.ndstore import DemoNdstore

    archives["boss"] = stack.enter_context(DemoBoss(folder)).addresses()
    archives["ndstore"] = stack.enter_context(DemoNdstore(folder)).addresses()
    steps.run("Everything else that the archives have is mirrored too: volumes, Zarrs.", "sync")
    catalogue = stack.enter_context(run_catalogue(folder, steps.environment))
    store = catalogue.address or static
    if steps.json:
        addresses = {**archives, "store": store, "catalogue": catalogue.address or None}
        record = {
            "action": "demo",
            "status": "ok",
            "message": catalogue.error,
            "serving": addresses,
        }
        click.echo(json.dumps(record, ensure_ascii=False))
    else:
        click.echo(_SERVED.format(address=store, folder=folder))
        if catalogue.address:
            click.echo(f"\nSome pages:\n\n{_highlights(store)}")
            click.secho(f"\nOpen the catalogue in a browser: {store}", bold=True)
        else:
            click.echo(f"\nNo pages: {catalogue.error}")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        if catalogue.address:
            catalogue.wait()
        threading.Event().wait()


_SERVED = """
In another terminal, clone from the address of the catalogue:

    . {folder}/environment    # allows git-annex to read the archives on this machine
    datalad clone 'ria+{address}/#~demo--000002' demo-000002
    cd demo-000002
    datalad get .

What syncs and all other commands go by is in {folder}.
Ctrl-C ends it."""


def _highlights(address: str) -> str:
    """Return one line per dataset with its special features."""
    shown = {
        "versions, and what changed": "demo:000008",
        "a Zarr": "demo:000005",
        "provenance": f"demo-aind:{SORTED_1}",
        "a volume": "demo-boss:demo_cortex/sections/em",
    }
    width = max(map(len, shown))
    return "\n".join(
        f"    {what:<{width}}  {address}/dataset/{quote(name, safe='/:')}"
        for what, name in shown.items()
    )
