"""The outcome of a visit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class VisitOutcome:
    """The versions that a visit published, and the problems it found.

    Attributes
    ----------
    new_labels
        Labels of the new versions.
    hold_messages
        Held listings.
    incidents
        New incidents, and lasting ones that still need a decision.
    known_incidents
        Incidents with published versions that an earlier visit recorded; they are reported, but do
        not make the run fail.
    problems
        Components and files that could not be mirrored as they are upstream.
    waiting_reason
        Why a new dataset was not mirrored yet.
    pending_files
        Files without sha256, and components without checksum, that upstream will complete.
    unfinished_components
        Local ids of the components that are still being written upstream, in any version.
    refused_count
        Objects that upstream refuses to serve.
    exception_count
        Entries that are listed upstream but not mirrored.
    earlier_state_count
        Earlier states that upstream listed.
    new_component_states
        New states of components.
    comparison_scope
        The part that was compared, if it was not everything.
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
