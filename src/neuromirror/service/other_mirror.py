"""Read the repositories and manifests of another mirror over HTTP; nothing of it is trusted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuromirror.git import (
    FSCK_OPTIONS,
    REMOTE_OPTIONS,
    GitError,
    check_objects,
    run_git,
    try_git,
    with_redirect_advice,
)
from neuromirror.net import NotFoundError, Session, redact
from neuromirror.service.join_checks import JoinError
from neuromirror.store.manifests import manifest_lines
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
)

_HEADS: Final = (MAIN_BRANCH, PUBLISHED_BRANCH, DRAFT_BRANCH, ANNEX_BRANCH)
_ALIAS: Final = re.compile(r"[a-z0-9][A-Za-z0-9._%+-]{0,250}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_MANIFEST: Final = 1 << 36


class OtherMirror:
    """Reads repositories and manifests of another mirror."""

    def __init__(self, url: str, session: Session) -> None:
        self._url = url
        self._session = session

    def dataset_aliases(self, mirror: str, scratch: Path) -> list[str]:
        """Return the aliases of the datasets of a mirror, from its superdatasets."""
        found: list[str] = []
        waiting, seen = [mirror], {mirror}
        while waiting:
            alias = waiting.pop()
            git_dir = scratch / f"{len(found)}-{alias}"
            refs = self.fetch(alias, git_dir)
            if ANNEX_BRANCH in refs:
                found.append(alias)
                shutil.rmtree(git_dir)
                continue
            commit = refs.get(MAIN_BRANCH)
            members = [] if commit is None else list(_members(git_dir, commit))
            for member in members:
                if member in seen:
                    continue
                seen.add(member)
                # the alias of a group is a prefix of those of its members
                (waiting if self._is_superdataset(member) else found).append(member)
            shutil.rmtree(git_dir)
        return sorted(found)

    def _is_superdataset(self, alias: str) -> bool:
        return ANNEX_BRANCH not in self._list_refs(alias)

    def fetch(self, alias: str, git_dir: Path) -> dict[str, str]:
        """Fetch the refs that neuromirror writes into a new repository, and check all objects."""
        refs = {
            name: commit
            for name, commit in self._list_refs(alias).items()
            if name in _HEADS or name.startswith(TAG_PREFIX)
        }
        if not refs:
            raise JoinError(f"{self._url}/alias/{alias}: the other mirror has no such dataset")
        run_git(git_dir.parent, "init", "-q", "--bare", str(git_dir))
        specs = "".join(f"+{name}:{name}\n" for name in refs)
        self._git(
            git_dir, "fetch", "-q", "--no-tags", "--stdin", self._clone_url(alias), stdin=specs
        )
        check_objects(git_dir)
        return refs

    def fetch_manifest(self, state: str, folder: Path) -> Path | None:
        """Download a manifest and compare its digest; return None if the mirror lacks it."""
        digest = state.removeprefix("sha256:")
        path = folder / "manifests" / digest[:2] / f"{digest[2:]}.jsonl.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        url = f"{self._url}/manifests/{digest[:2]}/{digest[2:]}.jsonl.zst"
        try:
            with self._session.stream(url) as stream, path.open("wb") as file:
                received = 0
                for piece in stream.chunks:
                    received += len(piece)
                    if received > _MAX_MANIFEST:
                        raise JoinError(f"{url}: larger than {_MAX_MANIFEST:,} bytes")
                    file.write(piece)
        except NotFoundError:
            return None
        for _ in manifest_lines(path):  # the digest is compared after the last line
            pass
        return path

    def _clone_url(self, alias: str) -> str:
        return f"{self._url}/alias/{alias}"

    def _list_refs(self, alias: str) -> dict[str, str]:
        output = self._git(None, "ls-remote", "-q", "--refs", self._clone_url(alias))
        refs = {}
        for line in output.splitlines():
            commit, _, name = line.partition("\t")
            if not _COMMIT.fullmatch(commit):
                raise JoinError(f"{self._clone_url(alias)}: a malformed ref {line!r}")
            refs[name] = commit
        return refs

    def _git(self, git_dir: Path | None, *arguments: str, stdin: str = "") -> str:
        options = (*FSCK_OPTIONS, *REMOTE_OPTIONS, "-c", "fetch.unpackLimit=1")
        done = try_git(
            git_dir,
            *(*options, "-c", "core.hooksPath=/dev/null", *arguments),
            stdin=stdin,
            environment={"GIT_ALLOW_PROTOCOL": "http:https", "GIT_TERMINAL_PROMPT": "0"},
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise JoinError(f"{redact(arguments[-1])}: {with_redirect_advice(redact(reason[0]))}")
        return done.stdout


def _members(git_dir: Path, commit: str) -> Iterator[str]:
    """Yield the aliases of the subdatasets of a commit, from the relative URLs in .gitmodules."""
    try:
        listed = run_git(
            git_dir, "config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp", r"\.url$"
        )
    except GitError:
        return  # no subdatasets
    for line in listed.split("\0"):
        url = line.partition("\n")[2]
        alias = url.removeprefix("../")
        if not line:
            continue
        if url == alias or not _ALIAS.fullmatch(alias):
            raise JoinError(f"commit {commit}: {url!r} is not the URL of a subdataset of a mirror")
        yield alias
