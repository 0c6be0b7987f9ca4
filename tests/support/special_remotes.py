"""Vaults in special remotes, and one of git-annex that keeps each content as a file of a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from neuromirror.config.vault_files import load_vault
from neuromirror.vault.special_remote import SpecialRemoteVault

_PROGRAM = r"""#!/bin/sh
# a shell, because git-annex starts this program for each command, several times
echo VERSION 1
while read -r request word key path; do
    case $request in
    INITREMOTE | PREPARE)
        echo GETCONFIG folder
        read -r _ folder
        echo "$request-SUCCESS" ;;
    TRANSFER)
        set -- "$folder/$key" "$path"
        if [ "$word" = STORE ]; then set -- "$path" "$folder/$key"; fi
        if [ ! -d "$folder/$key" ] && cp "$1" "$2"; then
            echo TRANSFER-SUCCESS "$word" "$key"
        else
            echo TRANSFER-FAILURE "$word" "$key" failed
        fi ;;
    CHECKPRESENT)
        if [ -e "$folder/$word" ]; then echo CHECKPRESENT-SUCCESS "$word"
        elif [ -d "$folder" ]; then echo CHECKPRESENT-FAILURE "$word"
        elif [ -e "$folder.unknown" ]; then echo CHECKPRESENT-UNKNOWN "$word" no server
        else echo CHECKPRESENT-FAILURE "$word"
        fi ;;
    REMOVE)
        rm -f "$folder/$word"
        echo REMOVE-SUCCESS "$word" ;;
    *) echo UNSUPPORTED-REQUEST ;;
    esac
done
"""


def install_folder_remote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the program ``git-annex-remote-folder`` on the PATH."""
    folder.mkdir()
    path = folder / "git-annex-remote-folder"
    path.write_text(_PROGRAM)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def folder_remote(folder: Path) -> dict[str, str]:
    """Return the options of a special remote that keeps contents in a folder.

    If the folder is missing, the remote replies about any content that it is missing, as rsync
    does; if there is a file ``<folder>.unknown``, that it cannot know it, as WebDAV and rclone do.
    """
    return {"externaltype": "folder", "folder": str(folder)}


def special_remote_vault(
    folder: Path, kind: str = "directory", /, *, read_only: bool = False, **options: str
) -> SpecialRemoteVault:
    """Set up a vault in a special remote; without options, in the folder ``folder / "remote"``."""
    (folder / "remote").mkdir(exist_ok=True)
    given = options or {"directory": str(folder / "remote")}
    (folder / "vaults").mkdir(exist_ok=True)
    path = folder / "vaults" / "tape.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in given.items())
    settings = f'kind = "special-remote"\ntype = "{kind}"\nread_only = {str(read_only).lower()}\n'
    path.write_text(f"{settings}[options]\n{lines}")
    return SpecialRemoteVault(load_vault(path), folder / "private" / "tape.git", create=True)


def prepared_special_remote() -> Path:
    """Return a folder in which :func:`special_remote_vault` has set up an empty vault.

    It is the same folder in all tests of a process, because the UUID of the vault depends on it.
    """
    template = _template()
    folder = template.with_name("prepared")
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)
    return Path(shutil.copytree(template, folder, symlinks=True))


def prepared_repository() -> Path:
    """Return the private repository of this vault, as on another machine; it is not changed."""
    return _template() / "private" / "tape.git"


@cache
def _template() -> Path:
    base = Path(tempfile.mkdtemp(prefix="special-remote-"))
    folder = base / "prepared"
    folder.mkdir()
    special_remote_vault(folder)
    return folder.rename(base / "template")
