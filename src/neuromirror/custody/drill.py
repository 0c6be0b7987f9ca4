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
from msgspec.structs import replace

from neuromirror.annex import VaultKind, vault_address
from neuromirror.config.vault_files import DirectoryVaultFile, VaultConfig
from neuromirror.custody.drill_process import DrillOrder, DrillOutcome
from neuromirror.custody.records import DrillResult
from neuromirror.lab.lockfile import load_lock
from neuromirror.model import NeuromirrorError, count_of, dump_json, parse_json
from neuromirror.model.errors import format_bytes
from neuromirror.store import Store
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.opening import open_vault

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
        return [one.commit for one in load_lock(lock).datasets if not one.paths]
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
