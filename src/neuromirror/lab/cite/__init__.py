"""Citations of mirrored versions: upstream's authors, title, DOI and license, and the exact state.

:func:`read_work` reads the metadata from git alone; :func:`cite` writes it in one of
:data:`FORMATS`, with the same bytes at any time and place. No DOI is created: a state is identified
by its SWHID and its state digest.
"""

from __future__ import annotations

from neuromirror.lab.cite.documents import read_work
from neuromirror.lab.cite.formats import FORMATS, cite, write_citation
from neuromirror.lab.cite.states import state_of_clone, state_of_version, states_of_lock
from neuromirror.lab.cite.works import CitationCollection, CitedState, CitedWork

__all__ = ["FORMATS", "CitationCollection", "CitedState", "CitedWork", "cite", "read_work"]
__all__ += ["state_of_clone", "state_of_version", "states_of_lock", "write_citation"]
