"""A vault in a special remote of git-annex: rsync, rclone, WebDAV, ORA and others.

git-annex transfers everything, from and to a private bare repository that has the configuration of
the special remote. A content is in that repository only while it is transferred.

The special remote also has a small content named by the UUID of the vault. Not all types of special
remotes distinguish a missing content from a server that does not respond: a content is missing only
if this one is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from neuromirror.annex import hash_lower, key_file_name, parse_key, sha256e_key
from neuromirror.config.vault_files import SpecialRemoteVaultFile, VaultConfig
from neuromirror.git import git_environment
from neuromirror.index.ledger_rows import Stored
from neuromirror.model import ConfigurationError
from neuromirror.net import redact
from neuromirror.store import file_lock
from neuromirror.store.durable_files import make_folder
from neuromirror.vault.errors import (
    CopyMissingError,
    CopyRefusedError,
    VaultReadOnlyError,
    VaultUnavailableError,
)
from neuromirror.vault.object_files import (
    PARTIAL_PREFIX,
    move_object,
    remove_object,
    remove_old_partials,
)
from neuromirror.vault.protocol import Presence, Vault

_READY: Final = "neuromirror-ready"
"""File with the UUID of the vault that is set up, and whether the marker was stored."""
_LOCK_WAIT: Final = 120.0
_BLOCK: Final = 1 << 20
_MAX_FAILURES: Final = 4
"""Consecutive transfers that fail before the vault counts as unavailable."""
_IDENTITY: Final = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "neuromirror"), ("EMAIL", "vault@neuromirror.invalid"))
}


class SpecialRemoteVault(Vault):
    """A vault in a special remote. Thread-safe.

    Parameters
    ----------
    config
        The configured vault.
    folder
        The private repository.
    create
        Whether to set up the special remote, unless the repository has it.

    Attributes
    ----------
    config
        The configured vault.
    uuid
        The git-annex UUID of the vault, computed from its type and options.

    Raises
    ------
    VaultUnavailableError
        The special remote is not set up with the type and the options, or cannot be.
    ConfigurationError
        Its contents would be encrypted.
    """

    def __init__(self, config: VaultConfig, folder: Path, *, create: bool = False) -> None:
        assert isinstance(config.settings, SpecialRemoteVaultFile)
        self.config = config
        self._settings = config.settings
        self._folder = folder
        self._options = _all_options(config.settings)
        if self._options["encryption"] != "none":
            raise ConfigurationError(
                f"{config.path}: encryption: the cipher would be in this machine's private "
                "repository only; use 'none'"
            )
        self.uuid = _uuid_of(config.settings)
        self._lock = threading.Lock()
        self._failures = 0
        self._marker = f"neuromirror vault {self.uuid}\n".encode()
        digest = hashlib.sha256(self._marker).hexdigest()
        self._marker_key = sha256e_key(len(self._marker), digest, "vault.txt")
        if create:
            self._set_up()
            remove_old_partials(folder / "annex" / "tmp")
        elif not self._read_progress():
            raise VaultUnavailableError(
                f"vault {config.name}: its special remote is not set up on this machine with this "
                "type and these options; 'neuromirror keep' does it"
            )

    @property
    def has_listing(self) -> bool:
        """False: special remotes cannot list their contents."""
        return False

    def remote_config(self) -> dict[str, str]:
        """Return the configuration with which ``git annex enableremote`` sets it up in clones.

        Returns
        -------
        dict[str, str]
            The type and the options. Clones do not enable it automatically: it may run programs.
        """
        return {**self._options, "name": self.config.name, "type": self._settings.type}

    def presence(self, keys: Sequence[str]) -> Iterator[Presence]:
        """Yield what the special remote states about contents; missing ones are checked twice.

        Parameters
        ----------
        keys
            Annex keys.

        Yields
        ------
        Presence
            One per key, in order; the size is that in the key.

        Raises
        ------
        VaultUnavailableError
            The special remote does not respond.
        """
        found = self._find(keys)
        if absent := [key for key in keys if key not in found]:
            # git-annex reports a failed check as a missing key
            found |= self._find(absent)
            self._check_marker()
        for key in keys:
            yield Presence(key, (parse_key(key).size or 0) if key in found else None, "git-annex")

    def _find(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that the special remote has; others are missing or were not checked."""
        if not keys:
            return set()
        command = ["checkpresentkey", "--batch", self.config.name]
        done = self._run(*command, input="".join(f"{key}\n" for key in keys))
        replies = done.stdout.split()
        if len(replies) != len(keys):
            raise self._unavailable(done.stderr)
        return {key for key, reply in zip(keys, replies, strict=True) if reply == "1"}

    def _check_marker(self) -> None:
        """Raise an error unless the special remote has the content that all vaults have."""
        done = self._run("checkpresentkey", self._marker_key, self.config.name)
        if done.returncode:
            raise self._unavailable(
                done.stderr
                or "it cannot be reached, its disk is not mounted, or it was emptied: it does not "
                f"have {self._marker_key}"
            )

    def store(self, key: str, path: Path) -> Stored:
        """Store the content of a file, which the caller has verified with the key.

        Parameters
        ----------
        key
            The annex key.
        path
            The file; it is not changed.

        Returns
        -------
        Stored
            The content, which git-annex found in the special remote afterwards.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        CopyRefusedError
            git-annex could not store the content.
        """
        self._refuse_read_only()
        with self._partial(key) as partial:
            shutil.copyfile(path, partial)
            return self._send(key, partial)

    def store_bytes(self, key: str, content: memoryview) -> Stored:
        """Store a content that is in memory, and which the caller has verified with the key.

        Parameters
        ----------
        key
            The annex key.
        content
            The bytes.

        Returns
        -------
        Stored
            As for :meth:`store`, which raises the same errors.
        """
        self._refuse_read_only()
        with self._partial(key) as partial:
            partial.write_bytes(content)
            return self._send(key, partial)

    @contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        """Provide the path of a temporary file; report that it cannot be written."""
        partial = self._folder / "annex" / "tmp" / f"{PARTIAL_PREFIX}{uuid.uuid4()}"
        try:
            yield partial
        except OSError as error:
            raise self._refused(key, str(error)) from error
        finally:
            partial.unlink(missing_ok=True)

    def _send(self, key: str, partial: Path) -> Stored:
        size = partial.stat().st_size
        # git-annex does not send a content whose key the special remote has
        if self._run("checkpresentkey", key, self.config.name).returncode == 0:
            if self._has_bytes(key, partial):
                return Stored(key, size, "full-read")
            self.remove(key)
        partial.chmod(0o444)
        move_object(os.fsencode(partial), self._object_path(key))
        try:
            done = self._run("copy", f"--key={key}", f"--to={self.config.name}")
        finally:
            remove_object(self._object_path(key))
        if done.returncode:
            raise self._refused(key, done.stdout + done.stderr)
        (found,) = self.presence([key])
        if found.size is None:
            raise self._refused(key, "it is missing after it was stored")
        self._reset_failures()
        return Stored(key, size, "git-annex")

    def _has_bytes(self, key: str, partial: Path) -> bool:
        """Return whether the special remote has the bytes of a file under a key."""
        try:
            with self.open(key) as stored, partial.open("rb") as file:
                while block := file.read(_BLOCK):
                    if stored.read(len(block)) != block:
                        return False
                return not stored.read(1)
        except CopyMissingError:
            return False

    def open(self, key: str) -> BinaryIO:
        """Download a content and open it; close it after use.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        BinaryIO
            The bytes, which are not verified.

        Raises
        ------
        CopyMissingError
            The vault does not have it.
        CopyRefusedError
            git-annex could not download it.
        """
        # 'get' does nothing unless the content was stored from this machine
        done = self._run("transferkey", key, f"--from={self.config.name}")
        path = self._object_path(key)
        try:
            file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            (found,) = self.presence([key])
            if found.size is None:
                raise CopyMissingError(f"vault {self.config.name}: no content of {key}") from None
            raise self._refused(key, done.stderr) from None
        self._reset_failures()
        # the open file keeps its bytes
        remove_object(path)
        return cast(BinaryIO, file)

    def remove(self, key: str) -> None:
        """Remove a content; it is no error if the vault does not have it.

        Parameters
        ----------
        key
            The annex key.

        Raises
        ------
        CopyRefusedError
            git-annex could not remove it.
        """
        self._refuse_read_only()
        self._run("setpresentkey", key, self.uuid, "1")
        done = self._run("drop", "--force", f"--key={key}", f"--from={self.config.name}")
        if done.returncode:
            raise self._refused(key, done.stdout + done.stderr)

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield the annex key and the size of the contents that were stored from this machine."""
        done = self._run("findkeys", f"--in={self.config.name}")
        if done.returncode:
            raise self._unavailable(done.stderr)
        for one in self.presence(done.stdout.split()):
            if one.size is not None and one.key != self._marker_key:
                yield one.key, one.size

    def check_access(self, *, write: bool = False) -> None:
        """Raise an error that states why the vault cannot be used.

        Parameters
        ----------
        write
            Whether it is to be written.

        Raises
        ------
        VaultUnavailableError
            git-annex is not installed, or the special remote does not respond.
        VaultReadOnlyError
            It is to be written, and the configuration forbids it.
        """
        if write:
            self._refuse_read_only()
        self._check_program()
        self._check_marker()

    def _refuse_read_only(self) -> None:
        if self.config.settings.read_only:
            raise VaultReadOnlyError(f"{self.config.path}: the vault is read-only")

    def _check_program(self) -> None:
        if shutil.which("git-annex") is None:
            raise VaultUnavailableError(
                f"vault {self.config.name}: git-annex is not installed; pip install git-annex"
            )

    def _set_up(self) -> None:
        self._check_program()
        make_folder(self._folder.parent)
        lock = self._folder.with_name(f".{self._folder.name}.lock")
        with file_lock(lock, f"the vault {self.config.name}", _LOCK_WAIT):
            progress = self._read_progress()
            if not progress:
                self._init_repository()
                self._write_progress("configured")
            if progress != "marked" and not self._settings.read_only:
                self._store_marker()
                self._write_progress("marked")

    def _read_progress(self) -> str:
        """Return ``configured`` or ``marked``; empty if not set up with this type and options."""
        try:
            named, _, progress = (self._folder / _READY).read_text("utf-8").partition(" ")
        except FileNotFoundError:
            return ""
        return progress if named == self.uuid else ""

    def _write_progress(self, progress: str) -> None:
        (self._folder / _READY).write_text(f"{self.uuid} {progress}", "utf-8")

    def _init_repository(self) -> None:
        """Create the private repository, and set up the special remote in it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        for command in (
            ("git", "init", "-q", "--bare", str(self._folder)),
            ("git", "annex", "init", "-q", "neuromirror"),
            # bytes are verified here, so that wrong ones can be reported
            ("git", "config", "annex.verify", "false"),
            ("git", "annex", "initremote", "-q", *initremote_arguments(self.config)),
        ):
            done = self._start(command)
            if done.returncode:
                raise self._unavailable(done.stderr)
        make_folder(self._folder / "annex" / "tmp")

    def _store_marker(self) -> None:
        try:
            self.store_bytes(self._marker_key, memoryview(self._marker))
        except CopyRefusedError as error:
            raise VaultUnavailableError(str(error)) from None

    def _run(self, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        return self._start(("git", "annex", *arguments), input)

    def _start(self, command: Iterable[str], input: str = "") -> subprocess.CompletedProcess[str]:
        environment = git_environment(self._folder, fetch_missing=True, credentials=True)
        return subprocess.run(
            list(command),
            cwd=self._folder,
            env={**environment, **_IDENTITY},
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    def _object_path(self, key: str) -> bytes:
        name = key_file_name(key)
        folder = os.fsencode(self._folder / "annex" / "objects")
        return b"/".join((folder, hash_lower(key), name, name))

    def _reset_failures(self) -> None:
        with self._lock:
            self._failures = 0

    def _refused(self, key: str, why: str) -> CopyRefusedError | VaultUnavailableError:
        """Return the error of one content; after several in a row, that of the whole vault."""
        with self._lock:
            self._failures += 1
            if self._failures >= _MAX_FAILURES:
                return self._unavailable(why)
        return CopyRefusedError(f"vault {self.config.name}: {key}: {_one_line(why)}")

    def _unavailable(self, why: str) -> VaultUnavailableError:
        return VaultUnavailableError(
            f"vault {self.config.name}: git-annex cannot use the special remote: {_one_line(why)}"
        )


def initremote_arguments(config: VaultConfig) -> list[str]:
    """Return the arguments of ``git annex initremote`` that set up the special remote of a vault.

    Parameters
    ----------
    config
        The configured vault.

    Returns
    -------
    list of str
        The name, the type, the options and the UUID.
    """
    settings = config.settings
    assert isinstance(settings, SpecialRemoteVaultFile)
    options = [f"{option}={value}" for option, value in _all_options(settings).items()]
    return [config.name, f"type={settings.type}", *options, f"uuid={_uuid_of(settings)}"]


def _all_options(settings: SpecialRemoteVaultFile) -> dict[str, str]:
    return {"encryption": "none", **settings.options}


def _uuid_of(settings: SpecialRemoteVaultFile) -> str:
    named = json.dumps([settings.type, _all_options(settings)], sort_keys=True)
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"neuromirror-vault:{named}"))


def _one_line(text: Any) -> str:
    return redact(" ".join(str(text).split())[-600:]) or "no reason given"
