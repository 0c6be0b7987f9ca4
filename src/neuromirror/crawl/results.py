"""Results of datasets and mirrors in a run, for people and programs."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from msgspec import Struct, field

from neuromirror.config.builtin_mirrors import is_builtin
from neuromirror.crawl.plan import pending_files_text
from neuromirror.crawl.planner import SyncRequest
from neuromirror.crawl.unexpected_errors import PluginSource, describe_unexpected
from neuromirror.crawl.visit.outcome import VisitOutcome
from neuromirror.model import DatasetRef, NeuromirrorError, Traffic
from neuromirror.model.programs import missing_program_message
from neuromirror.net import CredentialsError, HttpError, NetError, UnreachableError
from neuromirror.sources import DatasetNotFoundError, Estimate
from neuromirror.store import Store

_MAX_PROBLEMS = 5
"""Problems that a message names one by one."""
_S3_CODE = re.compile(r"[A-Za-z]{1,50}")
_HEAD_LENGTH, _TAIL_LENGTH = 5000, 1000
"""Maximum length of a failure's message, which may quote any amount of upstream text."""


class Result(Struct, frozen=True):
    """The result for one dataset or mirror, in DataLad's terms.

    Attributes
    ----------
    dataset
        The name of the dataset or mirror.
    status
        ``ok``, ``notneeded``, ``impossible`` or ``error``.
    message
        Text for people.
    visit
        ``full``, ``partial``, ``held``, ``waiting``, ``not_found``, ``failed`` or ``unavailable``;
        empty if there was no visit.
    versions
        Labels of the new versions.
    traffic
        The visit's requests and bytes, by host.
    estimate
        In a dry run, the size of a first visit.
    refused_count
        Number of files that upstream lists and refuses to return.
    cause
        The cause of a failure, without names of files, keys or URLs; empty if unknown.
    """

    dataset: str
    status: str
    message: str
    visit: str = ""
    versions: tuple[str, ...] = ()
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    estimate: Estimate | None = None
    refused_count: int = 0
    cause: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code for this result: 0, 1, or 3 for a held listing."""
        if self.visit == "held":
            return 3
        return 0 if self.status in ("ok", "notneeded") else 1


def result_from_outcome(dataset: DatasetRef, outcome: VisitOutcome) -> Result:
    """Return the result to report for a visit that finished, from its outcome."""
    versions = tuple(outcome.new_labels)
    notes = ""
    if outcome.exception_count:
        notes += f"; {outcome.exception_count} listed upstream but not mirrored"
    if outcome.new_component_states:
        states = (
            "1 new state"
            if outcome.new_component_states == 1
            else f"{outcome.new_component_states} new states"
        )
        notes += f"; {states} of its Zarrs"
    writing = len(outcome.unfinished_components)
    if outcome.pending_files > writing:  # an unfinished Zarr has no checksum either
        notes += f"; {pending_files_text(outcome.pending_files - writing)}"
    if writing:
        zarrs = "1 Zarr is" if writing == 1 else f"{writing} Zarrs are"
        notes += f"; {zarrs} still being written upstream"
    notes += refused_note(outcome.refused_count)
    if outcome.comparison_scope:
        notes += f"; compared: {outcome.comparison_scope}"
    problem_lines = outcome.problems[:_MAX_PROBLEMS]
    if len(outcome.problems) > _MAX_PROBLEMS:
        problem_lines.append(f"and {len(outcome.problems) - _MAX_PROBLEMS} more problems")
    problems = "; ".join([*outcome.incidents, *outcome.hold_messages, *problem_lines])
    if outcome.incidents or (problem_lines and not outcome.hold_messages):
        return Result(dataset.name, "error", problems, "partial", versions)
    if outcome.hold_messages:
        return Result(dataset.name, "impossible", problems, "held", versions)
    notes += "".join(f"; known incident: {one}" for one in outcome.known_incidents)
    if outcome.waiting_reason:
        return Result(dataset.name, "notneeded", outcome.waiting_reason + notes, "waiting")
    if versions:
        return Result(dataset.name, "ok", f"new: {', '.join(versions)}{notes}", "full", versions)
    if outcome.new_component_states:
        return Result(dataset.name, "ok", f"nothing new{notes}", "full")
    return Result(dataset.name, "notneeded", f"nothing new{notes}", "full")


def refused_note(count: int) -> str:
    """Return the end of a message: how many objects the bucket lists and refuses; '' for none."""
    if not count:
        return ""
    objects = "1 object" if count == 1 else f"{count} objects"
    return f"; {objects} refused by the bucket and recorded from its listing only"


def public_cause(error: BaseException) -> str:
    """Return the part of an error that may be reported for the private store.

    It has the type of the error, the HTTP status, S3's error code and the name of the credentials,
    but no name, key or URL of the archive.
    """
    if isinstance(error, CredentialsError):
        return str(error)
    facts = [type(error).__name__]
    if isinstance(error, NetError) and error.status is not None:
        facts.append(f"HTTP {error.status}")
    if isinstance(error, HttpError):
        code = error.fields.get("Code", "")
        facts += [code] if _S3_CODE.fullmatch(code) else []
        facts += [error.identity] if error.identity else []
        facts[-1] += f": {error.remedy}" if error.remedy else ""
    return ", ".join(facts)


def describe_error(error: Exception, store: Store, plugin: PluginSource | None = None) -> str:
    """Return an error as one line for a message; a long one is cut in the middle.

    ``store`` is the store that the message names if its disk is full or a file is not named;
    ``plugin`` is the plugin that the message names if the error is unexpected.
    """
    description = _describe_fully(error, store, plugin)
    if len(description) <= _HEAD_LENGTH + _TAIL_LENGTH:
        return description
    return f"{description[:_HEAD_LENGTH]} … {description[-_TAIL_LENGTH:]}"


def _describe_fully(error: Exception, store: Store, plugin: PluginSource | None) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of the store {store.root} is full; free some space and run the sync again "
            "(published versions are intact)"
        )
    if isinstance(error, OSError):
        reason = f"{error.strerror}: {error.filename or store.root}"
        return missing_program_message(error) or reason
    if isinstance(error, NeuromirrorError):
        return str(error)
    return describe_unexpected(error, plugin)


def unplanned_result(request: SyncRequest, error: Exception, message: str) -> Result:
    """Return the failure of a request whose overview could not be read or lacks the dataset.

    ``message`` is the text of ``error``; advice for the user is added to it.
    """
    mirror, visit = request.mirror, "failed"
    if isinstance(error, DatasetNotFoundError):
        visit = "not_found"
        message = (
            f"{message.rstrip('.')}{' ' if message.endswith('?') else '; '}check its id "
            f"('neuromirror sync {mirror.name} --dry-run' lists all)"
        )
    elif isinstance(error, UnreachableError):
        address = "" if is_builtin(mirror.path) else f" and the address in {mirror.path}"
        message = (
            f"{message.removesuffix('; try again')}; check the network{address}, then run the "
            "command again"
        )
    return Result(request.name, "error", message, visit)
