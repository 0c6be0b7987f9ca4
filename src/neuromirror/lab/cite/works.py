"""The metadata of a citation, as frozen records without I/O.

All texts are plain. Fields that upstream does not have are
empty or None, and are omitted from a citation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from neuromirror.model import NeuromirrorError, alias_of


class NotCitableError(NeuromirrorError):
    """A commit was not created by a mirror, or cannot be read."""


class Agent(Struct, frozen=True):
    """A person, or an organisation such as a lab or a consortium.

    ``family`` is empty for an organisation, and for a name that cannot be split. ``particle`` is
    the word before the family name that is ignored for sorting (``van der``), ``suffix`` the one
    after the name (``Jr.``). ``url`` is that of the ORCID or at ror.org.
    """

    full_name: str
    family: str = ""
    given: str = ""
    particle: str = ""
    suffix: str = ""
    url: str | None = None
    affiliations: tuple[Agent, ...] = ()
    is_person: bool = False

    @property
    def whole_family(self) -> str:
        """The family name with its particle."""
        return f"{self.particle} {self.family}".strip()

    @property
    def name(self) -> str:
        """The name as in a list of authors, such as ``van der Berg, Anna, Jr``."""
        parts = (self.whole_family, self.given, self.suffix)
        return ", ".join(filter(None, parts)) if self.family else self.full_name


class Funder(Struct, frozen=True):
    """A funder and its award."""

    organisation: Agent
    award: str = ""


class License(Struct, frozen=True):
    """A license; ``name`` is its SPDX id or, if that is unknown, upstream's text."""

    name: str
    spdx: str | None = None
    url: str | None = None


class CitedState(Struct, frozen=True):
    """A minted commit in a local repository.

    ``paths`` are the globs that select the cited files and ``is_cited`` matches a path with them
    (empty and None for all files), ``files`` and ``bytes`` are number and size of the selected
    files; ``annex`` is the commit of the git-annex branch, ``origin`` a clone URL.
    """

    git_dir: Path
    name: str
    label: str
    commit: str
    tree: str
    time: datetime | None
    annex: str | None = None
    paths: tuple[str, ...] = ()
    is_cited: Callable[[bytes], bool] | None = None
    files: int = 0
    bytes: int = 0
    origin: str | None = None


class UpstreamMetadata(Struct, frozen=True, kw_only=True):
    """The metadata in the documents of upstream.

    ``address`` is the landing page, ``identifiers`` are (kind, value), ``citation_requests`` are
    texts that upstream asks to cite, ``variables`` are names of what was measured. ``related`` are
    (relation type of DataCite, identifier, DOI or URL).
    """

    authors: tuple[Agent, ...] = ()
    publisher: Agent | None = None
    published: date | None = None
    created: date | None = None
    cite_created: bool = False  # cite the year of creation: other dates are those of copies
    address: str = ""
    identifiers: tuple[tuple[str, str], ...] = ()
    licenses: tuple[License, ...] = ()
    description: str = ""
    keywords: tuple[str, ...] = ()
    funders: tuple[Funder, ...] = ()
    related: tuple[tuple[str, str, str], ...] = ()
    citation_requests: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class CitedWork(UpstreamMetadata, frozen=True, kw_only=True):
    """A cited version: the metadata of upstream and the retrieved state.

    Attributes
    ----------
    state
        The retrieved state.
    title, upstream, source
        The title, the name of the version and the URI of the dataset upstream.
    is_published
        Whether upstream published it under this name.
    digest
        The state digest.
    files, bytes
        Number and size of the files.
    modified
        The date of the state, or None.
    doi
        The DOI of the version or dataset, or None.
    inputs
        Upstream names of the datasets that it was derived from.
    within
        The local id of the dataset that has this one as a component; empty if there is none.
    manifest_only_files, left_out
        Number of files outside git, and of items that upstream lists and that are not mirrored.
    subdatasets
        Path, number of files and size of each subdataset.
    """

    state: CitedState
    title: str
    upstream: str
    is_published: bool
    digest: str
    source: str
    files: int
    bytes: int
    modified: date | None = None
    doi: str | None = None
    inputs: tuple[str, ...] = ()
    within: str = ""
    manifest_only_files: int = 0
    left_out: int = 0
    subdatasets: tuple[tuple[str, int, int], ...] = ()

    @property
    def name(self) -> str:
        """``<mirror>:<local id>@<label>``."""
        return f"{self.state.name}@{self.state.label}"

    @property
    def version(self) -> str:
        """The version for readers, with the upstream name if the label is only a time."""
        label, upstream = self.state.label, self.upstream
        is_named = self.is_published or upstream in (label, "", "current")
        return label if is_named else f"{upstream} {label}"

    @property
    def citation_date(self) -> date | None:
        """The date to cite: of publication, else of the state, else of creation.

        With ``cite_created``, the date of creation precedes that of the state.
        """
        later = self.created if self.cite_created else None
        return self.published or later or self.modified or self.created

    @property
    def required_date(self) -> date:
        """The date for formats that require one: the date to cite, else today."""
        return self.citation_date or datetime.now(UTC).date()

    @property
    def swhid(self) -> str:
        """The SWHID of the commit, without qualifiers."""
        return f"swh:1:rev:{self.state.commit}"

    @property
    def qualified_swhid(self) -> str:
        """The SWHID of the commit, with the origin if known."""
        return qualified_swhid(self.swhid, self.state.origin)

    @property
    def all_identifiers(self) -> list[tuple[str, str]]:
        """The identifiers of the state and those of upstream, as (kind, value)."""
        directory = f"swh:1:dir:{self.state.tree}"
        return [
            ("SWHID", self.qualified_swhid),
            ("SWHID", qualified_swhid(directory, self.state.origin, self.swhid)),
            ("State digest", self.digest),
            *self.identifiers,
        ]

    @property
    def doi_url(self) -> str | None:
        """The URL of the DOI."""
        return None if self.doi is None else f"https://doi.org/{quote(self.doi, safe='/:;().-_')}"

    @property
    def url(self) -> str:
        """The URL to cite: the DOI, else the landing page, else the source."""
        return self.doi_url or self.address


class CitationCollection(Struct, frozen=True):
    """The works of one citation file, and a title for several works."""

    works: tuple[CitedWork, ...]
    title: str = "Datasets cited together"

    @property
    def single_work(self) -> CitedWork | None:
        """The only work, or None for several."""
        return self.works[0] if len(self.works) == 1 else None

    def keys(self) -> list[str]:
        """Return a unique ASCII key for each work, in their order."""
        keys: list[str] = []
        for work in self.works:
            key = re.sub("[^A-Za-z0-9.-]", "_", work.name)
            numbered = (key if number == 1 else f"{key}-{number}" for number in count(1))
            keys.append(next(key for key in numbered if key not in keys))
        return keys

    def prefix(self, work: CitedWork) -> str:
        """Return the folder of the files of a work, with a slash; empty for a single work.

        Two versions of one dataset have the label in the folder name.
        """
        if self.single_work is not None:
            return ""
        alias = alias_of(work.state.name)
        same = [one for one in self.works if alias_of(one.state.name) == alias]
        return f"{alias}/" if len(same) == 1 else f"{alias}@{work.state.label}/"


def qualified_swhid(swhid: str, origin: str | None, anchor: str | None = None) -> str:
    """Return a SWHID with qualifiers, in the order of ISO/IEC 18670; None values are omitted.

    In values, ``;``, ``%``, spaces and non-ASCII characters are percent-encoded.
    """
    values = {"origin": origin, "anchor": anchor}.items()
    quoted = [(name, quote(one, safe="/:@?#&=+,~()!$*")) for name, one in values if one is not None]
    return swhid + "".join(f";{name}={one}" for name, one in quoted)
