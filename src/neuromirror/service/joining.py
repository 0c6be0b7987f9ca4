"""Start a mirror from another mirror over HTTP, instead of from the archive.

A dataset is first copied to a scratch store: its git history by git, and its canonical manifests.
There, everything is recomputed that can be: git's object ids, the state digest of each version from
its manifest and its records, and the dataset ids from the source URIs. A sample of its files is
compared with the archive. Only then it is moved into the store. The journal of the other mirror,
with its holds and failures, is not public; the versions are read back from git.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl import JournalRecorder, Result, open_recorder
from neuromirror.crawl.index_rebuild import restore_records
from neuromirror.git import run_git
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
from neuromirror.net import Session, only_host_of, redact
from neuromirror.service.join_checks import (
    JoinError,
    archive_hosts,
    check_annex_settings,
    check_ids,
    check_sample,
    check_version,
)
from neuromirror.service.other_mirror import OtherMirror
from neuromirror.sources import Source
from neuromirror.store import Store, dataset_ref_of, read_versions_from_git
from neuromirror.store.dataset_move import copy_dataset, dataset_entries
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
)
from neuromirror.store.withdrawn_datasets import find_withdrawn_datasets


class JoinSettings(Struct, frozen=True):
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
    with Session(is_private_allowed=only_host_of(url)) as session:
        other = OtherMirror(url, session)
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
    other: OtherMirror,
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


class _Copies:
    """Copies a dataset and its subdatasets into a scratch store."""

    def __init__(
        self, other: OtherMirror, mirror: Mirror, source: Source, scratch: Store, folder: Path
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
