"""Vaults and keys for tests."""

import hashlib
from pathlib import Path

from neuromirror.annex import sha256e_key
from neuromirror.config.vault_files import VaultConfig, load_vault
from neuromirror.index.ledger import Ledger, Wish
from neuromirror.vault.directory import DirectoryVault

VAULT_UUID = "6b2c1d1e-5f0a-4c57-9f3e-0d9a3c1b7e42"
OTHER_UUID = "0d4f5a7c-91b3-4e0e-8a52-3f6c7b8d9e10"
"""UUIDs of vaults that need not exist."""

CONTENTS = [b"content %d" % number for number in range(5)]
"""Contents for :func:`filled`."""


def key_of(content: bytes, name: str = "data.bin") -> str:
    """Return the annex key of a content."""
    return sha256e_key(len(content), hashlib.sha256(content).hexdigest(), name)


KEYS = [key_of(content) for content in CONTENTS]
"""Their annex keys."""


def write_vault(folder: Path, name: str = "nas", **settings: object) -> VaultConfig:
    """Write a vault file, for a directory vault beside it unless ``settings`` say otherwise."""
    folder.mkdir(exist_ok=True)
    settings = settings or {"kind": "directory", "path": str(folder.parent / f"vault-{name}")}
    lines = (
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
        for key, value in settings.items()
    )
    path = folder / f"{name}.toml"
    path.write_text("".join(lines))
    return load_vault(path)


def directory_vault(folder: Path, name: str = "nas", **more: object) -> DirectoryVault:
    """Create a directory vault in a folder."""
    path = folder / f"vault-{name}"
    config = write_vault(folder / "vaults", name, kind="directory", path=str(path), **more)
    return DirectoryVault(config, path, create=True)


def put(vault: DirectoryVault, folder: Path, content: bytes) -> str:
    """Store a content in a vault; return its key."""
    key = key_of(content)
    path = folder / "source"
    path.write_bytes(content)
    vault.store(key, path)
    return key


def filled(folder: Path, ledger: Ledger, name: str, wish: bool = True) -> DirectoryVault:
    """Return a vault with all contents, which a wish names."""
    vault = directory_vault(folder, name)
    ledger.add_vault(vault.uuid, name, "directory")
    for content, key in zip(CONTENTS, KEYS, strict=True):
        path = folder / "source"
        path.write_bytes(content)
        ledger.record(vault.uuid, [vault.store(key, path)])
    if wish:
        ledger.wishes.put(Wish("lock", "p.lock", vault.uuid), [(key, None) for key in KEYS])
    return vault
