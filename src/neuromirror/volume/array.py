"""Volumes opened as lazy arrays: a clone's folder, or a version of the store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.model import (
    DESCRIPTION_PATH,
    ConfigurationError,
    environment_without_secrets,
    parse_json,
)
from neuromirror.sources.volumes import Level, Volume
from neuromirror.volume.errors import MissingExtraError, NotAVolumeError
from neuromirror.volume.geometry import METADATA, read_volume

if TYPE_CHECKING:
    import zarr

    from neuromirror.volume.block_store import VolumeFiles

_DESCRIPTION_PATH = ".neuromirror/dataset.json"


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """One level of a volume, open.

    ``volume`` says where its voxels are upstream. ``name`` is the dataset's
    (``bossdb:collection/experiment/channel``, or the folder's name), ``version`` what it was
    opened as, ``source`` the channel's address, and ``state`` says which bytes these are (a state
    digest, or else a commit).
    """

    volume: Volume
    name: str
    version: str
    source: str
    state: str
    files: VolumeFiles

    @property
    def level(self) -> Level:
        """The level."""
        return self.volume.levels[0]

    def array(self) -> zarr.Array[Any]:
        """Open a lazy array with the axes ``[t,] z, y, x``, counted from 0; raises
        MissingExtraError."""
        try:
            import zarr

            from neuromirror.volume.block_store import BlockStore
        except ImportError as error:
            raise MissingExtraError(error) from error
        store = BlockStore(self.files, self.volume)
        return zarr.open_array(store, path=self.level.name, mode="r", zarr_format=3)


def open(
    path_or_version: str | os.PathLike[str],
    level: int | str = 0,
    *,
    store: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> zarr.Array[Any]:
    """A volume as a lazy, read-only array: a slice reads just the blocks that it needs.

    ``path_or_version`` is a clone's folder, or the name of a version in the store
    (``bossdb:collection/experiment/channel@label``). ``level`` is the resolution, by upstream's
    number. ``store`` and ``index`` are for versions, and found as the command line finds them:
    else by ``NEUROMIRROR_STORE`` and ``NEUROMIRROR_INDEX``, else in ``./store``.

    Axes are ``[t,] z, y, x``; index 0 is the volume's own beginning, which may be another number
    upstream (the ``translation`` in ``zarr.json`` says where it is in space). For dask:
    ``dask.array.from_zarr(neuromirror.volume.open(…))``.

    A block that is not in a clone is got with git-annex, from whatever remote has it, and stays
    there; of a version it is fetched from its service. Reading raises
    :class:`~neuromirror.volume.BlockUnavailableError` for one that cannot be had, or is not what
    the version
    says: never are zeros put in its place.

    Raises :class:`~neuromirror.volume.NotAVolumeError`,
    :class:`~neuromirror.volume.UnknownLevelError`, and
    what the store and the index raise.
    """
    return open_volume(path_or_version, level, store=store, index=index).array()


@contextmanager
def volume_context(
    path_or_version: str | os.PathLike[str],
    level: int | str = 0,
    *,
    store: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> Iterator[OpenVolume]:
    """A volume that is closed at the end of the block, whatever is under way; see :func:`open`."""
    found = open_volume(path_or_version, level, store=store, index=index)
    try:
        yield found
    finally:
        found.files.close()


def open_volume(
    path_or_version: str | os.PathLike[str],
    level: int | str = 0,
    *,
    store: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> OpenVolume:
    """A volume with all that is known of it; see :func:`open`."""
    given = os.fspath(path_or_version)
    folder = Path(given)
    if folder.is_dir():
        return _open_clone(folder, str(level))
    dataset, _, label = given.partition("@")
    if isinstance(path_or_version, str) and ":" in dataset:
        return _open_version(dataset, label or "latest", str(level), store, index)
    raise NotAVolumeError(
        f"'{given}' is neither a folder nor a version; name a clone's folder, or a version as"
        " 'neuromirror list' has them, such as bossdb:collection/experiment/channel@latest"
    )


def _open_clone(folder: Path, level: str) -> OpenVolume:
    from neuromirror.volume.clone_files import CloneFiles

    files = CloneFiles(folder)
    if not (folder / METADATA).exists() and not (folder / ".git").exists():
        raise NotAVolumeError(f"{folder} is no clone of a volume: it has no {METADATA}")
    about = _read_description(files.document(_DESCRIPTION_PATH))
    state = _state(folder, about.get("state", ""))
    name = about.get("dataset") or folder.resolve().name
    return _open_files(files, level, name, str(folder), about.get("source") or name, state)


def _open_version(
    dataset: str,
    label: str,
    level: str,
    store: str | os.PathLike[str] | None,
    index: str | os.PathLike[str] | None,
) -> OpenVolume:
    from neuromirror.index import Index
    from neuromirror.store import Store
    from neuromirror.store.private_store import is_private_store
    from neuromirror.volume.version_files import open_version_files

    held = Store.open(Path(store or os.environ.get("NEUROMIRROR_STORE") or "store"))
    named = index or os.environ.get("NEUROMIRROR_INDEX")
    path = held.index_path if named is None or is_private_store(held.root) else Path(named)
    with Index.open_readonly(path) as opened_index:
        row = opened_index.resolve(dataset, label)
    files = open_version_files(held, row)
    found = _open_files(files, level, row.dataset_name, row.name, row.source_uri, row.state)
    files.volume = found.volume
    return found


def _open_files(
    files: VolumeFiles, level: str, name: str, version: str, source: str, state: str
) -> OpenVolume:
    volume = read_volume(files.document, level, files.where)
    return OpenVolume(volume, name, version, source, state, files)


def _read_description(content: bytes | None) -> dict[str, str]:
    """What a dataset says of itself; empty for one that was not mirrored by us."""
    try:
        document = parse_json(content or b"{}", DESCRIPTION_PATH)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return {}
    fields = ((field, document.get(field)) for field in ("dataset", "source", "state"))
    return {field: value for field, value in fields if isinstance(value, str) and value}


def _state(folder: Path, recorded: str) -> str:
    """What a clone is a state of: as the dataset says, unless somebody committed on top of it.

    Then it is the commit. Raises ConfigurationError.
    """
    # a configuration could name the program that looks at signatures
    unsigned = ("-c", "log.showSignature=false")
    command = ["git", "-C", str(folder), *unsigned, "show", "-s", "--format=%H%n%B", "HEAD"]
    environment = environment_without_secrets()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"{folder} is no clone: {done.stderr.strip()}")
    commit, *message = done.stdout.splitlines()
    return recorded if f"State: {recorded}" in message else commit
