"""All targets; to import this module is to register them."""

import fuzz_annex
import fuzz_catalogue
import fuzz_cite
import fuzz_custody
import fuzz_documents
import fuzz_git
import fuzz_lab
import fuzz_model
import fuzz_net
import fuzz_previews
import fuzz_sources
import fuzz_volumes
import fuzz_web
from fuzz_core import TARGETS

__all__ = [
    "TARGETS",
    "fuzz_annex",
    "fuzz_catalogue",
    "fuzz_cite",
    "fuzz_custody",
    "fuzz_documents",
    "fuzz_git",
    "fuzz_lab",
    "fuzz_model",
    "fuzz_net",
    "fuzz_previews",
    "fuzz_sources",
    "fuzz_volumes",
    "fuzz_web",
]
