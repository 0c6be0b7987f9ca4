"""A keyring in a file, with the entry that the ``dandi`` client writes."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

INSTANCE = "canary-instance"
SERVICE = f"dandi-api-{INSTANCE}"

_STORE = """
import sys
from dandi.dandiapi import DandiAPIClient
from dandi.keyring_utils import keyring_save
from dandi.utils import DandiInstance
client = DandiAPIClient(dandi_instance=DandiInstance(sys.argv[1], None, "http://127.0.0.1:1/api"))
keyring_save(client._get_keyring_ids()[1], "key", sys.stdin.read())
"""


def keyring_environment(home: Path) -> dict[str, str]:
    """Return the variables that select a keyring in a file of a home folder."""
    return {
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        "XDG_DATA_HOME": str(home / "data"),
    }


def store_in_keyring(home: Path, token: str) -> dict[str, str]:
    """Store a token as ``dandi`` does; return the variables that select the keyring."""
    for name, content in _keyring_files(token).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return keyring_environment(home)


@cache
def _keyring_files(token: str) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        subprocess.run(
            [sys.executable, "-c", _STORE, INSTANCE],
            input=token,
            env={**os.environ, **keyring_environment(home)},
            text=True,
            check=True,
            capture_output=True,
        )
        data = (path for path in (home / "data").rglob("*") if path.is_file())
        return {str(path.relative_to(home)): path.read_bytes() for path in data}


class LockedKeyring(KeyringBackend):
    """A keyring that is locked; ``questions`` counts how often it was asked."""

    priority = 9.0  # type: ignore[assignment]
    questions = 0

    def get_password(self, service: str, username: str) -> str | None:
        type(self).questions += 1
        raise KeyringLocked("canary detail")

    def set_password(self, service: str, username: str, password: str) -> None:
        raise KeyringLocked

    def delete_password(self, service: str, username: str) -> None:
        raise KeyringLocked


class EmptyKeyring(LockedKeyring):
    """A keyring without entries."""

    def get_password(self, service: str, username: str) -> str | None:
        type(self).questions += 1
        return None
