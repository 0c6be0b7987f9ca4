"""A special remote of git-annex that keeps each content as a file of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
