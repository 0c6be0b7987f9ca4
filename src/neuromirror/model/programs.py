"""Programs that neuromirror starts: how to install them, their limits and environment."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Iterable
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


def limit_resources(*, memory: int, file_bytes: int, seconds: int | None = None) -> None:
    """Limit what this process may use; it leaves no core dump.

    Parameters
    ----------
    memory
        The address space in bytes.
    file_bytes
        The size of a written file in bytes.
    seconds
        The CPU time in seconds; unlimited by default.
    """
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        **({} if seconds is None else {resource.RLIMIT_CPU: seconds}),
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


_SECRET_NAME: Final = re.compile(
    r"(?i)token|secret|passw|api_?key|credential|private_?key|access_key"
)
_declared: set[str] = set()


def declare_secrets(names: Iterable[str]) -> None:
    """Declare that variables contain credentials, so that :func:`is_secret` is true for them.

    Parameters
    ----------
    names
        Names of environment variables.
    """
    _declared.update(names)


def is_secret(name: str) -> bool:
    """Return whether a variable was declared a credential, or has the name of one.

    Parameters
    ----------
    name
        The name of an environment variable.

    Returns
    -------
    bool
        Whether its value is a credential.
    """
    return name in _declared or _SECRET_NAME.search(name) is not None


def environment_without_secrets() -> dict[str, str]:
    """Return the environment without credentials, for child processes that need none.

    Returns
    -------
    dict[str, str]
        A copy of the environment.
    """
    return {name: value for name, value in os.environ.items() if not is_secret(name)}
