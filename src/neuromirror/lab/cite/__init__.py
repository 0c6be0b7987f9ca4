"""Citations of mirrored versions: upstream's authors, title, DOI and license, and the exact state.

:func:`read_work` reads what is to be cited from git alone; :func:`cite` writes it in one of
:data:`FORMATS`, the same bytes whenever and wherever it is asked. Nobody is given a DOI: a state is
named by its SWHID and its state digest.
"""

from neuromirror.lab.cite.errors import (
    FormatUnfit,
    NotCitable,
    NothingToCite,
    OutputUnfit,
    StateNotHere,
)
from neuromirror.lab.cite.formats import FORMATS, Format, cite, write_citation
from neuromirror.lab.cite.reading import read_work
from neuromirror.lab.cite.states import state_of_clone, state_of_version, states_of_lock
from neuromirror.lab.cite.works import Collection, State, Work

__all__ = [
    "FORMATS",
    "Collection",
    "Format",
    "FormatUnfit",
    "NotCitable",
    "NothingToCite",
    "OutputUnfit",
    "State",
    "StateNotHere",
    "Work",
    "cite",
    "read_work",
    "state_of_clone",
    "state_of_version",
    "states_of_lock",
    "write_citation",
]
