"""Clones of a store, and what their owners push."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from crawl_place import Place, git

from neuromirror.crawl.repair import Repaired, repair
from neuromirror.service.checks import Checked
from neuromirror.service.rounds import look
from neuromirror.store.protection import SETTINGS


def run(
    folder: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command in a folder, whatever becomes of it; stderr is in stdout."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def done(folder: Path, *command: str) -> str:
    """The same for a command that must succeed."""
    result = run(folder, *command)
    assert result.returncode == 0, result.stdout
    return result.stdout


def trust_remotes(clone: Path) -> None:
    """Confirms that special remotes are safe, without which new git-annex pushes nowhere."""
    if "demo-api" in run(clone, "git", "remote").stdout.split():
        run(clone, "git", "annex", "verifyremote", "demo-api")
        run(clone, "git", "annex", "verifyremote", "demo-api", "--safe", "1")


def unprotect(place: Place) -> None:
    """Makes a store as it was before repositories were protected."""
    for _, repository in place.store.aliases():
        shutil.rmtree(repository.path / "hooks", ignore_errors=True)
        config = repository.path / "config"
        config.write_text(config.read_text().replace(SETTINGS, ""))
    (place.folder / "neuromirror" / "protected").unlink(missing_ok=True)


def push_commit(place: Place, dataset: str, folder: Path, *, annex: bool = True) -> str:
    """Pushes a commit of a person's, and a git-annex branch with their clone's uuid."""
    repository = place.repository(dataset)
    done(folder.parent, "git", "clone", "-q", str(repository), str(folder))
    (folder / "mine.txt").write_text("mine\n")
    done(folder, "git", "add", "mine.txt")
    done(folder, "git", "commit", "-q", "-m", "lab")
    if annex:
        done(folder, "git", "annex", "init", "lab")
    branches = ["main", *(["git-annex", "git-annex:synced/git-annex"] if annex else [])]
    done(folder, "git", "push", "--no-verify", "-q", "origin", *branches)
    return git(folder, "rev-parse", "HEAD").strip()


def push_records(place: Place, dataset: str, folder: Path) -> str:
    """Pushes a git-annex branch with a clone's uuid, and no commit of anybody's files."""
    done(folder.parent, "git", "clone", "-q", str(place.repository(dataset)), str(folder))
    done(folder, "git", "annex", "init", "lab")
    done(folder, "git", "push", "--no-verify", "-q", "origin", "git-annex")
    return git(folder, "rev-parse", "git-annex").strip()


def broken(place: Place, *aliases: str) -> list[Checked]:
    """What a look at the store finds broken."""
    store = place.store
    found = look(store, store.index_path, set(aliases) or None, None)
    return [one for one in found if one.status != "ok"]


def repaired(place: Place, *aliases: str, dry_run: bool = False) -> dict[str, Repaired]:
    """The results of a repair by dataset."""
    store = place.store
    results = repair(store, store.index_path, set(aliases) or None, dry_run=dry_run)
    return {one.dataset: one for one in results}
