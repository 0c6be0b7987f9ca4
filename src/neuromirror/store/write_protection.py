"""Protect a repository against writers other than neuromirror.

git and git-annex run the hooks with a plain ``sh``, without neuromirror. The store's own writer
renames packs and ``packed-refs`` itself, so that no hook runs for it.

- ``pre-receive`` rejects every push with a message that names the alternative (githooks(5)).
- ``reference-transaction`` rejects every change of a ref by a local git or git-annex.
- ``pre-init-annex`` keeps git-annex from initializing the repository (git-annex(1)). Otherwise
  ``git annex sync`` in a clone would initialize a remote at a local path, write to its git-annex
  branch and copy content into it.
- ``receive.procReceiveRefs`` names a hook that does not exist: where a user's ``core.hooksPath``
  hides the hooks above, a push fails because this one is missing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from neuromirror.store.durable_files import FOLDER_MODE, make_folder, write_atomically

_NOTICE = """\
This repository is a mirror that only neuromirror writes to. Nothing was changed in it.
Keep your own work in a sibling of your own, for example:
    datalad create-sibling-ria -s lab --new-store-ok ria+file:///path/to/your/store
    datalad push --to lab
To get what is new in the mirror: datalad update --how merge"""

_REJECT_PUSH = f"""\
#!/bin/sh
# written by neuromirror
cat > /dev/null
cat >&2 <<'END'
{_NOTICE}
END
exit 1
"""
_REJECT_REF = """\
#!/bin/sh
# written by neuromirror
[ "$1" = prepared ] || exit 0
echo "This repository is a mirror that only neuromirror writes to: no ref was changed." >&2
exit 1
"""
_REJECT_ANNEX = """\
#!/bin/sh
# written by neuromirror
echo "The remote is a mirror that only neuromirror writes to: git-annex keeps nothing in it." >&2
exit 1
"""

HOOKS = {
    "pre-receive": _REJECT_PUSH,
    "reference-transaction": _REJECT_REF,
    "pre-init-annex": _REJECT_ANNEX,
}
SETTINGS = """\
[receive]
	procReceiveRefs = refs/
	denyDeletes = true
	denyNonFastForwards = true
	autogc = false
[gc]
	auto = 0
"""
_CORE = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
CONFIG = _CORE + SETTINGS
"""The whole configuration of a repository of the store."""


def protection_digest() -> str:
    """Return a digest of the hooks and settings that :func:`protect` writes.

    It identifies the version of the protection.
    """
    return hashlib.sha256(repr((HOOKS, SETTINGS)).encode()).hexdigest()


def is_protected(repository: Path) -> bool:
    """Return whether a repository has all hooks and settings that reject pushes."""
    return not any(_find_missing(repository))


def protect(repository: Path) -> bool:
    """Write the hooks and settings by which a repository rejects pushes, as far as it lacks them.

    Returns whether it lacked any.
    """
    hooks, settings = _find_missing(repository)
    if hooks:
        make_folder(repository / "hooks")
    for name in hooks:
        path = repository / "hooks" / name
        write_atomically(path, HOOKS[name].encode())
        path.chmod(FOLDER_MODE)
    if settings:
        path = repository / "config"
        # a killed repair may have moved the configuration away
        content = path.read_bytes() if path.exists() else _CORE.encode()
        # appended: git uses the last value, and other settings of the operator stay
        write_atomically(path, content + b"\n" * (not content.endswith(b"\n")) + SETTINGS.encode())
    return bool(hooks or settings)


def _find_missing(repository: Path) -> tuple[list[str], bool]:
    """Return the names of missing or changed hooks, and whether settings are missing."""
    hooks = []
    for name, content in HOOKS.items():
        path = repository / "hooks" / name
        try:
            same = path.read_text() == content and path.stat().st_mode & 0o100
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            hooks.append(name)
    try:
        settings = SETTINGS not in (repository / "config").read_text(errors="replace")
    except FileNotFoundError:
        settings = True
    return hooks, settings
