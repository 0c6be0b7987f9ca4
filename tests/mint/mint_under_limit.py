"""Mint with less and less free disk space; print the outcome of each attempt.

Usage: mint_under_limit.py REPOSITORY SCRATCH SHARED, with SHARED files to a key. The limit is on
the size of a file: a write that would go beyond is cut short, and the next one fails, as on a disk
that is full.
"""

import json
import resource
import shutil
import sys
from pathlib import Path

from neuromirror.mint import ParentCommits, Snapshot, mint
from support.mint_oracle import header, placed_files, record


def main() -> None:
    repository, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    shared = int(sys.argv[3])
    files = placed_files(
        {b"f%03d" % n: record(b"f%03d" % n, n // shared, (0, 1)) for n in range(60)}
    )
    snapshot = Snapshot(header(), lambda: iter(files))

    def attempt(limit: int) -> dict[str, object]:
        scratch.mkdir(exist_ok=True)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            minted = mint(snapshot, repository, ParentCommits(), lambda state: "x", scratch)
        except OSError as error:
            left = [path.name for path in scratch.iterdir()]
            return {"limit": limit, "error": type(error).__name__, "left": left}
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        (made,) = minted.packs
        sizes = [path.stat().st_size for path in (made.pack, made.index)]
        shutil.rmtree(scratch)
        return {"limit": limit, "name": made.name, "sizes": sizes}

    whole = attempt(1 << 30)
    pack, index = whole["sizes"]  # type: ignore[misc]
    limits = {*range(0, 2000, 101), *range(pack - 40, pack + 3, 3)}
    limits |= set(range(index - 45, index + 3, 3))
    limits |= set(range(0, pack, 1701))
    limits.add(2 * max(pack, index))
    tries = [attempt(limit) for limit in sorted(limits)]
    sys.stdout.write(json.dumps({"whole": whole, "tries": tries}))


if __name__ == "__main__":
    main()
