"""What a visit did, and what it met."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class VisitOutcome:
    """What a visit did: labels it minted, problems it met, files still without sha256.

    ``writing`` are the parts that upstream says are still being written, by local id, of whichever
    version; ``refused`` the files
    that upstream refuses to be asked about. ``known`` are incidents with published versions that
    were raised by an earlier visit: nothing is left to do about them here, so they are told, but
    fail no further run. ``unproven`` are parts and files that could not be mirrored as upstream has
    them. ``waiting`` says why a new dataset was not mirrored yet; ``past`` counts the earlier
    states that upstream listed, and ``parts`` the new states of parts. ``checked`` says what was
    compared, where that was not everything.
    """

    new_labels: list[str] = field(default_factory=list)
    hold_messages: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    known_incidents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waiting_reason: str = ""
    upgraded_files: int = 0
    pending_files: int = 0
    unfinished_components: frozenset[str] = frozenset()
    refused_count: int = 0
    exception_count: int = 0
    earlier_state_count: int = 0
    new_component_states: int = 0
    comparison_scope: str = ""
