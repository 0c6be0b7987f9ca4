"""The last part of ``demo --serve``: more archives, and the catalogue of all mirrored datasets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

import click

from neuromirror.model import NeuromirrorError
from neuromirror_demo.bucket_contents import SORTED_1

if TYPE_CHECKING:
    from neuromirror_demo.walkthrough import CommandSteps

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


def volumes(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Start a BOSS and an ndstore beside the other archives; yield their addresses."""
    from neuromirror_demo.boss import DemoBoss
    from neuromirror_demo.ndstore import DemoNdstore

    found: dict[str, Any] = {}
    if entry_points(group="neuromirror.sources", name="boss"):
        found["boss"] = stack.enter_context(DemoBoss(folder)).addresses()
    if entry_points(group="neuromirror.sources", name="ndstore"):
        found["ndstore"] = stack.enter_context(DemoNdstore(folder)).addresses()
    return found


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
    archives |= volumes(folder, stack)
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
            click.echo(f"\nSome pages:\n\n{_highlights(store, archives)}")
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


def _highlights(address: str, archives: Mapping[str, Any]) -> str:
    """Return one line per dataset with its special features."""
    shown = {"versions, and what changed": "demo:000008", "a Zarr": "demo:000005"}
    if "buckets" in archives:
        shown["provenance"] = f"demo-aind:{SORTED_1}"
    if "boss" in archives:
        shown["a volume"] = "demo-boss:demo_cortex/sections/em"
    width = max(map(len, shown))
    return "\n".join(
        f"    {what:<{width}}  {address}/dataset/{quote(name, safe='/:')}"
        for what, name in shown.items()
    )
