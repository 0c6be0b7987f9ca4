"""How a visit can end other than well."""

from __future__ import annotations

from neuromirror.model import NeuromirrorError
from neuromirror.sources import ListingNotProven


class Held(NeuromirrorError):
    """A listing waits for an operator."""

    exit_code = 3


class Incident(NeuromirrorError):
    """Upstream shows other bytes under an id that should never change; the old state is kept."""


__all__ = ["Held", "Incident", "ListingNotProven"]
