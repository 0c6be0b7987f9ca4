"""Drills: restore a lock file from vaults alone, with upstream and the mirror blocked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import VaultKind, vault_address
from neuromirror.config.vault_files import DirectoryVaultFile, VaultConfig
from neuromirror.custody.drill_process import DrillOrder, DrillOutcome
from neuromirror.lab.lockfile import load_lock
from neuromirror.model import NeuromirrorError, count_of, dump_json, parse_json
from neuromirror.model.errors import format_bytes
from neuromirror.store import Store
from neuromirror.store.store import TaskState
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.opening import open_vault


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


_NO_NETWORK: Final = ("unshare", "--net", "--map-root-user")


def run_drill(
    lock: Path,
    vaults: Mapping[str, VaultConfig],
    store: Store | None,
    *,
    scratch: Path | None = None,
) -> DrillResult:
    """Restore a lock file in a scratch folder from vaults alone, and verify every file."""
    failed = DrillResult(
        time.time(), ok=False, vaults=sorted(vaults), commits=_pinned_commits(lock)
    )
    with TemporaryDirectory(prefix="drill-", dir=scratch) as folder:
        order, problems = _order(lock, Path(folder), vaults, store)
        is_local = not order.public and not order.others
        command = [sys.executable, "-m", "neuromirror.custody.drill_process"]
        without_network = is_local and _can_unshare()
        if without_network:
            command = [*_NO_NETWORK, *command]
        done = subprocess.run(
            command,
            input=dump_json(order),
            capture_output=True,
            env=_environment(Path(folder)),
            check=False,
        )
        try:
            outcome = msgspec.convert(parse_json(done.stdout, "the outcome"), DrillOutcome)
        except ValueError:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            text = f"the drill ended with exit code {done.returncode}: {''.join(last)}"
            return replace(failed, message=text)
    outcome.problems = [*problems, *outcome.problems]
    # a vault that cannot be used is no failure if the others have all contents
    is_complete = not outcome.failed and outcome.verified >= outcome.files
    text = (
        f"{count_of(outcome.files, 'file')} ({format_bytes(outcome.bytes)}) restored from "
        f"{', '.join(sorted(vaults))} and {outcome.verified} verified in {outcome.seconds:.0f} s"
    )
    if not is_complete:
        text = f"{count_of(outcome.failed, 'problem')}: {'; '.join(outcome.problems[:3])}; {text}"
    return replace(
        failed,
        ok=is_complete,
        seconds=outcome.seconds,
        files=outcome.files,
        bytes=outcome.bytes,
        blocked="kernel" if without_network else "process",
        message=text,
        problems=outcome.problems,
    )


def _pinned_commits(lock: Path) -> list[str]:
    """Return the commits that a lock file pins with all their files."""
    try:
        return [dataset.commit for dataset in load_lock(lock).datasets if not dataset.paths]
    except (NeuromirrorError, OSError):
        return []  # the process reports it


def _order(
    lock: Path, into: Path, vaults: Mapping[str, VaultConfig], store: Store | None
) -> tuple[DrillOrder, list[str]]:
    """Return the order for the process, and why vaults cannot be used."""
    problems: list[str] = []
    order = DrillOrder(str(lock.absolute()), str(into), "")
    if store is not None:
        order.store = str(store.root)
    for name, config in vaults.items():
        order.vaults = str(config.path.parent.absolute())
        try:
            with closing(open_vault(config, store)) as vault:
                vault.check_access()
                remote = vault.remote_config()
                address = None if remote is None else vault_address(remote)
        except NeuromirrorError as error:
            problems.append(f"vault {name}: {error}")
            continue
        if isinstance(vault, DirectoryVault):
            order.folders.append(str(vault.path.absolute()))
        elif address is not None and address.kind is VaultKind.S3:
            order.public.append(address.base)
        else:
            order.others.append(name)
        order.hosts += _hosts(config, () if address is None else (address.base,))
    return order, problems


def _hosts(config: VaultConfig, urls: Iterable[str]) -> list[str]:
    """Return the hosts that a vault needs."""
    settings = config.settings
    found = {urlsplit(url).hostname for url in urls}
    if isinstance(settings, DirectoryVaultFile):
        return []
    if settings.endpoint:
        found.add(urlsplit(settings.endpoint).hostname)
    else:
        region = settings.region or "us-east-1"
        found |= {
            f"{settings.bucket}.s3.amazonaws.com",
            f"{settings.bucket}.s3.{region}.amazonaws.com",
        }
    return sorted(filter(None, found))


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
