"""Write files and folders that survive a crash of the machine, and that a web server can read.

A rename is durable only after an fsync of its folder. Modes do not depend on the umask, because the
store's files are served.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, BinaryIO

from neuromirror.model import NeuromirrorError

FOLDER_MODE = 0o755
FILE_MODE = 0o644
UMASK = 0o022


def make_folder(path: Path, *, durable: bool = True) -> None:
    """Create a folder and its missing parents; with ``durable``, fsync them."""
    if path.is_dir():
        return
    make_folder(path.parent, durable=durable)
    path.mkdir(exist_ok=True)
    path.chmod(FOLDER_MODE)
    if durable:
        fsync_path(path.parent)


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, mode: int = FILE_MODE
) -> None:
    """Write a small file by a rename, so that readers see the old or the new content.

    Parameters
    ----------
    path
        The file; it is created or replaced.
    content
        The whole new content.
    durable
        Whether to flush file and folder to disk. Without it, a crash of the machine may lose or
        truncate the file.
    mode
        The permissions of the file.
    """
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                finish_file(file, mode)
            else:
                os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    if durable:
        fsync_path(path.parent)


def copy_atomically(source: Path, target: Path, scratch: Path) -> None:
    """Copy a file by a rename, so that no reader and no crash sees a part of it.

    Parameters
    ----------
    source
        The file.
    target
        The copy; it is created, with its folder, or replaced.
    scratch
        A scratch folder on the disk of ``target``.
    """
    make_folder(target.parent)
    draft = scratch / target.name
    shutil.copyfile(source, draft)
    draft.chmod(FILE_MODE)
    fsync_path(draft)
    os.replace(draft, target)
    fsync_path(target.parent)


def finish_file(file: IO[bytes], mode: int = FILE_MODE) -> None:
    """Flush, chmod and fsync a file that is about to be renamed."""
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Fsync a file's content, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(root: Path) -> None:
    """Fsync a folder and everything in it."""
    for folder, _, files in os.walk(root):
        for name in files:
            fsync_path(Path(folder, name))
        fsync_path(Path(folder))


class NotARegularFileError(NeuromirrorError):
    """The path is a pipe, a socket or a device."""


def open_regular(path: Path | bytes) -> BinaryIO:
    """Open a regular file for reading; the caller closes it.

    Raises
    ------
    NotARegularFileError
        The path is not a regular file.
    OSError
        The file cannot be opened.
    """
    file = open(path, "rb", opener=_nonblocking_opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotARegularFileError(f"{os.fsdecode(path)} is not a regular file")
    return file


def _nonblocking_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


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
CORE_SETTINGS = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
CONFIG = CORE_SETTINGS + SETTINGS
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
        content = path.read_bytes() if path.exists() else CORE_SETTINGS.encode()
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
