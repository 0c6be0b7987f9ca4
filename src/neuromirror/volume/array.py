"""Open volumes as lazy arrays: a clone's folder, or a version of the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from neuromirror.git import try_git
from neuromirror.model import DESCRIPTION_PATH, ConfigurationError
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.volume.description import DescribedVersion, describe, read_description
from neuromirror.volume.errors import MissingExtraError, NotAVolumeError, UnreadableVolumeError
from neuromirror.volume.geometry import METADATA
from neuromirror.volume.precomputed_files import PrecomputedFiles

if TYPE_CHECKING:
    import zarr

    from neuromirror.index import VersionRow
    from neuromirror.volume.files import CloneFiles, VersionFiles
    from neuromirror.volume.read_only_store import VolumeFiles


class OpenVolume(Struct, frozen=True):
    """One level of an open volume.

    Attributes
    ----------
    volume : Volume
        The positions, types and sizes of the voxels, with only the opened level.
    name : str
        The dataset (``bossdb:collection/experiment/channel``) or the name of the folder.
    version : str
        The argument with which the volume was opened.
    source : str
        The URL of the channel.
    state : str
        A state digest or commit, which identifies the bytes.
    files : VolumeFiles
        The files of the volume.
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
        """Return a lazy array with the axes ``[t,] z, y, x``; indices start at 0.

        Returns
        -------
        zarr.Array[Any]
            The array, which is read-only.

        Raises
        ------
        MissingExtraError
            zarr is not installed.
        """
        try:
            import zarr

            from neuromirror.volume.read_only_store import BlockStore
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
    """Open a volume as a lazy, read-only array: a slice reads only the blocks it needs.

    Axes are ``[t,] z, y, x``; index 0 is the start of the volume, which may be another voxel
    upstream (``translation`` in the metadata has its position). For dask:
    ``dask.array.from_zarr(neuromirror.volume.open(…))``.

    Blocks missing in a clone are fetched with git-annex and stay there; blocks of a version are
    fetched from their service. Reading raises :class:`~neuromirror.volume.BlockUnavailableError`
    for a block that is unavailable or differs from the version; it is never replaced by zeros.

    Parameters
    ----------
    path_or_version : str or path
        A clone's folder, or a version in the store
        (``bossdb:collection/experiment/channel@label``).
    level : int or str
        The resolution, by upstream's number; of a volume in a bucket, counted from 0.
    store, index : path, optional
        For versions; by default ``NEUROMIRROR_STORE`` and ``NEUROMIRROR_INDEX``, else ``./store``,
        else the user's store.

    Returns
    -------
    zarr.Array[Any]
        The lazy array, with axes ``[t,] z, y, x``.

    Raises
    ------
    NotAVolumeError, UnknownLevelError
        If the path or version is not a volume, or has no such level. The errors of the store and
        the index are raised too.
    """
    return open_volume(path_or_version, level, store=store, index=index).array()


def open_volume(
    path_or_version: str | os.PathLike[str],
    level: int | str = 0,
    *,
    store: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
) -> OpenVolume:
    """Open one level of a volume: its description and its files.

    Parameters
    ----------
    path_or_version, level, store, index
        As for :func:`open`.

    Returns
    -------
    OpenVolume
        The description and the files of the level; close it after use.

    Raises
    ------
    NotAVolumeError
        The version or folder is not a volume.
    """
    given = os.fspath(path_or_version)
    folder = Path(given)
    if folder.is_dir():
        return _open_clone(folder, str(level))
    dataset, _, label = given.partition("@")
    if isinstance(path_or_version, str) and ":" in dataset:
        return _open_version(dataset, label or "latest", str(level), store, index)
    raise NotAVolumeError(
        f"'{given}' is neither a folder nor a version; give a clone's folder, or a version from"
        " 'neuromirror list', such as bossdb:collection/experiment/channel@latest"
    )


def _open_clone(folder: Path, level: str) -> OpenVolume:
    from neuromirror.volume.files import CloneFiles

    files = CloneFiles(folder)
    if not (folder / METADATA).exists() and not (folder / ".git").exists():
        raise NotAVolumeError(f"{folder} is not a clone of a volume: it lacks {METADATA}")
    about = read_description(files.document(DESCRIPTION_PATH))
    state = _state(folder, about.get("state", ""))
    name = about.get("dataset") or folder.resolve().name
    source = about.get("source") or name
    version = DescribedVersion(
        *(name, str(folder), source, state, name.partition(":")[2]),
        form=about.get("form", "files"),
        exceptions=len(about.get("exceptions", ())),
    )
    return _open_level(files, version, level)


def _open_version(
    dataset: str,
    label: str,
    level: str,
    store: str | os.PathLike[str] | None,
    index: str | os.PathLike[str] | None,
) -> OpenVolume:
    from neuromirror.index import open_index
    from neuromirror.volume.files import open_version_files

    with open_index(store, index) as (held, reader):
        row = reader.versions.resolve(dataset, label)
    files = open_version_files(held, row)
    return _open_level(files, row, level)


def _open_level(
    files: CloneFiles | VersionFiles, row: VersionRow | DescribedVersion, level: str
) -> OpenVolume:
    """Open a level; raise UnreadableVolumeError if its chunks cannot be read."""
    found = describe(files, row, reads_shards=True)
    described, storage = found.level(level)
    if storage.unreadable_reason:
        raise UnreadableVolumeError(
            f"level {level} of {found.version} cannot be opened: {storage.unreadable_reason}; "
            f"a reader of {found.format} may read it in a clone"
        )
    opened: VolumeFiles = files
    if found.sparse:
        opened = PrecomputedFiles(files, described.volume, [storage])
    names = found.name, found.version, found.source, found.state
    return OpenVolume(described.volume, *names, opened)


def _state(folder: Path, recorded: str) -> str:
    """Return the state of a clone: as the dataset states, else its commit.

    The commit is used if there are commits on top. Raises ConfigurationError.
    """
    # a configuration could name a program that verifies signatures
    unsigned = ("-c", "log.showSignature=false")
    done = try_git(None, "-C", str(folder), *unsigned, "show", "-s", "--format=%H%n%B", "HEAD")
    if done.returncode:
        raise ConfigurationError(f"{folder} is not a clone: {done.stderr.strip()}")
    commit, *message = done.stdout.splitlines()
    return recorded if f"State: {recorded}" in message else commit
