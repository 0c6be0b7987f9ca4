"""Serves a dandiset of files of 64 KiB until it is ended: arguments are ``FOLDER FILES``.

It is the demo archive, whose API and bucket do what real ones do but for the signatures. The
addresses are printed as one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from pathlib import Path
from typing import Final

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description

DANDISET: Final = "000009"
SMALL: Final = 64 << 10
_PER_FOLDER: Final = 100


def main(folder: Path, files: int) -> None:
    """Fill the archive, publish the dandiset, and serve."""
    noise = random.Random(files)
    with DemoArchive(folder, empty=True) as archive:
        made = archive.create_dandiset(Description("Files of 64 KiB"), identifier=DANDISET)
        for number in range(files):
            path = f"sub-{number // _PER_FOLDER:03d}/file-{number:05d}.nwb"
            archive.add_file(made, path, noise.randbytes(SMALL))
        version = archive.publish(made)
        print(json.dumps({**archive.addresses(), "version": version}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
