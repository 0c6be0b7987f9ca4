"""What a visit did, and what it met."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
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

    minted: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    waiting: str = ""
    upgraded: int = 0
    pending: int = 0
    writing: frozenset[str] = frozenset()
    refused: int = 0
    left_out: int = 0
    past: int = 0
    parts: int = 0
    checked: str = ""
