"""``python -m neuromirror_demo serve``: run the demo archives alone, until interrupted."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import click

from neuromirror.model import NeuromirrorError
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.ndstore import DemoNdstore


@click.group()
def main() -> None:
    """Run small archives on loopback with small real data."""


@main.command()
@click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the mirror files and generated data; made if missing.",
)
@click.option(
    "--port",
    default=0,
    show_default="a free one",
    type=click.IntRange(0, 65530),
    help="Port of the API; S3 and the buckets get the next ones.",
)
@click.option(
    "--buckets/--no-buckets",
    default=True,
    show_default=True,
    help="Serve AIND-like S3 buckets, too (the port after S3's).",
)
@click.option(
    "--volumes/--no-volumes",
    default=True,
    show_default=True,
    help="Serve volumes, too: a BOSS and an ndstore (the ports after the buckets'), and a bucket"
    " of volumes beside the other buckets.",
)
def serve(directory: Path, port: int, buckets: bool, volumes: bool) -> None:
    """Serve until interrupted; print one line of JSON with the addresses.

    The field "mirrors" is the folder with mirror files for the archives.
    """
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stop.set())
    try:
        with ExitStack() as stack:
            demo = stack.enter_context(
                DemoArchive(
                    directory,
                    port=port,
                    s3_port=port + 1 if port else 0,
                    buckets=buckets,
                    buckets_port=port + 2 if port else 0,
                    layers=volumes,
                )
            )
            served = demo.addresses()
            if volumes:
                boss = stack.enter_context(DemoBoss(directory, port=port + 3 if port else 0))
                served["boss"] = boss.addresses()
                ndstore = stack.enter_context(DemoNdstore(directory, port=port + 4 if port else 0))
                served["ndstore"] = ndstore.addresses()
            click.echo(json.dumps(served))
            sys.stdout.flush()
            stop.wait()
    except ModuleNotFoundError as error:
        click.echo(f"error: {error.name} is missing: pip install 'neuromirror[demo]'", err=True)
        sys.exit(2)
    except (NeuromirrorError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code if isinstance(error, NeuromirrorError) else 1)


if __name__ == "__main__":
    main(prog_name="python -m neuromirror_demo")
