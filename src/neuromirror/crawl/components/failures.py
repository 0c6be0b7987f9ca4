"""Components that could not be read: exceptions, problems and lasting failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neuromirror.model import ExcludedEntry, NeuromirrorError, path_to_text
from neuromirror.net import AccessDeniedError
from neuromirror.sources import (
    ComponentEntry,
    ComponentMismatchError,
    ComponentRefusedError,
    ComponentUnavailableError,
)

_MAX_NAMED = 3
NOT_PROVEN = "zarr-not-proven"
REFUSED = "zarr-refused"
EMPTY = "zarr-empty"
PENDING = "pending"

_REFUSALS = (ComponentRefusedError, AccessDeniedError)

RecordRefusal = Callable[[str], bool]
"""Records that a URL is refused; returns whether it has been refused for a day or longer."""

FailedComponents = Mapping[bytes, tuple[ComponentEntry, NeuromirrorError]]
"""Components that could not be read, with the error, by path."""


class ComponentsUnreadableError(NeuromirrorError):
    """Components could not be read, perhaps only temporarily.

    The state of the dataset is not published.
    """


def empty_exception(component: ComponentEntry) -> ExcludedEntry:
    """Return the entry that records that an empty component is not in the version.

    git cannot store an empty folder.
    """
    return ExcludedEntry(component.path, EMPTY, "the Zarr holds no files", component.size)


def check_lasting_failures(failed: FailedComponents, record_refusal: RecordRefusal) -> None:
    """Raise ComponentsUnreadableError unless each component failed for a lasting reason.

    A lasting reason is one that upstream itself states, or a refusal that ``record_refusal``,
    called with the component's URI, reports as lasting. Only then may a state be published without
    the component, or with its previous state: otherwise the state never existed upstream.
    """
    passing = [
        (component, error)
        for component, error in failed.values()
        if not isinstance(error, ComponentUnavailableError | ComponentMismatchError)
        and not (isinstance(error, _REFUSALS) and record_refusal(component.dataset.source_uri))
    ]
    if not passing:
        return
    named = [
        f"{path_to_text(one.path)} ({one.dataset.name}): {error}"
        for one, error in passing[:_MAX_NAMED]
    ]
    if len(passing) > _MAX_NAMED:
        named.append(f"and {len(passing) - _MAX_NAMED} more")
    raise ComponentsUnreadableError(
        f"{'; '.join(named)}; nothing of this version was published, and the next sync tries again"
    )


# the details of exceptions are committed (dataset.json): another text changes commit ids
def unreadable_exception(component: ComponentEntry, error: NeuromirrorError) -> ExcludedEntry:
    """Return the entry that records that an unreadable component is not in the version.

    For a component that the previous state has, that state is kept instead.
    """
    if isinstance(error, _REFUSALS):
        detail = "the archive or its bucket refuses the Zarr, and no embargo is stated"
        return ExcludedEntry(component.path, REFUSED, detail, component.size)
    if not isinstance(error, ComponentUnavailableError):
        detail = "its files differ from the Zarr that the archive describes"
        return ExcludedEntry(component.path, NOT_PROVEN, detail, component.size)
    if is_pending_error(error):
        detail = "its files are still being written: the archive has no checksum of it"
    else:
        detail = f"the archive does not allow anonymous access to the Zarr ({error.reason})"
    return ExcludedEntry(component.path, error.reason, detail, component.size)


def is_pending_error(error: NeuromirrorError) -> bool:
    """Return whether an error means that upstream is still writing the component."""
    return isinstance(error, ComponentUnavailableError) and error.reason == PENDING


def problem_message(component: ComponentEntry, error: NeuromirrorError, *, is_kept: bool) -> str:
    """Return the message for an operator about a component that could not be read.

    ``is_kept``: its previous version is kept; otherwise the new version of the dataset lacks it.
    """
    consequence = "its previous version is kept" if is_kept else "it is omitted"
    return (
        f"{path_to_text(component.path)} ({component.dataset.name}) could not be read, and "
        f"{consequence}: {error}"
    )


def is_contradiction(error: NeuromirrorError) -> bool:
    """Return whether an error means that a component's files do not match its checksum.

    The checksum is upstream's.
    """
    return isinstance(error, ComponentMismatchError)


def lost_files_message(component: ComponentEntry, error: NeuromirrorError) -> str:
    """Return the message for a component that lost files while its checksum stayed the same."""
    return (
        f"{component.dataset.name}: the files upstream no longer match the checksum "
        f"{component.version.upstream}; the mirrored state is kept: {error}"
    )
