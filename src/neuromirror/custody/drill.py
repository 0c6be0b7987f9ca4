"""Drills: restore a lock file from vaults alone, with upstream and the mirror blocked.

A process of its own restores and verifies. In it, a hook of the interpreter refuses every
connection of any library to a host that is not that of a vault, and every file of the store that is
not in a vault. It cannot be removed in the process. Git may use local files only.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import VaultAddress
from neuromirror.config.vault_files import VaultConfig
from neuromirror.lab.lockfile import load_lock
from neuromirror.lab.restore import restore
from neuromirror.lab.verify import verify
from neuromirror.model import NeuromirrorError, count_of, dump_json, parse_json
from neuromirror.model.errors import format_bytes
from neuromirror.store import Store
from neuromirror.store.store import TaskState
from neuromirror.vault.opening import open_vault
from neuromirror.vault.own_vaults import address_of


class KeepResult(Struct, forbid_unknown_fields=True):
    """The result of the last run of a ``[[keep]]`` table.

    Attributes
    ----------
    locks, vault
        The glob of the lock files, and the name of the vault.
    lock_files
        Number of lock files that match.
    contents, bytes
        Number and size of the contents that they pin.
    lacking, lacking_bytes
        Those of which the vault has no copy yet.
    problems
        Why contents could not be kept, the first ones.
    """

    locks: str
    vault: str
    lock_files: int = 0
    contents: int = 0
    bytes: int = 0
    lacking: int = 0
    lacking_bytes: int = 0
    problems: list[str] = []


class KeepRecords(TaskState):
    """The results of the last run of a service."""

    task = "keep"
    at: str = ""
    keeps: list[KeepResult] = field(default_factory=list)


class DrillResult(Struct, forbid_unknown_fields=True):
    """The result of a drill.

    Attributes
    ----------
    at
        When it started, in POSIX seconds.
    ok
        Whether all pinned files were restored from the vaults and verified.
    seconds
        Duration of restoring and verifying.
    files, bytes
        Number and size of the restored files.
    vaults
        Names of the vaults.
    blocked
        What blocked upstream: ``kernel`` (the process had no network), or ``process`` (each
        connection of the process was checked).
    message
        The result as text.
    problems
        What could not be restored or verified, the first ones.
    commits
        The commits of the versions that the lock file pins completely.
    """

    at: float
    ok: bool
    seconds: float = 0.0
    files: int = 0
    bytes: int = 0
    vaults: list[str] = []
    blocked: str = ""
    message: str = ""
    problems: list[str] = []
    commits: list[str] = []


class DrillRecords(TaskState):
    """The last drill of each lock file, by its path."""

    task = "drills"
    drills: dict[str, DrillResult] = field(default_factory=dict)


def record_drill(store: Store, lock: Path, result: DrillResult) -> None:
    """Save the result of a drill; those of lock files that do not exist any more are removed."""
    # other processes may have drilled other lock files in the meantime
    records = DrillRecords.load(store)
    records.drills = {one: old for one, old in records.drills.items() if Path(one).exists()}
    records.drills[str(lock.resolve())] = result
    records.save(store)


class DrillOrder(Struct):
    """The work for the process.

    Attributes
    ----------
    lock, into
        Paths of the lock file and of the scratch folder.
    result
        The result so far: what is known before the process starts.
    vaults
        Where the copies are.
    hosts
        The hosts of the vaults.
    store
        The folder of the store; empty without one.
    """

    lock: str
    into: str
    result: DrillResult
    vaults: list[VaultAddress] = []
    hosts: list[str] = []
    store: str = ""


_NO_NETWORK: Final = ("unshare", "--net", "--map-root-user")
_MOST: Final = 20


def run_drill(
    lock: Path,
    vaults: Mapping[str, VaultConfig],
    store: Store | None,
    *,
    scratch: Path | None = None,
) -> DrillResult:
    """Restore a lock file in a scratch folder from vaults alone, and verify every file."""
    result = DrillResult(
        time.time(), ok=False, vaults=sorted(vaults), commits=_pinned_commits(lock)
    )
    with TemporaryDirectory(prefix="drill-", dir=scratch) as folder:
        order = DrillOrder(str(lock.absolute()), folder, result)
        if store is not None:
            order.store = str(store.root)
        _add_vaults(order, vaults, store)
        command = [sys.executable, "-m", "neuromirror.custody.drill"]
        result.blocked = "process"
        if not any(vault.is_url for vault in order.vaults) and _can_unshare():
            command = [*_NO_NETWORK, *command]
            result.blocked = "kernel"
        done = subprocess.run(
            command,
            input=dump_json(order),
            capture_output=True,
            env=_environment(Path(folder)),
            check=False,
        )
        try:
            return msgspec.convert(parse_json(done.stdout, "the outcome"), DrillResult)
        except ValueError:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            text = f"the drill ended with exit code {done.returncode}: {''.join(last)}"
            return replace(result, blocked="", problems=[], message=text)


def _pinned_commits(lock: Path) -> list[str]:
    """Return the commits that a lock file pins with all their files."""
    try:
        return [dataset.commit for dataset in load_lock(lock).datasets if not dataset.paths]
    except (NeuromirrorError, OSError):
        return []  # the process reports it


def _add_vaults(order: DrillOrder, vaults: Mapping[str, VaultConfig], store: Store | None) -> None:
    """Add the vaults that can be used to an order, and why others cannot."""
    for name, config in vaults.items():
        try:
            address = address_of(config, store)
            with closing(open_vault(config, store)) as vault:
                vault.check_access()
        except NeuromirrorError as error:
            order.result.problems.append(f"vault {name}: {error}")
            continue
        order.vaults.append(address)
        if (access := address.access) is not None and not access.endpoint:
            bucket = urlsplit(address.base).netloc
            hosts = {"s3.amazonaws.com", f"s3.{access.region or 'us-east-1'}.amazonaws.com"}
            order.hosts += sorted(f"{bucket}.{host}" for host in hosts)
        elif address.is_url:
            order.hosts.append(urlsplit(access.endpoint if access else address.base).hostname or "")


def _can_unshare() -> bool:
    if shutil.which(_NO_NETWORK[0]) is None:
        return False
    done = subprocess.run([*_NO_NETWORK, "true"], capture_output=True, check=False)
    return done.returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the process: its own cache, and no network for git."""
    return os.environ | {
        "NEUROMIRROR_CACHE": str(folder / "cache"),
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "annex.security.allowed-url-schemes",
        "GIT_CONFIG_VALUE_0": "none",
    }


# --- the process


class BlockedError(PermissionError):
    """A drill refused a connection or a file."""


def block(hosts: Iterable[str], folders: Iterable[str], readable: Iterable[str]) -> list[str]:
    """Refuse all connections but those to some hosts, and all files of some folders."""
    names = {host.lower() for host in hosts}
    addresses = _resolve(names)
    closed = [os.path.realpath(folder) + os.sep for folder in folders]
    opened = [os.path.realpath(folder) + os.sep for folder in readable]
    refused: list[str] = []

    def refuse(what: str) -> None:
        if what not in refused and len(refused) < _MOST:
            refused.append(what)
        raise BlockedError(f"{what} is blocked in a drill")

    def check_connection(_: Any, address: Any) -> None:
        if isinstance(address, tuple) and str(address[0]).partition("%")[0] not in addresses:
            refuse(str(address[0]))

    def check_name(host: Any, *_: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        if name.lower() not in names and name not in addresses:
            refuse(name)

    def check_file(path: Any, *_: Any) -> None:
        if not isinstance(path, (str, bytes)):
            return
        text = os.path.abspath(os.fsdecode(path))
        if text.startswith(tuple(closed)) and not text.startswith(tuple(opened)):
            refuse(text)

    checks: dict[str, Callable[..., None]] = {
        "socket.connect": check_connection,
        "socket.sendto": check_connection,
        "socket.getaddrinfo": check_name,
        "socket.gethostbyname": check_name,
        "open": check_file,
        "sqlite3.connect": check_file,
    }

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        check = checks.get(event)
        if check is not None:
            check(*arguments)

    sys.addaudithook(hook)
    return refused


def _resolve(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        with suppress(ValueError):
            found.add(str(ip_address(name)))
            continue
        with suppress(OSError):
            found |= {str(one[4][0]) for one in socket.getaddrinfo(name, None)}
    return found


def run(order: DrillOrder) -> DrillResult:
    """Restore a lock file from vaults alone and verify it."""
    began = time.monotonic()
    folders = [vault.base for vault in order.vaults if not vault.is_url]
    readable = [*folders, str(Path(order.lock).parent), order.into]
    block(order.hosts, [order.store] if order.store else [], readable)
    lock, into = load_lock(Path(order.lock)), Path(order.into) / "datasets"
    result, problems, verified = order.result, list[str](), 0
    for outcome in restore(lock, into, vaults=order.vaults, copies_only=True):
        if outcome.failed:
            problems.append(f"{outcome.path}: {outcome.message}")
        elif outcome.action == "get" and outcome.status == "ok":
            result.files += 1
            result.bytes += outcome.size or 0
    for finding in verify(lock, "local", within=into):
        if finding.failed:
            problems.append(f"{finding.path}: {finding.message}")
        elif finding.kind == "file" and finding.checked == "checked":
            verified += 1
    result.seconds = time.monotonic() - began
    result.message = (
        f"{count_of(result.files, 'file')} ({format_bytes(result.bytes)}) restored from "
        f"{', '.join(result.vaults)} and {verified} verified in {result.seconds:.0f} s"
    )
    # a vault that cannot be used is no failure if the others have all contents
    result.ok = not problems and verified >= result.files
    result.problems += problems[:_MOST]
    if not result.ok:
        first = "; ".join(result.problems[:3])
        result.message = f"{count_of(len(problems), 'problem')}: {first}; {result.message}"
    return result


def main() -> None:
    """Read the order from standard input and write the result to standard output."""
    order = msgspec.convert(parse_json(sys.stdin.buffer.read(), "the order"), DrillOrder)
    out = os.dup(1)
    os.dup2(2, 1)
    with open(out, "wb") as file:
        file.write(dump_json(run(order)))


if __name__ == "__main__":
    main()
