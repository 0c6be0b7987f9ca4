"""Find refs and commits in a repository that neuromirror did not write.

A commit is our own if neuromirror is its author and committer, it has at most one parent, and the
same holds for all its ancestors. Pushes by people or by git-annex add foreign commits. The journal
gives the expected position of each ref; an own commit that the journal lacks was published by a
visit that was killed before it wrote its entry.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from neuromirror.git import ObjectMissingError, ObjectReader, create_bundle, parse_commit, try_git
from neuromirror.model import (
    AnnexBranchMoved,
    NeuromirrorError,
    Version,
    VersionKind,
    VersionMinted,
    count_of,
)
from neuromirror.store.durable_files import (
    CONFIG,
    fsync_path,
    fsync_tree,
    is_protected,
    make_folder,
    protect,
    write_atomically,
)
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.repack import missing_packs
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    run_git,
    update_refs,
)
from neuromirror.store.store import Store

_BRANCHES = frozenset((MAIN_BRANCH, PUBLISHED_BRANCH, DRAFT_BRANCH, ANNEX_BRANCH, CUSTODY_BRANCH))
_DERIVED_BRANCHES = frozenset((DRAFT_BRANCH, CUSTODY_BRANCH))
"""Branches that may be missing: they are written again from other data."""
_OWN_IDENTITY = re.compile(r"neuromirror <[^>]*@neuromirror\.invalid>")
_ANNEX_SECTION = re.compile(r"^\s*\[\s*(?:annex|remote)\b", re.MULTILINE)
_ID = re.compile(r"[0-9a-f]{40}")
_FORMAT = "%H%x09%P%x09%an <%ae>%x09%cn <%ce>%x09%s"


class ForeignCommitsError(NeuromirrorError):
    """A repository of the store has refs or commits that neuromirror did not write."""


class RepositoryIncompleteError(StoreDamagedError):
    """A repository lacks what the journal lists: it was lost, or restored from an older copy.

    ``missing`` names what it lacks.
    """

    def __init__(self, dataset: str, repository: Path, missing: str) -> None:
        super().__init__(
            f"{dataset}: {missing} in {repository}, which was damaged, deleted or restored from "
            f"an older copy. Nothing was recorded; run 'neuromirror repair {dataset}', which mints "
            "lost commits again from the records"
        )


def check_packs(repository: Repository, dataset: str) -> None:
    """Raise RepositoryIncompleteError unless a repository exists, with all packs that it lists."""
    if not repository.exists():
        raise RepositoryIncompleteError(dataset, repository.path, "the repository is missing")
    for name in missing_packs(repository.path):
        raise RepositoryIncompleteError(dataset, repository.path, f"the pack {name} is missing")


def check_commits(repository: Repository, dataset: str, refs: Mapping[str, str]) -> None:
    """Raise RepositoryIncompleteError unless the commits at branches, and their trees, exist."""
    with ObjectReader(repository.path) as reader:
        for name in sorted(_BRANCHES & refs.keys()):
            try:
                reader.read_tree(reader.read_commit_tree(refs[name]))
            except (ObjectMissingError, ValueError) as error:
                missing = f"the commit {refs[name]} of {name} is missing or damaged"
                raise RepositoryIncompleteError(dataset, repository.path, missing) from error


class OwnCommit(Struct, frozen=True):
    """A commit that neuromirror wrote.

    Attributes
    ----------
    number
        The position of the commit in its branch, from 1.
    parent
        The id of the parent commit; None without one.
    subject
        The first line of the message.
    """

    number: int
    parent: str | None
    subject: str


class CommitHistory(Struct, frozen=True):
    """The commits in a repository, divided by whether neuromirror wrote them.

    Attributes
    ----------
    own_commits
        The commits that neuromirror wrote, by id in hex.
    foreign_commits
        The ids of all others.
    """

    own_commits: dict[str, OwnCommit]
    foreign_commits: set[str]

    def newest_own_commit(self, repository: Path, tip: str, after: str | None = None) -> str | None:
        """Return the newest commit by neuromirror in the history from ``after`` to ``tip``."""
        below = [
            one for one in run_git(repository, "rev-list", tip).split() if one in self.own_commits
        ]
        follow = [one for one in below if after is None or self.descends_from(one, after)]
        return max(follow, key=lambda one: self.own_commits[one].number, default=None)

    def descends_from(self, commit: str, ancestor: str) -> bool:
        """Return whether a commit by neuromirror is ``ancestor`` or one of its descendants."""
        at: str | None = commit
        while at is not None and at != ancestor:
            at = self.own_commits[at].parent
        return at is not None


class ForeignRef(Struct, frozen=True):
    """A ref that is not where neuromirror put it.

    ``found`` is its object id in hex, None for a missing ref; ``expected`` is the id that it must
    have, None for a ref that must not exist. ``is_foreign`` is whether another program wrote the
    commit, and not only moved the ref.
    """

    name: str
    found: str | None
    expected: str | None
    is_foreign: bool = False

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.name} is missing, the journal has it at {self.expected}"
        if self.found == self.expected:
            return f"{self.name} is at {self.found}, which the repository lacks or cannot read"
        if self.is_foreign:
            return f"{self.name} is at {self.found}, which neuromirror did not write"
        if self.expected is None:
            return f"{self.name} is at {self.found}, and the journal has no such ref"
        return f"{self.name} is at {self.found}, the journal has it at {self.expected}"

    def error(self, dataset: str, repository: Path) -> NeuromirrorError:
        """Return the error with which a visit of the dataset stops."""
        if not self.is_foreign and self.expected is not None:
            return RepositoryIncompleteError(dataset, repository, str(self))
        return ForeignCommitsError(
            f"{dataset}: {self} ({repository}): another program wrote to the mirror. Nothing was "
            f"recorded; run 'neuromirror repair {dataset}', which keeps the foreign commits in "
            "quarantine and restores the refs"
        )


class JournalRefs:
    """The refs that a dataset's repository must have, according to its journal entries.

    Entries of foreign commits are ignored. So are versions whose commit of the git-annex branch is
    foreign: without that commit the branch lacks their keys.

    Parameters
    ----------
    entries
        The dataset's entries, oldest first.
    history
        The commits of the repository, by which foreign ones are recognized; the commits of ignored
        versions are added to its foreign ones. None if all commits are known to be own.
    is_subdataset
        Whether the dataset is a component of another one: then its commits have no parents.

    Attributes
    ----------
    tips
        Commit id by ref.
    labels
        Label by commit id.
    dropped_commits
        The commits of ignored versions.
    """

    def __init__(
        self,
        entries: Iterable[Version | AnnexBranchMoved],
        history: CommitHistory | None = None,
        *,
        is_subdataset: bool = False,
    ) -> None:
        self.is_subdataset = is_subdataset
        self.tips: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.dropped_commits: set[str] = set()
        foreign = set() if history is None else history.foreign_commits
        for entry in entries:
            if isinstance(entry, AnnexBranchMoved):
                if entry.annex_commit not in foreign:
                    self.tips[ANNEX_BRANCH] = entry.annex_commit
            elif {entry.commit, entry.annex_commit} & foreign:
                self.dropped_commits.add(entry.commit)
            else:
                self._add(entry)
        if history is not None:
            _mark_foreign(history, self.dropped_commits)

    def _add(self, entry: Version) -> None:
        self.tips[ANNEX_BRANCH] = entry.annex_commit
        if entry.commit in self.labels:
            return  # recorded twice: the first writer was killed right after
        self.labels[entry.commit] = entry.label
        published = entry.kind == VersionKind.PUBLISHED.value and not self.is_subdataset
        self.tips[PUBLISHED_BRANCH if published else MAIN_BRANCH] = entry.commit
        if not published and entry.upstream == "draft":
            self.tips[DRAFT_BRANCH] = entry.commit
        self.tips[TAG_PREFIX + entry.label] = entry.commit

    def matches(self, refs: Mapping[str, str]) -> bool:
        """Return whether refs equal the expected ones; the draft branch may be missing.

        The branch of copies is not in the journal: see :func:`is_own_commit`.
        """
        listed = {name: commit for name, commit in refs.items() if name != CUSTODY_BRANCH}
        return (
            listed.items() <= self.tips.items()
            and self.tips.keys() - listed.keys() <= _DERIVED_BRANCHES
        )


def read_history(repository: Repository, extra_commits: Iterable[str] = ()) -> CommitHistory:
    """Read all commits of a repository, and determine which of them neuromirror wrote.

    They are the commits that refs and ``extra_commits`` (ids in hex) reach; missing ones are left
    out. Raises StoreDamagedError if git cannot read an ancestor of one.
    """
    tips = [one for one in (*repository.refs().values(), *extra_commits) if _ID.fullmatch(one)]
    # rev-list: unlike that of git log, its output does not depend on the user's configuration
    done = try_git(
        repository.path,
        *("-c", "i18n.logOutputEncoding=UTF-8", "rev-list", "--reverse"),
        *("--topo-order", "--ignore-missing", f"--format={_FORMAT}", "--stdin"),
        stdin="".join(f"{commit}\n" for commit in tips),
    )
    if done.returncode:
        raise StoreDamagedError(
            f"git cannot walk the history of {repository.path} ({done.stderr.strip()}); run "
            "'neuromirror repair'"
        )
    history = CommitHistory({}, set())
    for line in done.stdout.split("\n"):
        if line.startswith("commit ") or not line:
            continue
        commit, parents, author, committer, subject = line.split("\t", 4)
        before = history.own_commits.get(parents)
        written = _OWN_IDENTITY.fullmatch(author) and _OWN_IDENTITY.fullmatch(committer)
        if written and (before is not None or not parents):
            number = 1 if before is None else before.number + 1
            history.own_commits[commit] = OwnCommit(number, parents or None, subject)
        else:
            history.foreign_commits.add(commit)
    return history


def is_own_commit(repository: Path, commit: str) -> bool:
    """Return whether neuromirror is author and committer of a commit.

    neuromirror adds no commit to foreign ones, so that this holds for its ancestors, too.

    Parameters
    ----------
    repository
        The bare repository.
    commit
        The commit id in hex.

    Raises
    ------
    ObjectMissingError
        The repository does not have the commit.
    """
    with ObjectReader(repository) as reader:
        content = reader.read(commit)
    try:
        parsed = parse_commit(content)
    except ValueError:
        return False
    return all(map(_OWN_IDENTITY.fullmatch, (parsed.author, parsed.committer)))


def _has_object(repository: Path, name: str) -> bool:
    with ObjectReader(repository) as reader, suppress(ObjectMissingError):
        return bool(reader.read(name))
    return False


def _mark_foreign(history: CommitHistory, commits: Iterable[str]) -> None:
    """Mark commits and their descendants as foreign."""
    history.foreign_commits.update(commits)
    # parents come before their children
    for commit, own in list(history.own_commits.items()):
        if commit in history.foreign_commits or own.parent in history.foreign_commits:
            history.foreign_commits.add(commit)
            del history.own_commits[commit]


def find_foreign_refs(
    repository: Repository, journal: JournalRefs, history: CommitHistory
) -> list[ForeignRef]:
    """Return the refs of a repository that differ from the expected ones, sorted by name.

    Parameters
    ----------
    repository
        The repository of a dataset.
    journal
        The expected refs, from the dataset's journal entries.
    history
        The repository's commits, from :func:`read_history`.
    """
    refs = repository.refs()
    found = []
    for name in sorted(refs.keys() | journal.tips.keys()):
        tip, expected = refs.get(name), journal.tips.get(name)
        if _is_own(name, tip, journal, history):
            continue
        # an annotated tag is an object of its own
        is_foreign = tip is not None and (
            tip in history.foreign_commits
            or (tip not in history.own_commits and _has_object(repository.path, tip))
        )
        if tip is not None and name in _BRANCHES and (is_foreign or tip in history.own_commits):
            expected = history.newest_own_commit(repository.path, tip, expected) or expected
        found.append(ForeignRef(name, tip, expected, is_foreign))
    return found


def _is_own(name: str, tip: str | None, journal: JournalRefs, history: CommitHistory) -> bool:
    expected = journal.tips.get(name)
    if tip is None:
        return name == CUSTODY_BRANCH
    if tip not in history.own_commits:
        return False
    if tip == expected:
        return True
    if name.startswith(TAG_PREFIX):
        # a tag of a killed visit: not recorded, but the commit message has the label
        unrecorded = expected is None and tip not in journal.labels
        return unrecorded and history.own_commits[tip].subject.endswith(
            f" {name.removeprefix(TAG_PREFIX)}"
        )
    if name not in _BRANCHES:
        return False
    if journal.is_subdataset and name != ANNEX_BRANCH:
        return True  # commits without parents have no order; the tags name what is missing
    return expected is None or history.descends_from(tip, expected)


def find_annex_files(repository: Path) -> list[str]:
    """Return the names of the files that ``git annex init`` added to a bare repository.

    They are ``annex`` and ``config``. The result is empty for a repository as neuromirror writes
    it.
    """
    found = ["annex"] if (repository / "annex").exists() else []
    try:
        config = (repository / "config").read_text(errors="replace")
    except FileNotFoundError:
        return found
    return [*found, *(["config"] if _ANNEX_SECTION.search(config) else [])]


class RepositoryDamage(Struct, frozen=True):
    """The changes that other programs made to a repository.

    Attributes
    ----------
    refs
        Refs that differ from the expected ones.
    versions
        Journal entries of versions whose commits neuromirror did not write.
    annex_files
        Files of a git-annex that was initialized in the repository.
    is_protected
        Whether hooks and settings that reject pushes are in place.
    history
        The repository's commits.
    lost_commits
        The commits that the journal lists and the repository lacks.
    """

    refs: list[ForeignRef]
    versions: list[VersionMinted]
    annex_files: list[str]
    is_protected: bool
    history: CommitHistory
    lost_commits: list[str]

    def __bool__(self) -> bool:
        return bool(
            self.refs
            or self.versions
            or self.annex_files
            or self.lost_commits
            or not self.is_protected
        )

    def messages(self) -> Iterator[str]:
        """Yield one message per problem."""
        for ref in self.refs:
            yield str(ref)
        if self.lost_commits:
            yield f"{count_of(len(self.lost_commits), 'commit')} of the journal missing"
        for version in self.versions:
            yield f"the journal has the version {version.label} of foreign commits"
        for name in self.annex_files:
            yield f"git-annex was initialized in the repository and wrote {name!r}"
        if not self.is_protected:
            yield "the repository lacks hooks or settings that reject pushes"


def find_damage(
    repository: Repository,
    entries: Sequence[VersionMinted | AnnexBranchMoved],
    logged: Sequence[str] = (),
) -> RepositoryDamage:
    """Find the changes that other programs made to a repository, by its dataset's journal entries.

    ``logged`` are the commits of a superdataset, oldest first.

    Raises StoreDamagedError if git cannot read a commit.
    """
    versions = [entry for entry in entries if isinstance(entry, VersionMinted)]
    ids = {one.commit for one in versions} | {one.annex_commit for one in entries} | {*logged[-1:]}
    history = read_history(repository, sorted(ids))
    journal = JournalRefs(entries, history, is_subdataset=any(one.within for one in versions))
    # a killed process may have moved the branch after the last logged commit
    if logged and repository.ref(MAIN_BRANCH) in (None, *logged, *history.foreign_commits):
        journal.tips[MAIN_BRANCH] = logged[-1]
    return RepositoryDamage(
        find_foreign_refs(repository, journal, history),
        [version for version in versions if version.commit in journal.dropped_commits],
        find_annex_files(repository.path),
        is_protected(repository.path),
        history,
        sorted(ids - history.own_commits.keys() - history.foreign_commits),
    )


_OWNER_MODE = 0o700


def new_quarantine(store: Store, name: str, at: str) -> Path:
    """Create a folder for what repair removes, which only the store's owner can read.

    ``name`` is an alias, and ``at`` the time of the repair (ISO 8601).
    """
    parent = store.root / "neuromirror" / "quarantine"
    make_folder(parent)
    parent.chmod(_OWNER_MODE)
    return _new_folder(parent / name, at.replace(":", "").replace("-", ""))


def quarantine_foreign_refs(
    folder: Path,
    repository: Repository,
    refs: Sequence[ForeignRef],
    history: CommitHistory,
    at: str,
) -> None:
    """Save foreign refs and their commits in a quarantine folder.

    Parameters
    ----------
    folder
        The folder.
    repository
        The repository of the dataset.
    refs
        The refs to save.
    history
        The repository's commits, by which the foreign ones are known.
    at
        The time of the repair (ISO 8601).
    """
    refs_json = {ref.name: {"actual": ref.found, "expected": ref.expected} for ref in refs}
    content = json.dumps({"at": at, "refs": refs_json}, indent=1, sort_keys=True)
    write_atomically(folder / "refs.json", content.encode() + b"\n")
    # a ref of a missing object has nothing to save
    foreign = [ref.name for ref in refs if ref.is_foreign]
    if foreign:
        own = {ref for ref in repository.refs().values() if ref in history.own_commits}
        own |= {ref.expected for ref in refs if ref.expected is not None}
        bundle = folder / "foreign.bundle"
        create_bundle(repository.path, bundle, foreign, sorted(own))
        bundle.chmod(0o600)
        fsync_path(bundle)
    fsync_path(folder)


def quarantine_annex_files(repository: Repository, folder: Path) -> None:
    """Move the files of an initialized git-annex, annexed content included, to ``folder``."""
    config = repository.path / "config"
    write_atomically(folder / "config", config.read_bytes())
    annex = repository.path / "annex"
    if annex.exists():
        fsync_tree(annex)
        os.rename(annex, folder / "annex")
        fsync_path(folder)
        fsync_path(repository.path)
    write_atomically(config, CONFIG.encode())


def restore_refs(repository: Repository, refs: Sequence[ForeignRef]) -> None:
    """Move refs to their expected commits, and protect the repository; the caller has its lock."""
    protect(repository.path)
    found: Mapping[str, str | None] = {ref.name: ref.found for ref in refs}
    update_refs(repository.path, found, {ref.name: ref.expected for ref in refs})
    repository.update_server_info()


def _new_folder(parent: Path, name: str) -> Path:
    """Create a folder; append a number to the name if it exists."""
    make_folder(parent)
    number, folder = 1, parent / name
    while folder.exists():
        number, folder = number + 1, parent / f"{name}-{number}"
    folder.mkdir(_OWNER_MODE)
    return folder
