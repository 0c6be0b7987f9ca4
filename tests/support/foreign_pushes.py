"""Clones of a store, and pushes from them."""

import os
import shutil
import subprocess
from pathlib import Path

from neuromirror.crawl.repair import RepairResult, repair_repositories
from neuromirror.service.integrity import CheckResult, check_integrity
from neuromirror.store.durable_files import SETTINGS
from support.mirror_harness import MirrorHarness, run_git


def run_in(
    folder: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, whatever its exit code; stderr goes to stdout."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def run_checked(folder: Path, *command: str) -> str:
    """Run a command that must succeed; return its output."""
    result = run_in(folder, *command)
    assert result.returncode == 0, result.stdout
    return result.stdout


def trust_remotes(clone: Path) -> None:
    """Mark special remotes as safe, which recent versions of git-annex require for pushes."""
    if "demo-api" in run_in(clone, "git", "remote").stdout.split():
        run_in(clone, "git", "annex", "verifyremote", "demo-api")
        run_in(clone, "git", "annex", "verifyremote", "demo-api", "--safe", "1")


def unprotect(mirror_harness: MirrorHarness) -> None:
    """Remove the write protection of a store's repositories."""
    for _, repository in mirror_harness.store.repositories.aliases():
        shutil.rmtree(repository.path / "hooks", ignore_errors=True)
        config = repository.path / "config"
        config.write_text(config.read_text().replace(SETTINGS, ""))
    (mirror_harness.folder / "neuromirror" / "protected").unlink(missing_ok=True)


def push_commit(
    mirror_harness: MirrorHarness, dataset: str, folder: Path, *, annex: bool = True
) -> str:
    """Push a commit, and a git-annex branch with the uuid of the clone."""
    repository = mirror_harness.repository(dataset)
    run_checked(folder.parent, "git", "clone", "-q", str(repository), str(folder))
    (folder / "mine.txt").write_text("mine\n")
    run_checked(folder, "git", "add", "mine.txt")
    run_checked(folder, "git", "commit", "-q", "-m", "lab")
    if annex:
        run_checked(folder, "git", "annex", "init", "lab")
    branches = ["main", *(["git-annex", "git-annex:synced/git-annex"] if annex else [])]
    run_checked(folder, "git", "push", "--no-verify", "-q", "origin", *branches)
    return run_git(folder, "rev-parse", "HEAD").strip()


def push_records(mirror_harness: MirrorHarness, dataset: str, folder: Path) -> str:
    """Push a git-annex branch with the uuid of the clone, and no commit."""
    run_checked(
        folder.parent, "git", "clone", "-q", str(mirror_harness.repository(dataset)), str(folder)
    )
    run_checked(folder, "git", "annex", "init", "lab")
    run_checked(folder, "git", "push", "--no-verify", "-q", "origin", "git-annex")
    return run_git(folder, "rev-parse", "git-annex").strip()


def problems_of(mirror_harness: MirrorHarness, *aliases: str) -> list[CheckResult]:
    """Return the problems that an integrity check finds."""
    store = mirror_harness.store
    found = check_integrity(store, store.index_path, set(aliases) or None, None)
    return [one for one in found if one.status != "ok"]


def repair_harness(
    mirror_harness: MirrorHarness, *aliases: str, dry_run: bool = False
) -> dict[str, RepairResult]:
    """Repair a store; return the results by dataset."""
    store = mirror_harness.store
    results = repair_repositories(store, store.index_path, set(aliases) or None, dry_run=dry_run)
    return {result.dataset: result for result in results}
