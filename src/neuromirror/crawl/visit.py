"""Visit one dataset: plan → list → resolve → validate → guard → mint → publish → record.

Each step is a function of the visit and of what the step before returned. :func:`visit_dataset`
decides which versions are read; the other functions here take one version through all steps.
"""

from __future__ import annotations

from msgspec.structs import replace

from neuromirror.crawl.components import (
    ComponentVisitResult,
    PreviousState,
    has_named_components,
    link_components,
    list_earlier_states,
    previous_state,
    read_state,
    retried,
    unseen_states,
)
from neuromirror.crawl.guards import (
    accepts,
    check_dataset_name,
    check_version_name,
    compare,
    hold_listing,
    is_postponed,
    is_released,
    is_settling,
    lapse_holds,
    record_event,
)
from neuromirror.crawl.listing import (
    ListedVersion,
    count_still_pending,
    had_problems,
    keep_memos,
    known_memo,
)
from neuromirror.crawl.plan import Visit
from neuromirror.crawl.publish import catch_up, publish_state, record_viewer_links, renew_state
from neuromirror.crawl.validate import (
    SpooledSnapshot,
    StateCommits,
    is_split_component,
    save_inline_components,
    saved_inline_components,
)
from neuromirror.index import VersionRow
from neuromirror.model import UNREADABLE, FileTotals, VersionKind, VersionRef
from neuromirror.sources import Listing, UpstreamChangingError
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, PUBLISHED_BRANCH


def visit_dataset(visit: Visit, *, pending_only: bool = False) -> None:
    """Bring a dataset up to date: published versions first, then the observed state.

    ``pending_only`` checks what was pending upstream, and does the rest of the visit only if some
    of it is complete now. What the visit did is in its outcome, also after an exception.
    """
    check_dataset_name(visit.dataset)
    if pending_only and _is_still_pending(visit):
        return
    versions = visit.source.versions(visit.dataset)
    for version in versions:
        check_version_name(version)
    catch_up(visit)
    published = [version for version in versions if version.kind is VersionKind.PUBLISHED]
    observed = [version for version in versions if version.kind is VersionKind.OBSERVED]
    _report_vanished(visit, published)
    for version in published:
        row = visit.published_version(version.upstream)
        if row is not None:
            _check_published(visit, version, row)
        else:
            retried(_mint_published, visit, version)
            if visit.published_version(version.upstream) is None:
                break  # it is held or incomplete, and no other may follow it
    present = {version.upstream for version in observed}
    if not visit.history or _mint_earlier_states(visit, present):
        last = visit.last_observed()
        has_history = visit.history and last is not None and last.upstream not in present
        for version in observed:
            try:
                retried(_observe, visit, version, has_history)
            except UpstreamChangingError as error:
                visit.outcome.waiting_reason = f"changing now: {error}"
    if visit.repository.exists():
        visit.repository.update_server_info()


def _is_still_pending(visit: Visit) -> bool:
    """Return whether upstream has completed none of the pending items of the last state."""
    catch_up(visit)
    last = visit.last_observed()
    if last is None:
        return False
    refs = visit.repository.refs()
    commits = refs.get(MAIN_BRANCH), refs.get(ANNEX_BRANCH)
    count = count_still_pending(visit, last.upstream, *commits)
    if count is None:
        return False
    visit.outcome.pending_files = count
    visit.outcome.exception_count = last.exceptions
    return True


def _report_problems(visit: Visit, listing: Listing) -> None:
    """Add the problems of a listing, without duplicates from shared objects."""
    outcome = visit.outcome
    outcome.problems = [*dict.fromkeys([*outcome.problems, *listing.problems()])]


# --- the observed state


def _observe(visit: Visit, version: VersionRef, has_history: bool) -> None:
    """Publish the present state, unless it is unchanged since the last visit."""
    refs, last = visit.repository.refs(), visit.last_observed()
    memo = None
    # a memo of the listing does not cover the components
    if not (visit.deep or visit.history) or last is None or not has_named_components(visit, last):
        commits = refs.get(MAIN_BRANCH), refs.get(ANNEX_BRANCH)
        memo = known_memo(visit, version.upstream, *commits)
    outcome = visit.outcome
    with read_state(visit, version, memo) as listed:
        if not listed.is_unchanged:
            minted = None
            if _may_follow(visit, listed, last, has_history):
                lapse_holds(visit, listed.snapshot.header.version.upstream)
                outcome.pending_files = listed.snapshot.pending_files
                minted = _publish(visit, listed, MAIN_BRANCH, None)
            keep_memos(visit, version.upstream, listed, minted)
        elif memo is not None and last is not None:
            # the count in the last visit's record may be of a failed visit
            outcome.pending_files, outcome.exception_count = memo.pending, last.exceptions
            lapse_holds(visit, version.upstream)
    listing = listed.listing
    outcome.comparison_scope = listing.describe_checks()
    outcome.refused_count = listing.refused_count()
    outcome.archived_count = listing.archived_count()
    _report_problems(visit, listing)
    if visit.versions():
        record_viewer_links(visit, listing.facts.links)


def _may_follow(
    visit: Visit, listed: ListedVersion, last: VersionRow | None, has_history: bool
) -> bool:
    """Return whether a state may follow the last one; hold or postpone it if not."""
    if last is None:
        return not is_postponed(visit, listed.snapshot)
    difference, changes = compare(visit, last, listed)
    if has_history:
        # upstream keeps versions of its objects, so an overwrite is a version, no conflict
        changes.conflicts.clear()
    return accepts(visit, listed, last, difference, changes)


def _publish(
    visit: Visit, listed: ListedVersion, branch: str, label: str | None
) -> StateCommits | None:
    """Visit the components of a state, then mint, publish and record it.

    Returns the state's commits; None if the next visit has to read the listing again.
    """
    outcome = visit.outcome
    snapshot, visited = link_components(visit, listed, previous_state(visit))
    components, upstream = snapshot.components, snapshot.header.version.upstream
    for message in components.incidents:
        record_event(visit.recorder, visit.dataset, "incident", message, {"version": upstream})
    _count_components(visit, visited)
    outcome.incidents += [one.incident for one in visited if one.incident]
    outcome.incidents += components.incidents
    outcome.problems += components.problems
    outcome.unfinished_components |= components.pending_ids
    if branch == PUBLISHED_BRANCH and (components.problems or components.pending_ids):
        return None  # a published version is final, so it must not lack components
    published, is_new = publish_state(visit, snapshot, branch, listed.scratch, label)
    if is_new:
        outcome.new_labels.append(published.label)
        _report_unreadable(visit, snapshot, published.label)
    if is_new or branch == MAIN_BRANCH:
        outcome.exception_count = len(snapshot.header.exceptions)
    commits = published.commit, published.annex_commit
    save_inline_components(visit, upstream, commits, components.inline)
    return commits if components.is_final else None


def _count_components(visit: Visit, visited: list[ComponentVisitResult]) -> None:
    visit.outcome.new_component_states += sum(one.new_state_count for one in visited)
    visit.outcome.earlier_state_count += sum(one.earlier_state_count for one in visited)


def _report_unreadable(visit: Visit, snapshot: SpooledSnapshot, label: str) -> None:
    """Record an event for the sidecars of a new version that cannot be read."""
    facts = snapshot.header.facts
    sidecars = [value for name, value in facts.attributes if name == UNREADABLE]
    if sidecars:
        message = (
            f"{label}: {', '.join(sidecars)} cannot be read (invalid JSON, or access "
            "refused); the metadata of the last readable version, if any, is kept"
        )
        data: dict[str, object] = {"version": label, "sidecars": sidecars}
        record_event(visit.recorder, visit.dataset, UNREADABLE, message, data)


# --- earlier states


def _mint_earlier_states(visit: Visit, present: set[str]) -> bool:
    """Publish the earlier states; return False if no state may follow them now.

    ``present`` are upstream's names of the current observed states.
    """
    last = visit.last_observed()
    states = list_earlier_states(visit, last)
    visit.outcome.earlier_state_count += len(states)
    if not visit.versions() and states and is_settling(visit, states[-1].time):
        return False
    if last is not None and last.upstream in present:
        states = unseen_states(visit, states, last)
    for version in states:
        retried(_mint_earlier_state, visit, version)
        if visit.outcome.hold_messages:
            return False
    return True


def _mint_earlier_state(visit: Visit, version: VersionRef) -> None:
    """Publish an earlier state; upstream's own versions confirm its deletions.

    No memo is kept: an earlier state is listed once.
    """
    with read_state(visit, version) as listed:
        snapshot, last = listed.snapshot, visit.last_observed()
        if last is not None and last.files and not snapshot.files:
            upstream, state = snapshot.header.version.upstream, snapshot.state_digest()
            if not is_released(visit, upstream, state):
                lost = last.files
                hold_listing(visit, upstream, state, "the listing is empty", lost, lost)
                return
        _publish(visit, listed, MAIN_BRANCH, None)


# --- published versions


def _report_vanished(visit: Visit, published: list[VersionRef]) -> None:
    listed = {version.upstream for version in published}
    for row in visit.versions():
        if row.kind == VersionKind.PUBLISHED.value and row.upstream not in listed:
            message = f"published version {row.upstream} is no longer listed upstream"
            _record_incident(visit, row.upstream, message)


def _mint_published(visit: Visit, version: VersionRef) -> None:
    """Publish a published version, unless it is empty or lacks components."""
    commits, upstream = None, version.upstream
    with read_state(visit, version) as listed:
        state = listed.snapshot.state_digest() if listed.snapshot.is_empty else ""
        if state and not is_released(visit, upstream, state):
            hold_listing(visit, upstream, state, "an empty published version")
        else:
            commits = _publish(visit, listed, PUBLISHED_BRANCH, upstream)
        keep_memos(visit, upstream, listed, commits)
    _report_problems(visit, listed.listing)


def _check_published(visit: Visit, version: VersionRef, row: VersionRow) -> None:
    """Record an incident if a published version has changed, as far as the archive's totals show.

    Its files are read if these leave doubts, in a deep visit, and after a visit with problems.
    """
    claimed, recorded = version.claimed_totals, _upstream_totals(visit, row)
    # the memo of inline components, which upstream counts as one file each, may be missing
    folders = claimed and claimed.bytes == recorded.bytes and claimed.files < recorded.files
    if claimed is not None and claimed != recorded and not folders:
        message = (
            f"published version {version.upstream} now has {claimed.files} files with "
            f"{claimed.bytes} bytes, it had {recorded.files} with {recorded.bytes}"
        )
        _record_incident(visit, version.upstream, message)
    elif visit.deep or folders or had_problems(visit, version.upstream):
        retried(_check_files, visit, version, row)


def _check_files(visit: Visit, version: VersionRef, row: VersionRow) -> None:
    """Compare the files of a published version with those upstream."""
    memo = None
    if not (visit.deep and has_named_components(visit, row)):
        memo = known_memo(visit, version.upstream, row.commit)
    with read_state(visit, version, memo) as listed:
        if not listed.is_unchanged:
            commits = _check_listed(visit, listed, row)
            keep_memos(visit, version.upstream, listed, commits)
    _report_problems(visit, listed.listing)


def _check_listed(visit: Visit, listed: ListedVersion, row: VersionRow) -> StateCommits | None:
    """Return the commits of a published version that is unchanged; record what it states now."""
    if visit.deep:
        snapshot, visited = link_components(visit, listed, PreviousState(visit, row))
        listed = replace(listed, validated=snapshot)
        _count_components(visit, visited)
        messages = [one.incident for one in visited] + [one.change_message for one in visited]
        wrong = [*filter(None, messages), *snapshot.components.incidents]
        for message in wrong:
            _record_incident(visit, row.upstream, f"published version {row.upstream}: {message}")
        if wrong:
            return None
    snapshot = listed.snapshot
    if snapshot.components.problems:
        visit.outcome.problems += snapshot.components.problems
        return None
    _, changes = compare(visit, row, listed)
    if not changes.has_same_files:
        message = (
            f"published version {row.upstream} now lists other files: {changes.added} added, "
            f"{changes.removed} removed, {changes.changed} with different content"
        )
        _record_incident(visit, row.upstream, message)
        return None
    if changes.upgraded:
        message = (
            f"{changes.upgraded} files of published version {row.upstream} have better digests"
        )
        data: dict[str, object] = {"version": row.upstream, "files": changes.upgraded}
        record_event(visit.recorder, visit.dataset, "digest-upgrade", message, data)
    if visit.deep:
        renew_state(visit, row, snapshot, listed.scratch)
    commits = row.commit, visit.repository.refs()[ANNEX_BRANCH]
    save_inline_components(visit, row.upstream, commits, snapshot.components.inline)
    return commits


def _upstream_totals(visit: Visit, row: VersionRow) -> FileTotals:
    """Return the number of files and bytes of a version as upstream counts them."""
    exceptions = visit.recorder.ask(lambda index: index.versions.exceptions(row))
    components = visit.recorder.ask(lambda index: list(index.versions.subdatasets(row)))
    inline = saved_inline_components(visit.store, visit.dataset, row).values()
    files = row.files + len(exceptions) - sum(one.files + one.exceptions - 1 for one in inline)
    for component in components:
        is_own = is_split_component(visit.dataset, component.dataset.partition(":")[2])
        files += component.files if is_own else 1
    sizes = (exception["size"] for exception in exceptions)
    return FileTotals(files, row.bytes + sum(sizes) + sum(one.bytes for one in components))


def _record_incident(visit: Visit, upstream: str, message: str) -> None:
    """Record an incident with a published version; report it as known if it is not new."""
    data: dict[str, object] = {"version": upstream}
    is_new = record_event(visit.recorder, visit.dataset, "incident", message, data)
    (visit.outcome.incidents if is_new else visit.outcome.known_incidents).append(message)
