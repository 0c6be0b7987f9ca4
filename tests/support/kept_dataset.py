"""A dataset whose content is in a vault, and whose upstream and store can be taken away."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from neuromirror.annex import directory_vault_config, parse_link_target
from neuromirror.mint import CustodyRemote
from neuromirror.model import DatasetRef, VersionMinted
from neuromirror.store import publish_locations
from neuromirror_demo import DemoArchive
from support.dataset_clones import clone_dataset, fetch_content
from support.mirror_harness import MirrorHarness
from support.vaults import directory_vault

NAME = "demo:000002"
ALIAS = "demo--000002"
REMOTE = "vault-nas"


class _Template:
    """An archive that keeps running, a store with one dandiset, and a clone with its contents."""

    def __init__(self, cache: Path) -> None:
        folder = Path(tempfile.mkdtemp(prefix="kept-", dir=cache.parent))
        self.archive = DemoArchive(folder / "demo", cache=cache)
        self.archive.__enter__()
        atexit.register(self.archive.__exit__)
        self.harness = MirrorHarness(self.archive.mirrors, folder / "store")
        self.harness.sync(NAME)
        self.clone = fetch_content(clone_dataset(self.harness, NAME, folder / "clone"))


_template = cache(_Template)


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
        template = _template(cache)
        template.archive.clear_faults()
        self.folder = folder
        self._archive = template.archive
        shutil.copytree(template.harness.folder, folder / "mirror" / "store", symlinks=True)
        self.harness = MirrorHarness(template.archive.mirrors, folder / "mirror" / "store")
        self.vault = directory_vault(folder)
        self.paths: dict[str, str] = {}
        self.contents: dict[str, bytes] = {}
        for path in sorted(template.clone.rglob("*")):
            if path.is_symlink() and (key := parse_link_target(os.fsencode(os.readlink(path)))):
                self.vault.store(key, path)
                name = path.relative_to(template.clone).as_posix()
                self.paths[name], self.contents[name] = key, path.read_bytes()

    @property
    def dataset(self) -> DatasetRef:
        return self.harness.entries(VersionMinted)[0].dataset_ref

    def publish(self, config: Mapping[str, str] | None = None, uuid: str = "") -> None:
        """Name the vault in the store; by default at its path, and with its own UUID."""
        config = config or directory_vault_config(REMOTE, str(self.vault.path))
        remote = CustodyRemote(uuid or self.vault.uuid, config["name"], config)
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
        """Have the servers of the archive close all connections without a reply."""
        for server in ("api", "s3"):
            self._archive.fault("reset", server=server)

    def remove_store(self) -> None:
        """Move the store away."""
        if self.harness.folder.exists():
            self.harness.folder.rename(self.harness.folder.with_name("removed"))

    def read_all(self, top: Path) -> dict[str, bytes]:
        """Return the content of the files of a clone that are there, by path."""
        return {path: (top / path).read_bytes() for path in self.paths if (top / path).exists()}
