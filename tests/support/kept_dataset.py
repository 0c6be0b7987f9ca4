"""A dataset whose content is in a vault, and whose upstream and store can be taken away."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from neuromirror.annex import directory_vault_config, parse_link_target
from neuromirror.mint import CustodyRemote
from neuromirror.model import DatasetRef, VersionMinted
from neuromirror.store import dataset_ref_of, publish_locations
from neuromirror_demo import DemoArchive
from support.dataset_clones import clone_dataset, fetch_content
from support.mirror_harness import MirrorHarness
from support.vaults import directory_vault

NAME = "demo:000002"
ALIAS = "demo--000002"
REMOTE = "vault-nas"


class KeptDataset:
    """A store with one dandiset, and a directory vault that has all of its contents.

    Parameters
    ----------
    folder
        An empty folder.
    cache
        Where the demo archive keeps generated files.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._upstream = ExitStack()
        archive = self._upstream.enter_context(DemoArchive(folder / "demo", cache=cache))
        self.harness = MirrorHarness(archive.mirrors, folder / "mirror" / "store")
        self.harness.sync(NAME)
        self.vault = directory_vault(folder)
        self.paths: dict[str, str] = {}
        self.contents: dict[str, bytes] = {}
        clone = fetch_content(clone_dataset(self.harness, NAME, folder / "first"))
        for path in sorted(clone.rglob("*")):
            if path.is_symlink() and (key := parse_link_target(os.fsencode(os.readlink(path)))):
                self.vault.store(key, path)
                self.paths[path.relative_to(clone).as_posix()] = key
                self.contents[path.relative_to(clone).as_posix()] = path.read_bytes()

    @property
    def dataset(self) -> DatasetRef:
        return dataset_ref_of(self.harness.entries(VersionMinted)[0])

    def publish(self, config: Mapping[str, str] | None = None) -> None:
        """Name the vault in the store; by default at its path."""
        config = config or directory_vault_config(REMOTE, str(self.vault.path))
        remote = CustodyRemote(self.vault.uuid, config["name"], config)
        assert publish_locations(self.harness.store, self.dataset, remote, self.paths.values())

    def conceal(self) -> None:
        """Record in the store that clones cannot read the vault any more."""
        remote = CustodyRemote(self.vault.uuid, REMOTE)
        assert publish_locations(self.harness.store, self.dataset, remote, self.paths.values())

    def serve(self, serve_directory: Callable[[Path], str]) -> str:
        """Serve the vault, and name its URL in the store; return the URL."""
        url = serve_directory(self.vault.path)
        self.publish(directory_vault_config(REMOTE, url))
        return url

    def stop_upstream(self) -> None:
        """Stop the servers of the archive."""
        self._upstream.close()

    def remove_store(self) -> None:
        """Move the store away."""
        if self.harness.folder.exists():
            self.harness.folder.rename(self.harness.folder.with_name("removed"))

    def read_all(self, top: Path) -> dict[str, bytes]:
        """Return the content of the files of a clone that are there, by path."""
        return {path: (top / path).read_bytes() for path in self.paths if (top / path).exists()}
