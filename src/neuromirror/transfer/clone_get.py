"""``get``: download the selected files of a clone and of its subdatasets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import VaultAddress, parse_key
from neuromirror.git import BatchObjectReader, GitError
from neuromirror.model import ConfigurationError, Evidence, NeuromirrorError, path_to_text
from neuromirror.net import permanent_refusal, redact
from neuromirror.store import refuse_symlinks
from neuromirror.transfer.annex_branch import AnnexBranchReader, AnnexSettings, KeyLogs
from neuromirror.transfer.annex_clone import (
    AnnexClone,
    AnnexedFile,
    AnnexedFileListing,
    PathSelection,
    SelectedSubdataset,
    install_subdatasets,
    is_installed,
)
from neuromirror.transfer.annex_objects import AnnexObjectStore, BlockDigestsRecorder
from neuromirror.transfer.content_bodies import FetchResult, FetchTask, check_for, key_checksum
from neuromirror.transfer.fetcher import DownloadPool
from neuromirror.transfer.key_locations import (
    CloneRemotes,
    KeyLocations,
    LocationRecorder,
    PendingKeys,
)
from neuromirror.transfer.outcomes import (
    ByteProgress,
    EvidenceStatus,
    Outcome,
    ProgressMeter,
    Status,
    displayed_url,
)
from neuromirror.vault.object_files import refuse_links

_MAX_STDERR_BYTES: Final = 2000


class GitAnnexBatch:
    """A running ``git annex get --batch --json`` in a clone.

    Parameters
    ----------
    folder
        A folder of the clone.
    environment
        Environment of the process.
    jobs
        Number of concurrent downloads.
    is_interactive
        Whether replies are needed before the input ends. Paths are then separated by line breaks,
        which they must not contain; otherwise by NUL, for which git-annex replies at the end only.
    has_progress
        Whether to report progress records, too.

    Raises
    ------
    OSError
        git-annex cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        jobs: int,
        *,
        is_interactive: bool,
        has_progress: bool = False,
    ) -> None:
        self._separator = b"\n" if is_interactive else b"\0"
        options = [f"--jobs={jobs}", "--json", "--json-error-messages"]
        options += [] if is_interactive else ["-z"]
        options += ["--json-progress"] if has_progress else []
        # a file: a pipe that is not read could fill up and block git-annex
        self._stderr: IO[bytes] = tempfile.TemporaryFile(prefix="neuromirror-")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                ["git-annex", "get", "--batch", *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except BaseException:
            self._stderr.close()
            raise

    def send(self, paths: Iterable[bytes]) -> None:
        """Request files; ignored if git-annex has exited, which ends :meth:`replies`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # ValueError: finish() has closed the pipe
            for path in paths:
                self._process.stdin.write(path + self._separator)
            self._process.stdin.flush()

    def end_input(self) -> None:
        """Let git-annex exit after the files requested so far."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def replies(self) -> Iterator[dict[str, Any] | None]:
        """Yield the replies; None for an empty line: there was nothing to do for some file."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None

    def stop(self, timeout: float) -> None:
        """End the input, and terminate git-annex if it does not exit within ``timeout`` seconds."""
        self.end_input()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.terminate()

    def terminate(self) -> None:
        """Terminate git-annex, and wait for its exit."""
        self._process.terminate()
        self._process.wait()

    def finish(self) -> str:
        """Wait for the exit of git-annex; return the end of its error output, redacted."""
        self.end_input()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_STDERR_BYTES))
            return redact(" ".join(file.read().decode(errors="replace").split()))


def failure_reason(reply: Mapping[str, Any]) -> str:
    """Return why git-annex failed to get a file, without the signatures of signed URLs."""
    notes = [line for line in str(reply.get("note") or "").splitlines() if not line.endswith("...")]
    messages = map(str, [*(reply.get("error-messages") or []), *notes])
    reasons = [" ".join(message.split()) for message in messages]
    return redact("; ".join(filter(None, reasons))) or "no reason given"


_JOBS: Final = 8
_ETAG_BACKEND: Final = "git-annex-backend-XS3ETAG"
_MISSING: Final = "only git-annex can get it, and git-annex is not installed; pip install git-annex"


class DelegatedFile(Struct, frozen=True):
    """A file that git-annex has to get.

    Attributes
    ----------
    path
        The path in the clone.
    key
        The annex key.
    reasons
        Why other downloads of it failed.
    """

    path: bytes
    key: str
    reasons: Sequence[str] = ()


def get_with_git_annex(
    clone: AnnexClone,
    files: Sequence[DelegatedFile],
    jobs: int,
    report_bytes: Callable[[str, int], None],
) -> Iterator[tuple[DelegatedFile, str | None]]:
    """Have git-annex get files, each with a different key.

    Parameters
    ----------
    clone
        The clone.
    files
        The files to get.
    jobs
        Maximum number of concurrent downloads.
    report_bytes
        Called with a key and the number of bytes received.

    Yields
    ------
    tuple of DelegatedFile and str or None
        A file and why it failed, None if git-annex got it.
    """
    if not files:
        return
    environment = clone.annex_environment(credentials=True)
    if shutil.which("git-annex", path=environment["PATH"]) is None:
        for file in files:
            yield file, _MISSING
        return
    waiting: dict[str, DelegatedFile] = {}
    for file in files:
        try:
            for path in clone.object_paths(file.key):
                refuse_links(os.path.dirname(path))
            waiting[file.key] = file
        except NotADirectoryError as error:
            yield file, f"git-annex would write elsewhere: {error}"
    paths = [file.path for file in waiting.values()]
    batch = GitAnnexBatch(
        clone.top, environment, min(jobs, _JOBS), is_interactive=False, has_progress=True
    )

    def send() -> None:
        batch.send(paths)
        batch.end_input()

    sender = threading.Thread(target=send)
    sender.start()
    is_complete = False
    try:
        for key, reply in _final_replies(batch, report_bytes):
            if key in waiting:
                failed = f"git annex get: {failure_reason(reply)}"
                yield waiting.pop(key), None if reply.get("success") else failed
        is_complete = True
    finally:
        if not is_complete:
            batch.terminate()
        sender.join()
        stderr = batch.finish()
    for file in waiting.values():
        why = f"git annex get failed: {stderr or 'no error message'}"
        yield file, None if clone.find_object(file.key) else why


def _final_replies(
    batch: GitAnnexBatch, report_bytes: Callable[[str, int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the final replies with their keys; report progress."""
    seen: dict[str, int] = {}
    for reply in batch.replies():
        if reply is None:
            continue
        action = reply.get("action")
        if isinstance(action, dict) and isinstance(action.get("key"), str):
            key = action["key"]
            received = int(reply.get("byte-progress") or 0)
            report_bytes(key, received - seen.get(key, 0))
            seen[key] = received
        elif isinstance(reply.get("key"), str):
            yield reply["key"], reply


def checked_evidence(key: str, settings: AnnexSettings) -> Evidence | None:
    """Return the evidence for a content that git-annex has downloaded: the checksum in its key.

    Return None if git-annex may not have verified the content.
    """
    check = check_for(key)
    if check is None or not check.has_digest or not settings.verifies_content:
        return None
    if check.evidence is Evidence.ETAG and shutil.which(_ETAG_BACKEND) is None:
        return None
    return check.evidence


JOBS: Final = 32
"""Default number of concurrent downloads."""

IN_GIT: Final = "in git, so it is in each clone"
"""The message about a file that is not annexed."""

_FIRST_BATCH: Final = 256
_BATCH: Final = 2000
"""Files whose URLs are looked up together; the first batch is small, so that downloads start early.
"""

_MAX_IN_FLIGHT: Final = 1000


def get(
    dataset: Path,
    paths: Sequence[str | Path] | None = None,
    *,
    recursive: bool = False,
    jobs: int = JOBS,
    vaults: Sequence[VaultAddress] = (),
    copies_only: bool = False,
    progress: ByteProgress | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Download files of the clone that contains ``dataset``; yield one outcome per file.

    The status is ``notneeded`` if the content is here, ``ok`` if it was downloaded and matches its
    key, ``error`` if it could not be downloaded, with the reason for each URL, and ``impossible``
    if no URL is known or the file does not exist. The caller may stop at any time: the clone stays
    consistent, and downloaded content is recorded in git-annex. The block digests of files of
    several pieces are recorded in the folder of the user.

    Parameters
    ----------
    dataset
        A folder in the clone.
    paths
        Files and folders, relative to the top of the clone or absolute; None is the whole clone.
        Subdatasets that are not installed are cloned by git.
    recursive
        Whether to get subdatasets that are not named in ``paths``.
    jobs
        Maximum number of concurrent downloads.
    vaults
        Vaults that may have copies, in addition to those that the clone knows.
    copies_only
        Whether to use vaults only: neither upstream nor git-annex.
    progress
        Called with the bytes received and expected so far.
    settings
        Settings of git, in addition to those of the user.

    Yields
    ------
    Outcome
        The result for each file.

    Raises
    ------
    ConfigurationError
        ``dataset`` is not in a clone.
    RepositoryRefusedError
        The repository has settings, hooks or files that neither git nor git-annex writes.
    ConfigurationError
        A path is outside of the clone.
    GitError
        git or git-annex failed.
    """
    meter = ProgressMeter(progress)
    clone = AnnexClone.at(Path(dataset), settings)
    with BlockDigestsRecorder() as digests:
        options = _GetOptions(recursive, jobs, settings or {}, digests, tuple(vaults), copies_only)
        selection = PathSelection(clone.top, paths)
        yield from _CloneGet(clone, selection, "", options, meter).outcomes()


class _RequestedContent(Struct):
    """Requested content: the paths that have it, its size, logs and locations."""

    paths: list[bytes]
    size: int | None
    logs: KeyLogs = field(default_factory=KeyLogs)
    locations: KeyLocations = field(default_factory=KeyLocations)


class _GetOptions(Struct, frozen=True):
    """The options of :func:`get`."""

    recursive: bool
    jobs: int
    settings: Mapping[str, str]
    digests: BlockDigestsRecorder
    vaults: tuple[VaultAddress, ...]
    copies_only: bool


class _CloneGet(Struct, eq=False):
    """Download of one clone's files; ``prefix`` is its path in the outermost clone."""

    clone: AnnexClone
    selection: PathSelection
    prefix: str
    options: _GetOptions
    meter: ProgressMeter
    _requested: dict[str, _RequestedContent] = field(default_factory=dict)
    _delegated: list[DelegatedFile] = field(default_factory=list)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes of all selected files."""
        with ExitStack() as stack:
            objects = stack.enter_context(BatchObjectReader(self.clone.git_dir))
            listing = AnnexedFileListing(self.clone, self.selection, objects)
            if not self.clone.is_annexed:
                yield from self._without_annex(listing)
            elif self.clone.delegation_reason is None:
                yield from self._fetch(listing, objects, stack)
            else:
                for file in listing.files():
                    yield from self._examine(file, listing, [])
        yield from self._get_delegated()
        for path in listing.unrecognized_links:
            why = "the key in its link is not supported; try 'git annex get'"
            yield self._failed("impossible", path, why)
        for path in listing.foreign_links:
            why = "its link leads into another repository, whose content is not verified"
            yield self._failed("impossible", path, why)
        for path in listing.in_git:
            if os.path.lexists(os.path.join(os.fsencode(self.clone.top), path)):
                yield Outcome("get", "notneeded", self._result_path(path), IN_GIT)
            else:
                why = "in git, but not in the work tree; 'git restore' with its path writes it"
                yield self._failed("impossible", path, why)
        yield from self._in_subdatasets(listing.subdatasets)
        for path in self.selection.unmatched():
            yield self._failed("impossible", path, "no such file in git's index")

    def _without_annex(self, listing: AnnexedFileListing) -> Iterator[Outcome]:
        """Yield the outcomes for a repository without git-annex branch.

        The subdatasets may have a git-annex branch.

        Raises
        ------
        ConfigurationError
            The repository has no subdatasets.
        """
        why = "the repository has no git-annex branch, here or at its remotes"
        files = [file.path for file in listing.files()]
        if not listing.subdatasets:
            raise ConfigurationError(f"{self.clone.top}: {why}; it has no annexed files to get")
        for path in files:
            yield self._failed("impossible", path, why)

    def _fetch(
        self, listing: AnnexedFileListing, objects: BatchObjectReader, stack: ExitStack
    ) -> Iterator[Outcome]:
        """Download what this package can; collect the other files in ``_delegated``."""
        clone = self.clone
        commit = clone.opened_commit
        if commit is None:
            raise GitError(f"{clone.top} has no git-annex branch; run 'git annex init' in it")
        branch = AnnexBranchReader(objects, commit, clone.annex_dir)
        remotes = CloneRemotes(
            clone.settings, branch, self.options.vaults, copies_only=self.options.copies_only
        )
        store = stack.enter_context(AnnexObjectStore(clone))
        intentions = stack.enter_context(PendingKeys(clone))
        recorder = LocationRecorder(clone, commit, intentions)
        recorder.recover(store, branch)
        options = self.options
        pool = DownloadPool(
            *(clone.settings, store, options.jobs, intentions.add), vaults=options.vaults
        )
        try:
            yield from self._feed(pool, recorder, listing, branch, remotes)
        finally:
            for fetched in pool.stop():
                self._record(fetched, recorder)
            recorder.flush()

    def _feed(
        self,
        pool: DownloadPool,
        recorder: LocationRecorder,
        listing: AnnexedFileListing,
        branch: AnnexBranchReader,
        remotes: CloneRemotes,
    ) -> Iterator[Outcome]:
        files = listing.files()
        fetching: set[str] = set()
        batch = _FIRST_BATCH
        exhausted = False
        while fetching or not exhausted:
            if not exhausted and len(fetching) < _MAX_IN_FLIGHT:
                some = list(islice(files, batch))
                exhausted = len(some) < batch
                batch = _BATCH
                yield from self._enqueue(some, fetching, pool, listing, branch, remotes)
                continue
            for found in pool.take():
                if isinstance(found, FetchResult):
                    fetching.discard(found.task.key)
                    self._record(found, recorder)
                    yield from self._finish_fetch(found)
                else:
                    self.meter.add(*found)
            if recorder.is_flush_due:
                recorder.flush()

    def _enqueue(
        self,
        files: Sequence[AnnexedFile],
        fetching: set[str],
        pool: DownloadPool,
        listing: AnnexedFileListing,
        branch: AnnexBranchReader,
        remotes: CloneRemotes,
    ) -> Iterator[Outcome]:
        """Look up the locations of files, and queue their downloads."""
        new: list[str] = []
        for file in files:
            yield from self._examine(file, listing, new)
        for key, logs in branch.logs(new).items():
            content = self._requested[key]
            content.logs, content.locations = logs, remotes.locations(key, logs)
            locations = content.locations
            if (
                never := next(filter(None, map(permanent_refusal, locations.remote_urls)), None)
            ) is not None:
                # not delegated to git-annex, which does not block all of these addresses
                why = f"one of its URLs leads to {never}, which is never requested"
                yield from self._failed_content("error", key, why)
            elif not self._is_fetched_here(key, locations):
                self._delegated.append(DelegatedFile(content.paths[0], key))
            elif locations.urls:
                fetching.add(key)
                urls = locations.urls, locations.local_urls, locations.equivalent_keys
                pool.put(FetchTask(key, content.size, *urls, self.options.digests))
            else:
                why = "no URL or configured remote is known to have it" + _unconfigured_hint(
                    locations
                )
                yield from self._failed_content("impossible", key, why)

    def _examine(
        self, file: AnnexedFile, listing: AnnexedFileListing, new: list[str]
    ) -> Iterator[Outcome]:
        """Register a requested file; yield an outcome if its content is here.

        Keys whose locations have to be looked up are appended to ``new``.
        """
        key, path = file.key, file.path
        if key in self._requested:
            self._requested[key].paths.append(path)
            return
        size = parse_key(key).size
        if self.clone.find_object(key) is not None:
            yield Outcome("get", "notneeded", self._result_path(path), key=key, size=size)
            return
        self._requested[key] = _RequestedContent([path], size)
        self.meter.expect(size)
        if (
            self.clone.delegation_reason is not None
            or file.is_unlocked
            or key in listing.pointer_keys
        ):
            self._delegated.append(DelegatedFile(path, key))
        else:
            new.append(key)

    def _is_fetched_here(self, key: str, locations: KeyLocations) -> bool:
        """Return whether this package, not git-annex, downloads the content of a key."""
        if (
            self.clone.settings.is_true("annex.securehashesonly")
            and not key_checksum(key).is_secure
        ):
            return False
        if locations.has_cheaper_remote or (locations.has_other_source and not locations.urls):
            return False
        return check_for(key, locations.equivalent_keys) is not None

    def _record(self, found: FetchResult, recorder: LocationRecorder) -> None:
        if found.check is not None:
            recorder.add(found.task.key, self._requested[found.task.key].logs, found.equivalent_key)

    def _finish_fetch(self, found: FetchResult) -> Iterator[Outcome]:
        """Yield the outcomes of a finished download, or delegate its file to git-annex."""
        key = found.task.key
        content = self._requested[key]
        if found.check is not None:
            del self._requested[key]
            size, evidence = found.check.bytes_seen, found.check.evidence
            self.meter.finish(key, content.size, size)
            checked: EvidenceStatus | None = None if evidence is Evidence.NONE else "checked"
            url = None if found.url is None else displayed_url(found.url)
            about = (None, None, key, size, evidence, checked, url)
            for path in content.paths:
                yield Outcome("get", "ok", self._result_path(path), found.check.note, *about)
        elif (
            content.locations.has_other_source
            or found.needs_credentials
            or (found.refused_hosts and self.clone.settings.allowed_addresses)
        ):
            # git-annex resolves host names before it checks whether their addresses are allowed
            self.meter.reset(key)
            self._delegated.append(DelegatedFile(content.paths[0], key, found.errors))
        else:
            why = "; ".join(found.errors) + _unconfigured_hint(content.locations)
            yield from self._failed_content("error", key, why, found.host)

    def _get_delegated(self) -> Iterator[Outcome]:
        """Have git-annex get the delegated files; yield their outcomes."""
        jobs, report_bytes = self.options.jobs, self.meter.add
        results = get_with_git_annex(self.clone, self._delegated, jobs, report_bytes)
        for file, failure in results:
            if failure is not None:
                yield from self._failed_content(
                    "error", file.key, "; ".join([*file.reasons, failure])
                )
                continue
            content = self._requested.pop(file.key)
            self.meter.finish(file.key, content.size, content.size or 0)
            evidence = checked_evidence(file.key, self.clone.settings)
            checked: EvidenceStatus | None = None if evidence is None else "checked"
            about = (None, None, file.key, content.size, evidence, checked)
            for path in content.paths:
                yield Outcome("get", "ok", self._result_path(path), "by git-annex", *about)

    def _in_subdatasets(self, found: Sequence[SelectedSubdataset]) -> Iterator[Outcome]:
        chosen = [sub for sub in found if sub.is_explicit or self.options.recursive]
        missing = [sub.path for sub in chosen if not is_installed(self.clone.top, sub.path)]
        failed = install_subdatasets(self.clone.top, missing) if missing else {}
        for sub in chosen:
            if sub.path in failed:
                yield self._failed("impossible", sub.path, failed[sub.path])
                continue
            try:
                refuse_symlinks(self.clone.top, os.fsdecode(sub.path))
                clone = AnnexClone.of_subdataset(
                    self.clone.top / os.fsdecode(sub.path), self.options.settings
                )
                paths = None if sub.paths is None else [os.fsdecode(path) for path in sub.paths]
                run = _CloneGet(
                    clone,
                    PathSelection(clone.top, paths),
                    self._result_path(sub.path) + "/",
                    self.options,
                    self.meter,
                )
                yield from run.outcomes()
            except (NeuromirrorError, OSError) as error:
                yield self._failed("error", sub.path, str(error))

    def _failed_content(
        self, status: Status, key: str, why: str, host: str | None = None
    ) -> Iterator[Outcome]:
        content = self._requested.pop(key)
        self.meter.give_up(key, content.size)
        for path in content.paths:
            yield replace(self._failed(status, path, why, key, content.size), host=host)

    def _failed(
        self, status: Status, path: bytes, why: str, key: str | None = None, size: int | None = None
    ) -> Outcome:
        return Outcome("get", status, self._result_path(path), why, key=key, size=size)

    def _result_path(self, path: bytes) -> str:
        return self.prefix + path_to_text(path)


def _unconfigured_hint(locations: KeyLocations) -> str:
    if not locations.unconfigured_repositories:
        return ""
    return (
        f" (also recorded in {', '.join(locations.unconfigured_repositories)}, not a remote of "
        "this clone; 'git annex enableremote' sets up one that you trust)"
    )
