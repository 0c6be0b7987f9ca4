"""A HOME of its own and a git identity, without the variables of the user."""

import os
import sys
from pathlib import Path

import pytest

_BIN = Path(sys.executable).parent


def isolate_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, may_use_loopback: bool = True
) -> Path:
    """Create a HOME and a git identity, and put the environment's programs first on PATH.

    ``may_use_loopback`` tells git-annex and neuromirror that archives may be on this machine.
    """
    home.mkdir(mode=0o700)
    config = home / ".gitconfig"
    config.write_text(
        "[user]\n\tname = Test\n\temail = test@example.invalid\n"
        "[init]\n\tdefaultBranch = main\n"
        f'[annex "security"]\n\tallowed-ip-addresses = {"127.0.0.1 ::1" * may_use_loopback}\n'
        # DataLad has git-annex repeat a failed transfer three times
        "[annex]\n\tretry-delay = 0\n"
        "[safe]\n\tdirectory = *\n"
    )
    for name in list(os.environ):
        if name.startswith(("GIT_", "DATALAD_", "DANDI_", "NEUROMIRROR_", "AWS_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    # the same message of git wherever the temporary folder is, also on a file system of its own
    monkeypatch.setenv("GIT_DISCOVERY_ACROSS_FILESYSTEM", "1")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("DANDI_NO_ET", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("PATH", f"{_BIN}{os.pathsep}{os.environ['PATH']}")
    return home
