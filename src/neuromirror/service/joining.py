"""Start a mirror from another mirror over HTTP, instead of from the archive.

A dataset is first copied to a scratch store: its git history by git, and its canonical manifests.
There, everything is recomputed that can be: git's object ids, the state digest of each version from
its manifest and its records, and the dataset ids from the source URIs. A sample of its files is
compared with the archive. Only then it is moved into the store. The journal of the other mirror,
with its holds and failures, is not public; the versions are read back from git.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl import JournalRecorder, Result, open_recorder
from neuromirror.crawl.index_rebuild import restore_records
from neuromirror.git import FSCK_OPTIONS, STALL_LIMIT, GitError, check_objects, run_git, try_git
from neuromirror.index import (
    DatasetWithdrawnError,
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
)
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    NeuromirrorError,
    VersionMinted,
    alias_of,
    current_timestamp,
)
from neuromirror.net import NotFoundError, Session, redact
from neuromirror.service.join_checks import (
    JoinError,
    archive_hosts,
    check_annex_settings,
    check_ids,
    check_sample,
    check_version,
)
from neuromirror.sources import Source
from neuromirror.store import Store, dataset_ref_of, read_versions_from_git
from neuromirror.store.dataset_move import copy_dataset, dataset_entries
from neuromirror.store.manifests import manifest_lines
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
)
from neuromirror.store.withdrawn_datasets import find_withdrawn_datasets

_HEADS: Final = (MAIN_BRANCH, PUBLISHED_BRANCH, DRAFT_BRANCH, ANNEX_BRANCH)
_ALIAS: Final = re.compile(r"[a-z0-9][A-Za-z0-9._%+-]{0,250}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_MANIFEST: Final = 1 << 36


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """Settings of a join.

    Attributes
    ----------
    url
        The URL of the other mirror: of its catalogue, or of a web server with its store.
    sample
        Number of files of each dataset that are compared with the archive; 0 for none.
    seed
        Seed of the random sample; None for another sample in each run.
    """

    url: str
    sample: int = 20
    seed: int | None = None


def join(
    mirror: Mirror,
    names: Sequence[str],
    recorder: JournalRecorder,
    store: Store,
    settings: JoinSettings,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """Copy datasets from another mirror into a store.

    The status of a dataset is ``notneeded`` if the store has it already. A failure of one does not
    prevent the others. Repeat an interrupted run: finished datasets are skipped.

    Parameters
    ----------
    mirror
        The mirror file of this store; the other mirror must use the same name and archive.
    names
        Names of datasets (``dandi:000027``); empty for all of the mirror.
    recorder, store
        The store, which must be public, and its recorder.
    settings
        Where to copy from.
    progress
        Called with the name of each dataset before it is copied.

    Yields
    ------
    Result
        The result for each dataset.

    Raises
    ------
    ConfigurationError
        The URL is not one of a web server.
    JoinError
        The other mirror cannot be read, or has no such mirror.
    """
    url = settings.url.rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigurationError(
            f"--from {settings.url}: not the URL of a mirror; write https://mirror.example.org"
        )
    source = mirror.open()
    with Session(allow_private=True) as session:
        other = _OtherMirror(url, session)
        aliases = [alias_of(name) for name in names]
        if not aliases:
            with store.scratch() as scratch:
                aliases = other.dataset_aliases(mirror.name, scratch)
        for alias in aliases:
            name = alias.replace("--", ":", 1).replace("--", "/")
            progress(name)
            try:
                yield _join_dataset(alias, name, mirror, source, other, recorder, store, settings)
            except (NeuromirrorError, OSError, ValueError) as error:
                # a ValueError: a path in a description that no mirror writes
                yield Result(name, "error", redact(str(error)))


def _join_dataset(
    alias: str,
    name: str,
    mirror: Mirror,
    source: Source,
    other: _OtherMirror,
    recorder: JournalRecorder,
    store: Store,
    settings: JoinSettings,
) -> Result:
    if recorder.ask(lambda index: _has_versions(index, name)):
        return Result(name, "notneeded", "the store has it; update it with 'neuromirror sync'")
    with store.scratch() as folder:
        scratch = Store.open(folder / "store", create=True)
        copies = _Copies(other, mirror, source, scratch, folder)
        entries = copies.copy(alias)
        with open_recorder(scratch, scratch.index_path) as scratch_recorder:
            scratch_recorder.record(*entries)
        check_ids(scratch)
        checked = lost = 0
        if settings.sample:
            with Index.open_readonly(scratch.index_path) as index:
                hosts = archive_hosts(source, dataset_ref_of(entries[-1]), index, folder)
            checked, lost = check_sample(
                scratch, name, store, hosts, settings.sample, settings.seed
            )
        datasets = dict.fromkeys(dataset_ref_of(one) for one in entries)
        _check_targets(store, datasets)
        for dataset in datasets:
            with store.lock(dataset.dataset_id, dataset.name, 60):
                known = _known_commits(store, dataset)
                copied = copy_dataset(scratch, store, dataset)
                recorder.append(
                    *(
                        one
                        for one in copied
                        if not (isinstance(one, VersionMinted) and one.commit in known)
                    )
                )
        recorder.catch_up()
    labels = tuple(one.label for one in entries if one.local_id == entries[-1].local_id)
    message = f"{len(labels)} versions copied"
    if settings.sample:
        message += f"; {checked} files compared with the archive"
    if lost:
        message += f"; the archive no longer has {lost} others"
    return Result(name, "ok", message, versions=labels)


def _has_versions(index: Index, name: str) -> bool:
    """Return whether a version is recorded; raises DatasetWithdrawnError."""
    try:
        index.resolve(name)
    except DatasetWithdrawnError:
        raise
    except (UnknownDatasetError, UnknownMirrorError, UnknownVersionError):
        return False
    return True


def _known_commits(store: Store, dataset: DatasetRef) -> set[str]:
    """Return the commits of a dataset in the journal: subdatasets may belong to several others."""
    return {one.commit for one in dataset_entries(store, dataset) if isinstance(one, VersionMinted)}


def _check_targets(store: Store, datasets: Iterable[DatasetRef]) -> None:
    """Raise JoinError if a dataset was taken down here, or if another one has its name."""
    withdrawn, aliases = find_withdrawn_datasets(store), dict(store.aliases())
    for one in datasets:
        if one in withdrawn:
            raise JoinError(
                f"{one.name}: it was taken down in this store; 'neuromirror takedown --undo' "
                "reinstates it"
            )
        there = aliases.get(one.alias)
        if there is not None and there.path.resolve() != store.repository(one).path.resolve():
            raise JoinError(f"{one.name}: the store has another dataset of this name")


class _OtherMirror:
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
        options = (*FSCK_OPTIONS, *STALL_LIMIT, "-c", "fetch.unpackLimit=1")
        done = try_git(
            git_dir,
            *(*options, "-c", "core.hooksPath=/dev/null", *arguments),
            stdin=stdin,
            environment={"GIT_ALLOW_PROTOCOL": "http:https", "GIT_TERMINAL_PROMPT": "0"},
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise JoinError(f"{redact(arguments[-1])}: {redact(reason[0])}")
        return done.stdout


class _Copies:
    """Copies a dataset and its subdatasets into a scratch store."""

    def __init__(
        self, other: _OtherMirror, mirror: Mirror, source: Source, scratch: Store, folder: Path
    ) -> None:
        self._other = other
        self._mirror = mirror
        self._source = source
        self._store = scratch
        self._folder = folder
        self._ids: dict[str, str] = {}

    def copy(self, alias: str) -> list[VersionMinted]:
        """Copy a dataset; return the journal entries, with those of subdatasets first."""
        entries: list[VersionMinted] = []
        seen, waiting = {alias}, [alias]
        while waiting:
            found, parts = self._copy_one(waiting.pop(), within=alias if entries else "")
            entries[:0] = found
            waiting += [part for part in parts if part not in seen]
            seen.update(parts)
        return entries

    def _copy_one(self, alias: str, within: str) -> tuple[list[VersionMinted], set[str]]:
        git_dir = self._folder / "fetched"
        refs = self._other.fetch(alias, git_dir)
        if PUBLISHED_BRANCH not in refs and MAIN_BRANCH not in refs:
            raise JoinError(f"{alias}: it has no branch with versions")
        dataset = self._check_identity(alias, git_dir, refs, within)
        repository = self._store.repository(dataset)
        repository.create()
        # over plain HTTP, git stores single objects outside of packs
        if any((git_dir / "objects").glob("[0-9a-f][0-9a-f]")):
            run_git(git_dir, "repack", "-q", "-a", "-d")
        packs = repository.path / "objects" / "pack"
        for path in (git_dir / "objects" / "pack").iterdir():
            path.rename(packs / path.name)
        repository.publish({}, refs)
        self._store.alias(dataset)
        shutil.rmtree(git_dir)
        entries = list(read_versions_from_git(repository, set(), current_timestamp()))
        check_annex_settings(repository.path)
        parts: set[str] = set()
        for entry in entries:
            if dataset_ref_of(entry) != dataset:
                raise JoinError(
                    f"{alias}: the version {entry.label} belongs to {entry.mirror}:"
                    f"{entry.local_id} of {entry.source_uri}"
                )
            subdatasets = check_version(repository.path, dataset, entry.commit)
            self._complete(dataset, entry)
            for local_id, dataset_id in subdatasets:
                part = alias_of(f"{dataset.mirror}:{local_id}")
                if self._ids.setdefault(part, dataset_id) != dataset_id:
                    raise JoinError(f"{alias}: {part} has two dataset ids in its versions")
                parts.add(part)
        return entries, parts

    def _complete(self, dataset: DatasetRef, entry: VersionMinted) -> None:
        manifest = self._other.fetch_manifest(entry.state, self._folder)
        if manifest is None:
            raise JoinError(f"{dataset.name}: the other mirror lacks the manifest {entry.state}")
        self._store.add_manifest(entry.state, manifest)
        restore_records(self._store, dataset, entry)

    def _check_identity(
        self, alias: str, git_dir: Path, refs: dict[str, str], within: str
    ) -> DatasetRef:
        """Return the dataset of a repository; its id and archive must be those of the mirror."""
        from neuromirror.store import Repository

        first = next(read_versions_from_git(Repository(git_dir), set(), ""), None)
        if first is None or ANNEX_BRANCH not in refs:
            raise JoinError(f"{alias}: not a dataset of a mirror")
        dataset = dataset_ref_of(first)
        expected = None if within else self._source.dataset(dataset.local_id)
        uris = urlsplit(dataset.source_uri), urlsplit(self._source_uri(within or alias))
        if dataset.mirror != self._mirror.name or dataset.alias != alias:
            raise JoinError(f"{alias}: it calls itself {dataset.name}")
        if expected is not None and expected != dataset:
            raise JoinError(
                f"{alias}: it was made from {dataset.source_uri}; your mirror file "
                f"{self._mirror.name}.toml stands for {expected.source_uri}"
            )
        if within and dataset.dataset_id != self._ids[alias]:
            raise JoinError(f"{alias}: {within} has another dataset of this name as a subdataset")
        if within and not first.within:
            raise JoinError(f"{alias}: it is not a subdataset, but {within} has it as one")
        if uris[0][:2] != uris[1][:2]:
            raise JoinError(f"{alias}: {dataset.source_uri} is not of the archive of {within}")
        return dataset

    def _source_uri(self, alias: str) -> str:
        return self._source.dataset(self._local_id(alias)).source_uri

    @staticmethod
    def _local_id(alias: str) -> str:
        return alias.partition("--")[2].replace("--", "/")


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
