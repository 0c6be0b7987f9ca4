"""A special remote of git-annex that keeps each content as a file of a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import pytest

_PROGRAM = """#!{python}
import os, shutil, sys

def send(*words):
    print(*words, flush=True)

def config(name):
    send("GETCONFIG", name)
    return sys.stdin.readline().rstrip("\\n").removeprefix("VALUE ")

send("VERSION 1")
for line in sys.stdin:
    request, *words = line.rstrip("\\n").split(" ", 3)
    if request in ("INITREMOTE", "PREPARE"):
        folder, unreachable = config("folder"), config("unreachable")
        send(request + "-SUCCESS")
    elif request == "TRANSFER":
        direction, key, path = words
        stored = os.path.join(folder, key)
        try:
            shutil.copyfile(*((path, stored) if direction == "STORE" else (stored, path)))
            send("TRANSFER-SUCCESS", direction, key)
        except OSError as error:
            send("TRANSFER-FAILURE", direction, key, error.strerror)
    elif request == "CHECKPRESENT":
        if os.path.exists(os.path.join(folder, words[0])):
            send("CHECKPRESENT-SUCCESS", words[0])
        elif os.path.isdir(folder):
            send("CHECKPRESENT-FAILURE", words[0])
        else:
            send("CHECKPRESENT-" + unreachable, words[0], *["no server"][unreachable == "FAILURE":])
    elif request == "REMOVE":
        try:
            os.unlink(os.path.join(folder, words[0]))
        except FileNotFoundError:
            pass
        send("REMOVE-SUCCESS", words[0])
    else:
        send("UNSUPPORTED-REQUEST")
"""


def install_folder_remote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the program ``git-annex-remote-folder`` on the PATH."""
    folder.mkdir()
    path = folder / "git-annex-remote-folder"
    path.write_text(_PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def folder_remote(folder: Path, unreachable: Literal["FAILURE", "UNKNOWN"]) -> dict[str, str]:
    """Return the options of a special remote.

    Parameters
    ----------
    folder
        Where it keeps contents.
    unreachable
        What it replies about any content if the folder is missing: FAILURE (the content is missing)
        as rsync does, UNKNOWN as WebDAV and rclone do.
    """
    return {"externaltype": "folder", "folder": str(folder), "unreachable": unreachable}
