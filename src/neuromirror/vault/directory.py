"""A vault in a folder: a bare git-annex repository that all datasets share.

Plain git-annex reads it by its path and, if a web server serves the folder, by HTTP::

    <folder>/config                                annex.uuid
    <folder>/annex/objects/<abc>/<def>/KEY/KEY     a content
    <folder>/annex/tmp/                            content that is not complete
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from neuromirror.annex import directory_vault_config, hash_lower, key_file_name, key_from_file_name
from neuromirror.config.vault_files import DirectoryVaultFile, VaultConfig
from neuromirror.index.ledger import Stored
from neuromirror.model import ConfigurationError
from neuromirror.store import file_lock
from neuromirror.store.durable_files import NotARegularFileError, make_folder, open_regular
from neuromirror.store.repository import Repository
from neuromirror.vault.object_files import (
    PARTIAL_PREFIX,
    move_object,
    remove_object,
    remove_old_partials,
)
from neuromirror.vault.protocol import (
    CHANGED,
    ContentTest,
    CopyMissingError,
    CopyRefusedError,
    Presence,
    Vault,
    VaultFullError,
    VaultReadOnlyError,
    VaultUnavailableError,
    parse_uuid,
)

_CONFIG = "[annex]\n\tuuid = {uuid}\n\tversion = 10\n"
_LOCK_WAIT: Final = 30.0
_FICLONE: Final = 0x40049409
"""ioctl(2) of Linux: share the data of another file until one of them changes."""
_BLOCK: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
DISK_RESERVE: Final = 100_000_000
"""Bytes that stay free on the disk, as ``annex.diskreserve`` by default."""


class DirectoryVault(Vault):
    """A vault in a folder. Thread-safe.

    Attributes
    ----------
    config
        The configured vault.
    uuid
        The git-annex UUID of the vault.
    path
        The folder.
    annex_dir
        git-annex's directory in it.
    disk_reserve
        Bytes to leave free on the disk.

    Raises
    ------
    VaultUnavailableError
        The folder does not exist.
    ConfigurationError
        The folder has other files.
    """

    def __init__(self, config: VaultConfig, path: Path, *, create: bool = False) -> None:
        assert isinstance(config.settings, DirectoryVaultFile)
        self.config = config
        self.path = path
        self.annex_dir = path / "annex"
        self.disk_reserve = DISK_RESERVE
        self._url = config.settings.url
        self._objects = os.fsencode(self.annex_dir / "objects")
        if create and not config.settings.read_only:
            _create(path)
            remove_old_partials(self.annex_dir / "tmp")
        self.uuid = self._read_uuid()

    @property
    def is_checked_at_once(self) -> bool:
        """True: files are looked up, not requested."""
        return True

    def remote_config(self) -> dict[str, str]:
        """Return the parameters of the git-annex remote with which clones read the vault."""
        location = self._url or str(self.path.absolute())
        prefer = self.config.settings.prefer
        return directory_vault_config(self.config.name, location, prefer=prefer)

    def presence(self, keys: Sequence[str]) -> Iterator[Presence]:
        """Yield the sizes of the files of contents.

        Raises
        ------
        VaultUnavailableError
            The folder cannot be read.
        """
        for key in keys:
            try:
                size = os.stat(self.object_path(key)).st_size
            except (FileNotFoundError, NotADirectoryError):
                size = None
                if not os.path.isdir(self._objects):
                    self.check_access()
            except OSError as error:
                raise self._error(error) from error
            yield Presence(key, size, "listing")

    def store(self, key: str, path: Path, test: ContentTest | None = None) -> Stored:
        """Store the content of a file; the copy must pass the test before it gets its name.

        The data are shared with the file where the file system can do that, otherwise copied.

        Raises
        ------
        VaultFullError
            The disk is full.
        CopyRefusedError
            The file cannot be read or does not pass the test, or another user owns the folder of
            the content.
        """
        self.check_access(write=True)
        try:
            source = open(path, "rb")  # noqa: SIM115 - only errors of this file are caught
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            with source, self._new_file(key) as target:
                size = _copy(source, target)
                target.seek(0)
                if test is not None and not test(target):
                    raise CopyRefusedError(f"{path}: {CHANGED}")
        except OSError as error:
            raise self._error(error) from error
        return Stored(key, size, "full-read")

    def store_bytes(self, key: str, content: memoryview) -> Stored:
        """Store a content that is in memory, and which the caller has verified with the key.

        Raises
        ------
        VaultFullError
            The disk is full.
        CopyRefusedError
            Another user owns the folder of the content.
        """
        self.check_access(write=True)
        try:
            with self._new_file(key) as target:
                target.write(content)
        except OSError as error:
            raise self._error(error) from error
        return Stored(key, len(content), "full-read")

    def open(self, key: str) -> BinaryIO:
        """Open a content for reading; close it after use.

        Raises
        ------
        CopyMissingError
            The vault does not have it.
        CopyRefusedError
            A pipe or a device is in its place.
        """
        try:
            return open_regular(self.object_path(key))
        except NotARegularFileError as error:
            raise CopyRefusedError(f"vault {self.config.name}: {key}: {error}") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            self.check_access()
            raise CopyMissingError(f"vault {self.config.name}: no content of {key}") from error

    def remove(self, key: str) -> None:
        """Remove a content; it is no error if the vault does not have it.

        Raises
        ------
        CopyRefusedError
            The file cannot be removed, for example because another user stored it.
        """
        self.check_access(write=True)
        try:
            remove_object(self.object_path(key))
        except OSError as error:
            raise self._refused(key, "removed", error) from error

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield the annex key and the size in bytes of all contents.

        Raises
        ------
        VaultUnavailableError
            The folder cannot be read, also if that happens during the listing.
        """
        self.check_access()
        try:
            for first in _folders(self._objects):
                for second in _folders(first):
                    for folder in _folders(second):
                        name = os.path.basename(folder)
                        with suppress(FileNotFoundError, NotADirectoryError):
                            size = os.stat(folder + b"/" + name).st_size
                            yield key_from_file_name(name), size
        except OSError as error:
            raise self._error(error) from error
        # without its disk, the rest of the folder is not found either
        self.check_access()

    def check_access(self, *, write: bool = False) -> None:
        """Raise an error that states why the vault cannot be used.

        Raises
        ------
        VaultUnavailableError
            The folder is missing, is another vault or cannot be written.
        VaultReadOnlyError
            It is to be written, and the configuration forbids it.
        """
        if write and self.config.settings.read_only:
            raise VaultReadOnlyError(f"{self.config.path}: the vault is read-only")
        if self._read_uuid() != self.uuid:
            raise VaultUnavailableError(
                f"vault {self.config.name}: another vault is at {self.path}; is the right disk "
                "mounted?"
            )
        folder = self.annex_dir / ("tmp" if write else "objects")
        if not os.access(folder, os.X_OK | (os.W_OK if write else os.R_OK)):
            raise VaultUnavailableError(
                f"vault {self.config.name}: {folder} is missing or cannot be "
                f"{'written' if write else 'read'}; is its disk mounted?"
            )

    def flush(self) -> None:
        """Write everything that was stored to the disk.

        Raises
        ------
        VaultUnavailableError
            The folder is not that of the vault any more.
        """
        self.check_access()
        handle = os.open(self.annex_dir, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle):
                number = ctypes.get_errno()
                raise self._error(OSError(number, os.strerror(number), str(self.path)))
        except AttributeError:  # not Linux
            os.sync()
        finally:
            os.close(handle)

    def object_path(self, key: str) -> bytes:
        """Return the path of a content."""
        name = key_file_name(key)
        return b"/".join((self._objects, hash_lower(key), name, name))

    def object_paths(self, key: str) -> Sequence[bytes]:
        """Return the path of a content, as the only one that is possible."""
        return (self.object_path(key),)

    def find_object(self, key: str) -> bytes | None:
        """Return the path of a content, None if the vault does not have it."""
        path = self.object_path(key)
        return path if os.path.exists(path) else None

    @contextmanager
    def _new_file(self, key: str) -> Iterator[BinaryIO]:
        """Provide an empty file that becomes the content at the end of the block."""
        handle, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=self.annex_dir / "tmp")
        try:
            with os.fdopen(handle, "w+b") as target:
                yield target
                target.flush()
                os.fchmod(target.fileno(), 0o444)
            try:
                move_object(os.fsencode(name), self.object_path(key))
            except NotADirectoryError as error:
                raise self._refused(key, "stored", error) from error
            except PermissionError as error:
                if not os.access(self._objects, os.W_OK):
                    raise
                raise self._refused(key, "stored", error) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _read_uuid(self) -> str:
        try:
            for line in (self.path / "config").read_text("utf-8", "replace").splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "uuid":
                    text = value.strip()
                    if annex_uuid := parse_uuid(text):
                        return annex_uuid
                    raise ConfigurationError(
                        f"{self.path}: annex.uuid is {text[:80]!r}, which is not the UUID of a "
                        "repository; choose another folder"
                    )
        except OSError as error:
            raise VaultUnavailableError(
                f"vault {self.config.name}: there is no vault at {self.path} ({error.strerror}); "
                "is its disk mounted? 'neuromirror keep' creates a new vault"
            ) from error
        raise ConfigurationError(
            f"{self.path} is a git repository without annex.uuid; choose another folder"
        )

    def _refused(self, key: str, action: str, error: OSError) -> CopyRefusedError:
        return CopyRefusedError(
            f"vault {self.config.name}: {key} cannot be {action}: {error.strerror}; change the "
            f"owner or the permissions of {os.fsdecode(os.path.dirname(self.object_path(key)))}"
        )

    def _error(self, error: OSError) -> VaultFullError | VaultUnavailableError:
        if error.errno in _FULL:
            return VaultFullError(
                f"vault {self.config.name}: no space left at {self.path}; free some, or choose "
                "another vault"
            )
        return VaultUnavailableError(
            f"vault {self.config.name}: {error.filename or self.path}: {error.strerror}"
        )


def _create(path: Path) -> None:
    """Create the folder, complete under its name, unless it exists."""
    if not (path / "HEAD").exists():
        if path.is_dir() and any(path.iterdir()):
            raise ConfigurationError(f"{path} is not a vault and not empty; choose another folder")
        make_folder(path.parent)
        with file_lock(path.parent / f".{path.name}.lock", f"the vault {path}", _LOCK_WAIT):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            Repository(path).create(_CONFIG.format(uuid=uuid.uuid4()))
    for name in ("annex", "annex/objects", "annex/tmp"):
        make_folder(path / name)


def _folders(path: bytes) -> list[bytes]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _copy(source: BinaryIO, target: BinaryIO) -> int:
    """Share or copy the data of a file; return its size in bytes."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        while block := _read(source):
            target.write(block)
        target.flush()
    return os.fstat(target.fileno()).st_size


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(_BLOCK)
    except OSError as error:
        raise _unreadable(source.name, error) from error


def _unreadable(path: str | Path, error: OSError) -> CopyRefusedError:
    return CopyRefusedError(f"{path} cannot be read: {error.strerror}")
