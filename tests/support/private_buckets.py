"""A private bucket, a public and a private store, and a search for credentials everywhere."""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from click.testing import CliRunner

from neuromirror.cli import main
from support.embargo_harness import contents
from support.signed_buckets import PROFILE, Keys, SignedBuckets

FOLDER, FILE = "canaryfolder", "canaryfile.txt"
NAME = f"lab:{FOLDER}"
DATA = b"bytes of the canary\n"


@dataclass
class PrivateBucket:
    """A bucket with one dataset and the folders of a lab; ``output`` is everything printed."""

    server: SignedBuckets
    bucket: str
    keys: Keys
    home: Path
    folder: Path
    output: list[str] = field(default_factory=list)

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def private(self) -> Path:
        return self.folder / "private"

    def write_mirror_file(self, *lines: str, source: str = "s3") -> None:
        folder = self.folder / "mirrors"
        folder.mkdir(exist_ok=True)
        given = [f'source = "{source}"', "[options]", f'bucket = "{self.bucket}"']
        given += [f'endpoint = "{self.server.endpoint}"', *lines]
        (folder / "lab.toml").write_text("\n".join(given) + "\n")

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command in this process; return its output."""
        given = {
            "NEUROMIRROR_MIRRORS": str(self.folder / "mirrors"),
            "NEUROMIRROR_STORE": str(self.public),
            "NEUROMIRROR_PRIVATE_STORE": str(self.private),
            **environment,
        }
        done = run_here(Path.cwd(), *arguments, environment=given)
        self.output.append(done.stdout)
        assert done.returncode == code, done.stdout
        return done.stdout

    def sync(self, *names: str, code: int = 0, **environment: str) -> list[dict[str, Any]]:
        """Sync; return the results."""
        printed = self.run("--json", "sync", *names, code=code, **environment)
        lines = [line for line in printed.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    def run_on_private_store(self, *arguments: str, code: int = 0) -> str:
        return self.run("--store", str(self.private), *arguments, code=code)

    def files(self) -> list[dict[str, Any]]:
        """Return the files in the private store."""
        printed = self.run_on_private_store("--json", "files", NAME)
        return [json.loads(line) for line in printed.splitlines()]

    def assert_no_secret(self, *folders: Path, printed: tuple[str, ...] = ()) -> None:
        """Check that no credential is in a store, in other folders or in any output."""
        secrets = [one for one in (self.keys.secret, self.keys.token, "Signature=") if one]
        for folder in (self.public, self.private, *folders):
            content = b"\n".join(contents(folder)) if folder.exists() else b""
            assert [secret for secret in secrets if secret.encode() in content] == [], folder
        everything = "\n".join([*self.output, *printed])
        assert [secret for secret in secrets if secret in everything] == []

    def assert_nothing_public(self) -> None:
        """Check that the public store names neither the bucket nor its files."""
        names = [self.bucket, FOLDER, FILE, self.keys.access]
        content = b"\n".join(contents(self.public)) if self.public.exists() else b""
        assert [name for name in names if name.encode() in content] == []


def make_private_bucket(
    server: SignedBuckets, home: Path, folder: Path, *, versioned: bool = True
) -> PrivateBucket:
    """Create a bucket that a profile can read, and a mirror file with the profile."""
    objects = {f"{FOLDER}/{FILE}": DATA, f"{FOLDER}/sub/b c+.bin": b"0123456789"}
    bucket = server.make(objects, versioned=versioned)
    folder.mkdir()
    made = PrivateBucket(server, bucket, server.new_user(), home, folder)
    made.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"')
    return made


def run_here(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> CompletedProcess[str]:
    """Run ``neuromirror`` in this process and a folder, whatever its exit code."""
    given = {"AWS_EC2_METADATA_DISABLED": "true", **environment}
    with chdir(folder):
        done = CliRunner().invoke(main, arguments, env=given, catch_exceptions=False)
    return CompletedProcess(arguments, done.exit_code, done.stdout + done.stderr)


def _processes() -> set[str]:
    """Return the ids of all processes of the machine."""
    return {one for one in os.listdir("/proc") if one.isdigit()}


def _command_lines(processes: Iterable[str]) -> Iterator[bytes]:
    """Yield the command lines of those processes that still run."""
    for process in processes:
        with suppress(OSError):
            yield Path("/proc", process, "cmdline").read_bytes()


@contextmanager
def watched_processes(*secrets: str) -> Iterator[list[str]]:
    """Yield the command lines with a secret of processes that start while the context is open.

    Copies of command lines that were already there (a shell that forks) are not of the program
    under test: a shell that runs this test may quote anything.
    """
    found: list[str] = []
    old = _processes()
    before = set(_command_lines(old))
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for line in set(_command_lines(_processes() - old)) - before:
                found.extend(
                    line.decode(errors="replace") for secret in secrets if secret.encode() in line
                )
            done.wait(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        done.set()
        watching.join()
