"""The process of a drill, in which upstream and the mirror are blocked.

A hook of the interpreter refuses every connection of any library to a host that is not that of a
vault, and every file of the store that is not in a vault. It cannot be removed in the process. Git
may use local files only.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from neuromirror.annex import VaultAddress, VaultKind
from neuromirror.config.vault_files import DirectoryVaultFile, VaultConfig, load_vaults
from neuromirror.custody.copies import contents_of_lock
from neuromirror.custody.keep import copy_content
from neuromirror.lab.lockfile import Lock, load_lock
from neuromirror.lab.restore import restore
from neuromirror.lab.verify import verify
from neuromirror.model import NeuromirrorError, dump_json, parse_json
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.opening import open_vault


class DrillOrder(msgspec.Struct):
    """The work for the process.

    Attributes
    ----------
    lock, into, vaults
        Paths of the lock file, of the scratch folder and of the folder of vault files.
    folders
        The folders of directory vaults.
    public
        URLs of public vaults in S3, which end with the prefix of object names.
    others
        The names of other vaults. Their contents are copied to a directory vault first.
    store
        The folder of the store; empty without one.
    hosts
        The hosts of the vaults.
    """

    lock: str
    into: str
    vaults: str
    folders: list[str] = []
    public: list[str] = []
    others: list[str] = []
    store: str = ""
    hosts: list[str] = []


class DrillOutcome(msgspec.Struct):
    """The result of the process.

    Attributes
    ----------
    files, bytes
        Number and size of the restored files.
    verified
        Number of files whose bytes were hashed in the scratch folder.
    problems
        What could not be restored or verified, the first ones.
    failed
        Number of problems.
    seconds
        Duration of restoring and verifying.
    """

    files: int = 0
    bytes: int = 0
    verified: int = 0
    problems: list[str] = []
    failed: int = 0
    seconds: float = 0.0


_MOST = 20


class BlockedError(PermissionError):
    """A drill refused a connection or a file."""


def block(hosts: Iterable[str], folders: Iterable[str], readable: Iterable[str]) -> list[str]:
    """Refuse all connections but those to some hosts, and all files of some folders."""
    names = {one.lower() for one in hosts}
    addresses = _resolve(names)
    closed = [os.path.realpath(folder) + os.sep for folder in folders]
    opened = [os.path.realpath(one) + os.sep for one in readable]
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


def run(order: DrillOrder) -> DrillOutcome:
    """Restore a lock file from vaults alone and verify it."""
    began = time.monotonic()
    blocked = [order.store] if order.store else []
    readable = [*order.folders, str(Path(order.lock).parent), order.into]
    block(order.hosts, blocked, readable)
    result = DrillOutcome()
    lock, into = load_lock(Path(order.lock)), Path(order.into) / "datasets"
    addresses = [
        *(VaultAddress(VaultKind.DIRECTORY, folder) for folder in order.folders),
        *(VaultAddress(VaultKind.S3, one) for one in order.public),
    ]
    if order.others:
        staged = _stage(order, lock, result)
        addresses.append(VaultAddress(VaultKind.DIRECTORY, str(staged)))
    for outcome in restore(lock, into, vaults=addresses, copies_only=True):
        if outcome.failed:
            _add(result, f"{outcome.path}: {outcome.message}")
        elif outcome.action == "get" and outcome.status == "ok":
            result.files += 1
            result.bytes += outcome.size or 0
    for finding in verify(lock, "local", within=into):
        if finding.failed:
            _add(result, f"{finding.path}: {finding.message}")
        elif finding.kind == "file" and finding.checked == "checked":
            result.verified += 1
    result.seconds = time.monotonic() - began
    return result


def _stage(order: DrillOrder, lock: Lock, result: DrillOutcome) -> Path:
    """Copy the pinned contents of vaults that only our own code can read to a directory vault."""
    folder = Path(order.into) / "staged"
    settings = DirectoryVaultFile(kind="directory", path=str(folder))
    staged = DirectoryVault(VaultConfig("staged", folder, settings), folder, create=True)
    configs, left = load_vaults(Path(order.vaults)), dict(contents_of_lock(lock).items)
    for name in order.others:
        try:
            with closing(open_vault(configs[name], None)) as vault:
                for one in list(vault.presence(list(left))):
                    if one.size is not None:
                        copy_content(one.key, vault, staged, Path(order.into), lambda count: None)
                        del left[one.key]
        except NeuromirrorError as error:
            _add(result, f"vault {name}: {error}")
    return folder


def _add(result: DrillOutcome, problem: str) -> None:
    result.failed += 1
    if len(result.problems) < _MOST:
        result.problems.append(problem)


def main() -> None:
    """Read the order from standard input and write the result to standard output."""
    order = msgspec.convert(parse_json(sys.stdin.buffer.read(), "the order"), DrillOrder)
    out = os.dup(1)
    os.dup2(2, 1)
    result = run(order)
    with open(out, "wb") as file:
        file.write(dump_json(result))


if __name__ == "__main__":
    main()
