"""Where downloads for a vault are written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from neuromirror.annex import key_file_name
from neuromirror.index.ledger_rows import Stored
from neuromirror.store.durable_files import make_folder
from neuromirror.transfer.annex_objects import AnnexObjectStore
from neuromirror.vault.directory import DISK_RESERVE, DirectoryVault
from neuromirror.vault.protocol import Vault


class UploadSink(AnnexObjectStore):
    """Uploads verified content to a vault; content that is too large for memory has a file first.

    Parameters
    ----------
    vault
        The vault.
    folder
        The folder for these files. The next run resumes incomplete ones.
    """

    def __init__(self, vault: Vault, folder: Path) -> None:
        super().__init__(_UploadFolder(folder))
        self._vault = vault
        self._folder = folder
        self.stored: dict[str, Stored] = {}

    def put(self, key: str, content: memoryview) -> None:
        """Upload verified content that is completely in memory."""
        self.stored[key] = self._vault.store_bytes(key, content)

    def finish_partial(self, key: str, file: int) -> None:
        """Upload content that is complete and verified, and delete its file."""
        path = self._folder / "tmp" / os.fsdecode(key_file_name(key))
        self.stored[key] = self._vault.store(key, path)
        self.discard_partial(key)


class _UploadFolder(Struct):
    annex_dir: Path
    disk_reserve: int = DISK_RESERVE

    def object_paths(self, key: str) -> Sequence[bytes]:
        return ()

    def find_object(self, key: str) -> bytes | None:
        return None


@contextmanager
def open_sink(vault: Vault, uploads: Path) -> Iterator[AnnexObjectStore]:
    """Provide the sink for downloads into a vault.

    Parameters
    ----------
    vault
        The vault.
    uploads
        The folder for content that has to be uploaded.

    Yields
    ------
    AnnexObjectStore
        The object directory of a directory vault, else an :class:`UploadSink`.
    """
    if isinstance(vault, DirectoryVault):
        with AnnexObjectStore(vault, bypass_page_cache=True) as store:
            yield store
        return
    folder = uploads / vault.uuid
    make_folder(folder, durable=False)
    with UploadSink(vault, folder) as sink:
        yield sink
