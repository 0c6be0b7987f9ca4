"""The program ``git-annex-remote-neuromirror``: blocks of volumes, and files that need a token.

It implements git-annex's external special remote protocol. git-annex starts one process per job.
"""

from __future__ import annotations

import sys
from contextlib import suppress

_MISSING = "git-annex-remote-neuromirror needs the package annexremote: pip install annexremote"


def main() -> None:
    """Run the special remote: answer git-annex on stdin and stdout until stdin ends."""
    with suppress(ImportError, OSError, ValueError):  # a core dump would hold tokens
        import resource  # not on every system

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        from annexremote import Master  # type: ignore[import-untyped]
    except ImportError:
        # git-annex prints the text of an ERROR reply, but no traceback
        sys.stdout.write(f"VERSION 1\nERROR {_MISSING}\n")
        sys.exit(1)
    from neuromirror.volume.lazy_remote import LazyRemote

    master = Master(sys.stdout)
    master.LinkRemote(LazyRemote(master))
    try:
        master.Listen()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)


if __name__ == "__main__":
    main()
