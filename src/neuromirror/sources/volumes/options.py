"""The common ``[options]`` of mirrors of cutout services."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from neuromirror.net import RequestLimits, Session, TokenSource
from neuromirror.sources.options import SourceOptions, api_session, base_address

Voxels = Annotated[int, Field(ge=1, le=1 << 20)]
Coordinate = Annotated[int, Field(ge=0, le=1 << 40)]
Interval = tuple[Coordinate, Coordinate]

_SAMPLE = 16
_ROLLING = 64


class VolumeOptions(SourceOptions):
    """The common ``[options]`` of mirrors of cutout services.

    Attributes
    ----------
    api
        The service's base URL.
    token_env
        Name of the environment variable with a token.
    include, exclude
        Shell patterns of local ids; without ``include``, all are mirrored.
    levels
        The mirrored resolutions, by upstream's numbers.
    box
        The mirrored part of level 0 (ranges of voxels along x, y, z), and what it covers of the
        other levels.
    block
        Maximum shape of a chunk file along x, y, z, in voxels.
    hash
        Whether each block is read once to compute its sha256 (``fetch``), or not (``none``).
    sample
        Number of random blocks that each visit reads again. By default 16 with ``hash = "fetch"``,
        else 0.
    rolling
        Number of blocks that each visit reads again in a rolling pass over all blocks. By default
        64 with ``hash = "fetch"``, else 0.
    workers
        Number of blocks that are read in parallel.
    max_files
        A dataset with more chunk files fails.
    allow_private
        Whether the service is on this machine or network. By default derived from ``api``.
    """

    api: str
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    levels: Literal["all"] | tuple[Annotated[int, Field(ge=0, le=30)], ...] = "all"
    box: tuple[Interval, Interval, Interval] | None = None
    block: tuple[Voxels, Voxels, Voxels] = (2048, 2048, 64)
    hash: Literal["none", "fetch"] = "none"
    sample: int | None = Field(default=None, ge=0)
    rolling: int | None = Field(default=None, ge=0)
    workers: int = Field(default=4, ge=1, le=24)
    max_files: int = Field(default=1_000_000, ge=1)
    allow_private: bool | None = None

    @field_validator("api")
    @classmethod
    def _normal(cls, api: str) -> str:
        return base_address(api, "use token_env")

    @field_validator("levels")
    @classmethod
    def _some(cls, levels: Literal["all"] | tuple[int, ...]) -> Literal["all"] | tuple[int, ...]:
        if not levels:
            raise ValueError('name at least one level, or set "all"')
        return levels if levels == "all" else tuple(sorted(set(levels)))

    @field_validator("box")
    @classmethod
    def _not_empty(cls, box: tuple[Interval, ...] | None) -> tuple[Interval, ...] | None:
        if box is not None and any(start >= stop for start, stop in box):
            raise ValueError("each range of the box must end after its start")
        return box

    @property
    def sample_count(self) -> int:
        """The number of random blocks that each visit reads again."""
        usual = _SAMPLE if self.hash == "fetch" else 0
        return usual if self.sample is None else self.sample

    @property
    def rolling_count(self) -> int:
        """The number of blocks that each visit reads again in the rolling pass."""
        usual = _ROLLING if self.hash == "fetch" else 0
        return usual if self.rolling is None else self.rolling

    @property
    def service(self) -> str:
        """The base URL of the service."""
        return self.api

    @property
    def host(self) -> str:
        """The host, with its port if it has one."""
        return urlsplit(self.service).netloc

    @property
    def prefix(self) -> str:
        """The path between host and names, empty or ending with a slash."""
        path = urlsplit(self.service).path.strip("/")
        return f"{path}/" if path else ""

    @property
    def is_secure(self) -> bool:
        """Whether requests use HTTPS."""
        return urlsplit(self.service).scheme == "https"

    def includes(self, local_id: str) -> bool:
        """Return whether the dataset with this local id is mirrored.

        Parameters
        ----------
        local_id
            The local id of the dataset.

        Returns
        -------
        bool
            Whether it is mirrored.
        """
        if any(fnmatchcase(local_id, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatchcase(local_id, one) for one in self.include)

    @property
    def token(self) -> TokenSource | None:
        """The source of the token; None if requests are anonymous."""
        return None if self.token_env is None else TokenSource(self.token_env)

    def session(self) -> Session:
        """Return a session that sends the token only to the service's host.

        The read timeout is long, because a service may take minutes to prepare a cutout.

        Returns
        -------
        Session
            The session; close it after use.
        """
        limits = RequestLimits(per_host=24, read=300.0)
        return api_session(self.api, self.allow_private, self.token, limits)

    def requirements(self) -> tuple[str, ...]:
        """Return the packages that read volumes, and the token, if the options name one.

        Returns
        -------
        tuple[str, ...]
            One text per requirement, for messages.
        """
        token = () if self.token_env is None else (f"a token in ${self.token_env}",)
        return ("pip install 'neuromirror[volumes]'", *token)
