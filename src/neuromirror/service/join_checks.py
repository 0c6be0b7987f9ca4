"""Check the datasets of another mirror before they are added to the store.

The other mirror is not trusted. A clone of this mirror configures itself from files of the dataset
and of its git-annex branch, so these must be exactly those that neuromirror writes. State digests
and records are recomputed, and a sample of the files is compared with the archive.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.annex import WEB_UUID
from neuromirror.annex.initialization import is_own_remote
from neuromirror.crawl.visit.visit_context import StoreVisitContext, create_workspace
from neuromirror.git import (
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    ObjectReader,
    list_tree,
)
from neuromirror.index import Index
from neuromirror.lab.digest import files_of_version
from neuromirror.lab.minted_commit import MintedCommit
from neuromirror.lab.verify.verification import open_url_sessions
from neuromirror.mint import OWN_NAMES, REMOTE_LOG, configuration_files
from neuromirror.mint.annex_branch import TRUST_LOG, UUID_LOG
from neuromirror.model import (
    DESCRIPTION_PATH,
    DatasetRef,
    FileRecord,
    NeuromirrorError,
    path_to_text,
    text_to_path,
)
from neuromirror.service.integrity import check_integrity
from neuromirror.sources import ComponentEntry, ListingEntry, Source
from neuromirror.store import Store
from neuromirror.store.repository import ANNEX_BRANCH
from neuromirror.transfer.findings import Health
from neuromirror.transfer.url_checks import check_urls
from neuromirror.transfer.verify_items import PinnedFile

_MAX_NAMED: Final = 3
_PROBES: Final = 8
"""Number of files that are compared with the archive at the same time."""
_LISTED: Final = 8
"""Number of files in the archive's listing whose hosts are read."""
_KEY_LOG: Final = re.compile(rb"[0-9a-f]{3}/[0-9a-f]{3}/[^/]+\.log(\.web)?", re.DOTALL)


class JoinError(NeuromirrorError):
    """A dataset of the other mirror cannot be used; nothing of it was added to the store."""


def check_version(git_dir: Path, dataset: DatasetRef, commit: str) -> list[tuple[str, str]]:
    """Check that a version consists of files that neuromirror writes.

    These are links to annex objects, the documents that the description names, and the files that
    configure git, git-annex and DataLad, whose content is known.

    Parameters
    ----------
    git_dir
        The repository.
    dataset
        The dataset.
    commit
        The version's commit in hex.

    Returns
    -------
    list of (str, str)
        The local id and the dataset id of each subdataset.

    Raises
    ------
    JoinError
        A file is missing, differs, or is not one that neuromirror writes.
    CommitUnreadableError
        The commit was not minted.
    """
    minted = MintedCommit(git_dir, commit)
    for _ in minted.entries():  # links and subdatasets are validated
        pass
    parts = minted.description.get("parts", {})
    expected = configuration_files(
        dataset.dataset_id, {path: part["id"] for path, part in parts.items()}
    )
    documents = {text_to_path(one) for one in minted.description["documents"]}
    missing = set(expected)
    with ObjectReader(git_dir) as reader, closing(list_tree(git_dir, commit)) as entries:
        for mode, sha, path in entries:
            if mode in (SYMLINK_MODE, GITLINK_MODE) or path == DESCRIPTION_PATH.encode():
                continue
            is_own = path.partition(b"/")[0] in OWN_NAMES
            if mode == REGULAR_FILE_MODE and (
                expected.get(path) == reader.read(sha) if is_own else path in documents
            ):
                missing.discard(path)
                continue
            raise JoinError(
                f"{dataset.name}, commit {commit}: {path_to_text(path)} is not a file that "
                "neuromirror writes"
            )
    if missing:
        raise JoinError(f"{dataset.name}, commit {commit}: {path_to_text(min(missing))} is missing")
    return [(part["local-id"], part["id"]) for part in parts.values()]


def check_annex_settings(git_dir: Path) -> None:
    """Check that a git-annex branch has no settings but those of a mirror.

    Clones enable the special remotes in ``remote.log``, and trust what ``trust.log`` names.

    Parameters
    ----------
    git_dir
        The repository.

    Raises
    ------
    JoinError
        The branch has other files, remotes or settings.
    """
    with ObjectReader(git_dir) as reader:
        logs: dict[str, list[bytes]] = {}
        for mode, sha, path in list_tree(git_dir, ANNEX_BRANCH):
            name = path.decode(errors="replace")
            if mode != REGULAR_FILE_MODE:
                raise JoinError(f"{ANNEX_BRANCH}: {name} is not a regular file")
            if b"/" not in path:
                logs[name] = reader.read(sha).splitlines()
            elif not _KEY_LOG.fullmatch(path):
                raise JoinError(f"{ANNEX_BRANCH}: {name} is not a file that neuromirror writes")
    remotes = logs.pop(REMOTE_LOG, [])
    uuids = {WEB_UUID.encode(), *(line.partition(b" ")[0] for line in remotes)}
    names, trust = (
        [line.split(b" ") for line in logs.pop(log, [])] for log in (UUID_LOG, TRUST_LOG)
    )
    if logs:
        raise JoinError(f"{ANNEX_BRANCH}: {min(logs)} is not a file that neuromirror writes")
    if not all(map(is_own_remote, remotes)):
        raise JoinError(
            f"{ANNEX_BRANCH}: {REMOTE_LOG} has a remote that neuromirror does not write"
        )
    if any(line[0] not in uuids for line in names + trust):
        raise JoinError(f"{ANNEX_BRANCH}: {UUID_LOG} or {TRUST_LOG} names an unknown remote")
    if any(line[1:2] != [b"0"] for line in trust):
        raise JoinError(f"{ANNEX_BRANCH}: {TRUST_LOG} trusts a remote")


def check_ids(scratch: Store) -> None:
    """Recompute the ids and digests of a store.

    Parameters
    ----------
    scratch
        The store with the copied datasets.

    Raises
    ------
    JoinError
        One of them differs.
    """
    problems = [
        f"{one.name}: {one.message}"
        for one in check_integrity(
            scratch, scratch.index_path, {name for name, _ in scratch.aliases()}
        )
        if one.status != "ok"
    ]
    if problems:
        more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        raise JoinError(f"{'; '.join(problems[:_MAX_NAMED])}{more}")


def archive_hosts(source: Source, dataset: DatasetRef, index: Index, folder: Path) -> set[str]:
    """Return the hosts from which the archive serves files of a dataset.

    They are those of the first files in the archive's listing of the newest version.

    Parameters
    ----------
    source, dataset
        The archive, and its dataset.
    index, folder
        An index, and an existing folder for temporary files.

    Returns
    -------
    set of str
        Hosts with ports; empty if the archive lists no files.

    Raises
    ------
    NeuromirrorError
        The archive cannot be read.
    """
    hosts: set[str] = set()
    for version in source.versions(dataset)[-1:]:
        context = StoreVisitContext(index, partial(create_workspace, folder / "listing"))
        for entry in islice(source.listing(version, context).entries(), _LISTED):
            records: Iterable[ListingEntry] = (entry,)
            if isinstance(entry, ComponentEntry):
                part = StoreVisitContext(index, partial(create_workspace, folder / "component"))
                records = islice(entry.listing(part).entries(), 1)
            for record in records:
                if isinstance(record, FileRecord):
                    hosts.update(urlsplit(one.url).netloc for one in record.locations)
    return hosts


def check_sample(
    scratch: Store,
    name: str,
    store: Store,
    hosts: Collection[str],
    size: int,
    seed: int | None,
) -> tuple[int, int]:
    """Compare a random sample of the files of a dataset with the archive.

    Parameters
    ----------
    scratch, name
        The scratch store with the copied dataset, and the name of the dataset.
    store
        The store of this mirror.
    hosts
        The hosts of the archive's files. A file at another host cannot show what the archive has.
    size
        Number of files.
    seed
        Seed of the random sample; None for another sample in each run.

    Returns
    -------
    tuple of (int, int)
        The number of files that were compared, and of those that the archive no longer has.

    Raises
    ------
    JoinError
        A file differs or is at another host, or none could be compared.
    """
    chosen = random.Random(seed)
    sample: list[PinnedFile] = []
    with Index.open_readonly(scratch.index_path) as index:
        files = files_of_version(scratch, index, index.resolve(name), ())
        count = 0
        for _, _, item in files:
            if isinstance(item, PinnedFile) and item.urls:
                # reservoir sampling: one pass over files of any number
                count += 1
                if len(sample) < size:
                    sample.append(item)
                elif (position := chosen.randrange(count)) < size:
                    sample[position] = item
    for one in sample:
        if urlsplit(one.urls[0]).netloc not in hosts:
            raise JoinError(
                f"{path_to_text(one.path)}: the other mirror names {one.urls[0]}, but the archive "
                f"serves its files from {', '.join(sorted(hosts)) or 'no host'}; nothing was "
                "added. If you trust the mirror, use --sample 0"
            )
    checked = lost = 0
    problem = ""
    with open_url_sessions(store.root, None) as sessions:
        for finding in check_urls(
            (one._replace(urls=one.urls[:1]) for one in sample), sessions, jobs=_PROBES, full=False
        ):
            if finding.health is Health.CHANGED:
                raise JoinError(
                    f"{finding.path}: the archive has other content: {finding.message}; nothing "
                    "was added"
                )
            checked += finding.health is Health.OK
            lost += finding.health is Health.NOT_FOUND
            problem = problem if finding.health is Health.OK else finding.message
    if sample and not checked + lost:
        raise JoinError(
            f"no file could be compared with the archive ({problem}); try later, or use --sample 0"
        )
    return checked, lost
