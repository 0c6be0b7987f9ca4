"""SPDX ids of licenses, in any spelling."""

from __future__ import annotations

import re
from typing import Final

SPDX: Final = (
    *(f"CC-BY-{version}" for version in ("1.0", "2.0", "2.5", "3.0", "4.0")),
    *(
        f"CC-BY-{terms}-{version}"
        for terms in ("NC", "NC-ND", "NC-SA", "ND", "SA")
        for version in ("1.0", "2.0", "2.5", "3.0", "4.0")
    ),
    *("CC0-1.0", "CC-PDDC", "ODC-By-1.0", "ODbL-1.0", "PDDL-1.0", "CDLA-Permissive-1.0"),
    *("CDLA-Sharing-1.0", "OGL-UK-3.0", "etalab-2.0", "MIT", "Apache-2.0", "BSD-2-Clause"),
    *("BSD-3-Clause", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
    *("LGPL-3.0-only", "LGPL-3.0-or-later", "Unlicense"),
)
"""SPDX ids that are recognised in any spelling."""

_SPELLINGS: Final = {
    **{re.sub(r"[^a-z0-9.]", "", one.casefold()): one for one in SPDX},
    **{"cc0": "CC0-1.0", "odcby": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"},
}


def without_spdx_prefix(name: str) -> str:
    """Return the name of a license without ``spdx:``."""
    return name[5:].strip() if name[:5].casefold() == "spdx:" else name


def spdx_id(name: str) -> str | None:
    """Return the SPDX id in a name: ``spdx:CC-BY-4.0``, ``CC BY 4.0``; None for other licenses."""
    plain = without_spdx_prefix(name)
    known = _SPELLINGS.get(re.sub(r"[^a-z0-9.]", "", plain.casefold()))
    if known is None and plain != name and re.fullmatch(r"[A-Za-z0-9.+-]+", plain):
        return plain
    return known
