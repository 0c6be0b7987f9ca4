"""Push the repositories of datasets to a sibling.

The refs of a repository are pushed in one atomic step, by commit id, so that a sync may run at the
same time. What was pushed is recorded in the store, so that an unchanged dataset needs no request.
Only refs that neuromirror wrote are changed or deleted at the sibling, and no ref is forced.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import subprocess
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from neuromirror.config.sibling_files import Sibling
from neuromirror.crawl.recorder import PUBLISH, FailureLog
from neuromirror.git import start_git, try_git
from neuromirror.index import DatasetRow, Index, Tombstone
from neuromirror.model import ConfigurationError, alias_of
from neuromirror.net import redact
from neuromirror.publish.targets import RepositoryText, SiblingError, SiblingHost, Target
from neuromirror.store import CUSTODY_BRANCH, Repository, Store
from neuromirror.store.durable_files import write_atomically
from neuromirror.store.private_store import require_public_store
from neuromirror.transfer.outcomes import Outcome

_MEGABYTE: Final = 1_000_000
_OWN_HEADS: Final = ("main", "published", "draft", "git-annex")
_LONGEST_DESCRIPTION: Final = 350
"""Characters; GitHub's limit."""


class PublishOutcome(Outcome, frozen=True):
    """The outcome of publishing one dataset or superdataset.

    Attributes
    ----------
    target
        URL of the repository at the sibling.
    page
        Its web page; None without one.
    refs
        Number of refs that were moved.
    created
        Whether the repository was created.
    """

    target: str | None = None
    page: str | None = None
    refs: int | None = None
    created: bool | None = None


class _Item(Struct, frozen=True):
    """A repository to publish: its alias, and its dataset unless it is a superdataset."""

    alias: str
    row: DatasetRow | None

    @property
    def name(self) -> str:
        return self.row.name if self.row is not None else self.alias


def sibling_datasets(index: Index, patterns: Sequence[str]) -> list[str]:
    """Return the datasets that match one of the patterns of a sibling file.

    Parameters
    ----------
    index
        The index.
    patterns
        Shell patterns of dataset names (``dandi:*``).

    Returns
    -------
    list of str
        Names, sorted; without subdatasets, which are published with their superdatasets.
    """
    return [
        row.name
        for row in index.datasets.select()
        if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)
    ]


def publish(
    store: Store,
    index: Index,
    names: Iterable[str],
    sibling: Sibling,
    *,
    check: bool = False,
    dry_run: bool = False,
) -> Generator[PublishOutcome, None, None]:
    """Push datasets with their subdatasets, and superdatasets, to a sibling.

    The status of a dataset is ``notneeded`` if the sibling has its refs, ``ok`` if it was pushed,
    ``error`` if it could not be, and ``impossible`` if it was withdrawn and the sibling still has
    it. A failure that concerns the sibling as a whole, such as a refused token, ends the run.

    Parameters
    ----------
    store
        The public store.
    index
        Its index.
    names
        Datasets (``dandi:000027``), or mirrors for all their datasets and their superdataset.
    sibling
        Where to publish.
    check
        Whether to push unchanged datasets too, in case that the sibling lost them.
    dry_run
        Whether to change nothing.

    Yields
    ------
    PublishOutcome
        The result for each dataset.

    Raises
    ------
    UnexpectedPrivateStoreError
        The store is private; nothing is pushed.
    UnknownDatasetError, UnknownMirrorError
        The store has no such dataset or mirror.
    """
    require_public_store(store.root, "private data is never published")
    items = _plan(index, names, {alias for alias, _ in store.repositories.aliases()})
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(
                store.lock(f"publish-{sibling.name}", f"publishing to {sibling.name}")
            )
        state = _PublishState(store.task_state_path(f"publish-{sibling.name}"))
        yield from _withdrawn(index.datasets.tombstones(), state, sibling)
        publisher = _Publisher(store, sibling, state)
        for item in items:
            try:
                yield publisher.publish(item, check=check, dry_run=dry_run)
            except SiblingError as error:
                yield _outcome(item, "error", str(error))
                if error.is_general:
                    return


def forget(store: Store, sibling: Sibling, name: str) -> bool:
    """Forget that a dataset was published, after it was deleted at the sibling.

    Parameters
    ----------
    store
        The store.
    sibling
        The sibling.
    name
        The dataset.

    Returns
    -------
    bool
        Whether the dataset had been published there.
    """
    with store.lock(f"publish-{sibling.name}", f"publishing to {sibling.name}"):
        state = _PublishState(store.task_state_path(f"publish-{sibling.name}"))
        return state.forget(alias_of(name))


def record_outcome(log: FailureLog, sibling: Sibling, outcome: PublishOutcome) -> None:
    """Record the failure of a dataset at a sibling, or that it is over.

    Parameters
    ----------
    log
        The store's log of failed tasks.
    sibling
        The sibling.
    outcome
        The outcome.
    """
    if outcome.failed:
        log.record_failure(f"{PUBLISH} {sibling.name}", outcome.message, outcome.path)
    else:
        log.record_success(f"{PUBLISH} {sibling.name}", outcome.path)


class _PublishState:
    """The repositories of a sibling by alias: URL, page, refs, and a digest of its description."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.repositories: dict[str, dict[str, Any]] = {}
        try:
            self.repositories = json.loads(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path}, the record of published datasets, cannot be read: {error}; restore it, "
                "or remove it to compare all datasets with the sibling"
            ) from error

    def record(self, alias: str, **values: Any) -> None:
        self.repositories[alias] = self.repositories.get(alias, {}) | values
        self._write()

    def forget(self, alias: str) -> bool:
        found = self.repositories.pop(alias, None) is not None
        self._write()
        return found

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(self.repositories, sort_keys=True).encode())


def _plan(index: Index, names: Iterable[str], aliases: set[str]) -> list[_Item]:
    """Return what to publish: superdatasets last, because they refer to the others."""
    rows: dict[str, DatasetRow] = {}
    superdatasets = []
    for name in dict.fromkeys(names):
        if ":" in name:
            row = index.datasets.get(name)
            found = [row, *_subdatasets(index, row)]
        else:
            found = list(index.datasets.select(name, subdatasets=True))
            if alias_of(name) in aliases:
                superdatasets.append(_Item(alias_of(name), None))
        rows |= {row.name: row for row in found}
    items = [_Item(alias_of(name), row) for name, row in sorted(rows.items())]
    return [item for item in items if item.alias in aliases] + superdatasets


def _subdatasets(index: Index, dataset: DatasetRow) -> Iterator[DatasetRow]:
    for row in index.datasets.select(dataset.mirror, subdatasets=True):
        if row.within == dataset.local_id:
            yield row


def _withdrawn(
    tombstones: Sequence[Tombstone], state: _PublishState, sibling: Sibling
) -> Iterator[PublishOutcome]:
    for tombstone in tombstones:
        known = state.repositories.get(alias_of(tombstone.dataset))
        if known:
            yield PublishOutcome(
                *("publish", "impossible", tombstone.dataset),
                f"withdrawn from this store, but still at {known['url']}; delete it there, then "
                f"run 'neuromirror publish --to {sibling.name} --forget {tombstone.dataset}'",
                dataset=tombstone.dataset,
                target=known["url"],
            )


class _Publisher:
    """Pushes repositories of one store to one sibling."""

    def __init__(self, store: Store, sibling: Sibling, state: _PublishState) -> None:
        self._store = store
        self._sibling = sibling
        self._state = state
        self._host = SiblingHost(sibling)
        settings = sibling.settings
        location = (settings.type, settings.api, settings.site, settings.owner, settings.access)
        self._where = hashlib.sha256(
            repr((*location, settings.url, settings.repository)).encode()
        ).hexdigest()[:16]
        self._repositories = dict(store.repositories.aliases())

    def publish(self, item: _Item, *, check: bool, dry_run: bool) -> PublishOutcome:
        repository = self._repositories[item.alias]
        refs = _own_refs(repository, with_vaults=self._sibling.settings.vaults)
        if not refs:
            return _outcome(item, "notneeded", "it has no versions")
        text = self._text(item, refs)
        known = self._state.repositories.get(item.alias, {})
        if known.get("at") != self._where:
            known = {}
        described = hashlib.sha256(repr(text).encode()).hexdigest()
        is_pushed = known.get("refs") == refs and not check
        if is_pushed and known.get("described") == described:
            return _outcome(item, "notneeded", "unchanged", known)
        moved = _changed_refs(known.get("refs", {}), refs)
        if dry_run:
            return _outcome(item, "ok", f"would push {len(moved)} refs", known, len(moved))
        if not is_pushed:
            _refuse_large_files(repository, self._sibling)
        target = (
            Target(known["url"], known["page"])
            if known and not check
            else self._host.ensure_repository(repository.path, text)
        )
        if not known:
            self._state.forget(item.alias)
        self._state.record(item.alias, url=target.url, page=target.page, at=self._where)
        if not is_pushed:
            self._push(repository, target.url, refs, known.get("refs", {}))
            self._state.record(item.alias, refs=refs)
        if known.get("described") != described:
            self._host.describe(text)
            self._state.record(item.alias, described=described)
        found = self._state.repositories[item.alias]
        message = f"{len(moved)} refs pushed" if not is_pushed else "description changed"
        return _outcome(item, "ok", message, found, len(moved), created=target.created)

    def _text(self, item: _Item, refs: Mapping[str, str]) -> RepositoryText:
        settings = self._sibling.settings
        title = item.row.title if item.row else f"Superdataset of the mirror {item.alias}"
        mirror, _, local_id = item.name.partition(":")
        fields = {
            "name": item.name,
            "alias": item.alias,
            "mirror": mirror,
            "id": local_id or item.alias,
            "title": " ".join(title.split()) or item.name,
        }
        template = settings.url if settings.type == "git" else settings.repository
        branch = "published" if "refs/heads/published" in refs else "main"
        return RepositoryText(
            template.format_map(fields),
            settings.description.format_map(fields)[:_LONGEST_DESCRIPTION],
            settings.homepage.format_map(fields),
            tuple(settings.topics),
            branch,
        )

    def _push(
        self, repository: Repository, url: str, refs: Mapping[str, str], pushed: Mapping[str, str]
    ) -> None:
        options, variables = self._host.push_configuration(url)
        specs = [f"{commit}:{name}" for name, commit in refs.items()]
        gone = {name: commit for name, commit in pushed.items() if name not in refs}
        if gone:
            there = self._list_refs(repository, url, options, variables)
            gone = {name: commit for name, commit in gone.items() if name in there}
            specs += [f":{name}" for name in gone]
        # a ref is deleted only where it is as it was pushed
        leases = [f"--force-with-lease={name}:{commit}" for name, commit in gone.items()]
        command = ["push", "--porcelain", "--atomic", "--no-verify", *leases, "--", url, *specs]
        done = self._run_git(repository, [*options, *command], variables)
        if done.returncode:
            raise _push_error(url, done.stdout, done.stderr)

    def _list_refs(
        self, repository: Repository, url: str, options: list[str], variables: dict[str, str]
    ) -> set[str]:
        done = self._run_git(repository, [*options, "ls-remote", "-q", "--", url], variables)
        if done.returncode:
            raise _push_error(url, "", done.stderr)
        return {line.partition("\t")[2] for line in done.stdout.splitlines()}

    def _run_git(
        self, repository: Repository, arguments: list[str], variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        variables = {"GIT_TERMINAL_PROMPT": "0"} | variables
        return try_git(repository.path, *arguments, environment=variables, credentials=True)


def _own_refs(repository: Repository, *, with_vaults: bool) -> dict[str, str]:
    """Return the refs that neuromirror writes, sorted."""
    heads = {f"refs/heads/{name}" for name in _OWN_HEADS}
    if with_vaults:
        heads.add(CUSTODY_BRANCH)
    return {
        name: commit
        for name, commit in sorted(repository.refs().items())
        if name in heads or name.startswith("refs/tags/")
    }


def _changed_refs(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _refuse_large_files(repository: Repository, sibling: Sibling) -> None:
    """Raise SiblingError if git has a file above the sibling's limit."""
    limit = sibling.settings.max_file_megabytes
    form = "--batch-check=%(objecttype) %(objectsize) %(objectname)"
    with start_git(repository.path, "cat-file", "--batch-all-objects", "--unordered", form) as git:
        assert git.stdout is not None
        for line in git.stdout:
            kind, size, name = line.split()
            if kind == b"blob" and int(size) > limit * _MEGABYTE:
                raise SiblingError(
                    f"a file in git has {int(size) / _MEGABYTE:.0f} MB (object {name.decode()}); "
                    f"sibling {sibling.name} accepts {limit:g} MB: nothing was pushed"
                )


def _push_error(url: str, output: str, stderr: str) -> SiblingError:
    where = redact(url)
    rejected = [line.split("\t") for line in output.splitlines() if line.startswith("!")]
    if any("fetch first" in line[-1] or "non-fast-forward" in line[-1] for line in rejected):
        return SiblingError(
            f"{where}: it has commits that this store does not have, so nothing was pushed; "
            "publish to another repository, or delete it there if nothing else writes to it"
        )
    reasons = sorted({line[-1] for line in rejected if len(line) > 1})
    last = [line for line in stderr.strip().splitlines() if line.strip()]
    reason = redact("; ".join(reasons or last[-3:]))
    is_general = any(
        text in stderr
        for text in (
            *("Could not resolve host", "Authentication failed", "could not read Username"),
            *("Connection refused", "error: 401", "error: 403", "Permission denied"),
        )
    )
    return SiblingError(f"{where}: the push failed: {reason}", is_general=is_general)


def _outcome(
    item: _Item,
    status: Any,
    message: str,
    known: Mapping[str, Any] | None = None,
    refs: int | None = None,
    *,
    created: bool | None = None,
) -> PublishOutcome:
    known = known or {}
    return PublishOutcome(
        *("publish", status, item.name, message),
        dataset=item.name,
        target=known.get("url"),
        page=known.get("page") or None,
        refs=refs,
        created=created,
    )
