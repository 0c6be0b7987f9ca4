"""The outcome of a visit."""

from __future__ import annotations

from msgspec import Struct, field


class VisitOutcome(Struct):
    """The versions that a visit published, and the problems it found.

    Attributes
    ----------
    new_labels
        Labels of the new versions.
    hold_messages
        Messages about listings that are held for approval.
    incidents
        Messages about incidents that make the run fail: new incidents, and older ones that persist
        and need a decision by an operator.
    known_incidents
        Messages about incidents with published versions that an earlier visit already recorded.
        They are reported again, but do not make the run fail.
    problems
        Messages about components and files that could not be mirrored as they are upstream.
    waiting_reason
        The reason why a new dataset was not mirrored yet, or an empty text.
    pending_files
        Number of files without sha256, and of components without checksum, for which upstream
        will compute one.
    unfinished_components
        Local ids of the components that are still being written upstream, in any version.
    refused_count
        Number of objects that upstream refuses to serve.
    exception_count
        Number of entries that are listed upstream but not mirrored.
    earlier_state_count
        Number of earlier states that upstream listed.
    new_component_states
        Number of new states of components.
    comparison_scope
        The part of the dataset that was compared; empty if all of it was.
    """

    new_labels: list[str] = field(default_factory=list)
    hold_messages: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    known_incidents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waiting_reason: str = ""
    pending_files: int = 0
    unfinished_components: frozenset[str] = frozenset()
    refused_count: int = 0
    exception_count: int = 0
    earlier_state_count: int = 0
    new_component_states: int = 0
    comparison_scope: str = ""
