"""What is said of a dataset's version when it is cited: frozen records, no I/O.

All texts are plain (see :mod:`neuromirror.lab.cite.text_values`); what upstream does not say is
empty or
None, and is left out of a citation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from neuromirror.model import alias_of

SWHID_QUALIFIERS: Final = ("origin", "visit", "anchor", "path", "lines")
"""In the order of ISO/IEC 18670."""


@dataclass(frozen=True, slots=True)
class Organisation:
    """An institution, a lab, a consortium; ``ror`` is its address at ror.org."""

    name: str
    ror: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """A person; ``whole`` is the name as it is to be read, for one that cannot be taken apart.

    Then ``family`` is empty. ``particle`` is what stands before the family name and is not sorted
    by (``van der``), ``suffix`` what follows the name (``Jr.``); ``orcid`` is the bare id.
    """

    full_name: str
    family: str = ""
    given: str = ""
    particle: str = ""
    suffix: str = ""
    orcid: str | None = None
    affiliations: tuple[Organisation, ...] = ()


Agent = Person | Organisation


@dataclass(frozen=True, slots=True)
class Funder:
    """Who paid, and by which award."""

    organisation: Organisation
    award: str = ""


@dataclass(frozen=True, slots=True)
class License:
    """A license: as upstream calls it, its SPDX id where that is known, and an address of it."""

    name: str
    spdx: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Related:
    """A resource that upstream relates to the dataset.

    ``relation`` is DataCite's word (``IsDescribedBy``), ``kind`` is DOI or URL.
    """

    relation: str
    identifier: str
    kind: str


@dataclass(frozen=True, slots=True)
class CitedState:
    """A minted commit in a repository on this machine, whose own folder ``git_dir`` is.

    ``name`` is the dataset's, ``label`` the version's. ``time`` is upstream's time of the state,
    None where it has none. ``annex`` is a commit of the git-annex branch, None where the repository
    has none. ``keeps`` says whether a path is cited: None for the whole; ``paths`` are the globs
    that it goes by, ``files`` and ``bytes`` what they choose. ``origin`` is where the repository
    can be cloned from, if that is known.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamMetadata:
    """What one of upstream's documents says of a version.

    ``published`` and ``created`` are upstream's dates. ``address`` is where people find it,
    ``identifiers`` upstream's own (kind, value), ``asked`` the words by which upstream asks to be
    cited.
    """

    authors: tuple[Agent, ...] = ()
    publisher: Organisation | None = None
    published: date | None = None
    created: date | None = None
    cite_created: bool = False  # a date of change is that of a copy: the year is that of creation
    address: str = ""
    identifiers: tuple[tuple[str, str], ...] = ()
    licenses: tuple[License, ...] = ()
    description: str = ""
    keywords: tuple[str, ...] = ()
    funders: tuple[Funder, ...] = ()
    related: tuple[Related, ...] = ()
    citation_requests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CitedWork(UpstreamMetadata):
    """A version as it is cited: what upstream says of it, and which state was retrieved.

    ``upstream`` is upstream's word for the version (``draft``), ``is_published`` whether it was
    published under it. ``modified`` is the date of the state, None where
    upstream gives none. ``inputs`` are upstream's names of what it was derived from.
    ``digest`` is the state digest. ``manifest_only_files`` counts what is outside git,
    ``left_out`` what
    upstream lists and the mirror has not, ``parts`` the sub-datasets by path (files, bytes).
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
    def alias(self) -> str:
        """The dataset's name in file names."""
        return alias_of(self.state.name)

    @property
    def version(self) -> str:
        """The version for people: with upstream's word where the label is only a time."""
        label, upstream = self.state.label, self.upstream
        return (
            label
            if self.is_published or upstream in (label, "", "current")
            else f"{upstream} {label}"
        )

    @property
    def citation_date(self) -> date | None:
        """The date to cite: of publication, else of the state, else of creation.

        With ``cite_created`` the date of creation comes before that of the state.
        """
        if self.cite_created and self.created is not None:
            return self.published or self.created
        return self.published or self.modified or self.created

    @property
    def required_date(self) -> date:
        """The date for formats that require one: that to cite, else today, when it is cited."""
        return self.citation_date or datetime.now(UTC).date()

    @property
    def swhid(self) -> str:
        """The revision's SWHID without qualifiers."""
        return f"swh:1:rev:{self.state.commit}"

    @property
    def qualified_swhid(self) -> str:
        """The revision's SWHID, with the origin where one is known."""
        return qualified_swhid(self.swhid, origin=self.state.origin)

    @property
    def directory_swhid(self) -> str:
        """The SWHID of the root directory, which commits to every file, and where it stands."""
        tree = f"swh:1:dir:{self.state.tree}"
        return qualified_swhid(tree, origin=self.state.origin, anchor=self.swhid)

    @property
    def doi_url(self) -> str | None:
        """The address of the DOI."""
        return None if self.doi is None else f"https://doi.org/{quote(self.doi, safe='/:;().-_')}"

    @property
    def url(self) -> str:
        """Where a citation leads: the DOI, else the landing page, else the source."""
        return self.doi_url or self.address


@dataclass(frozen=True, slots=True)
class CitationCollection:
    """What one citation file cites; ``title`` names it where there are several works."""

    works: tuple[CitedWork, ...]
    title: str = "Datasets cited together"

    @property
    def single_work(self) -> CitedWork | None:
        """The work, where there is just one."""
        return self.works[0] if len(self.works) == 1 else None

    def keys(self) -> list[str]:
        """A name for each work that citation programs take: ASCII, each once."""
        found: list[str] = []
        for work in self.works:
            made = "".join(
                one if one.isascii() and (one.isalnum() or one in "-.") else "_"
                for one in work.name
            )
            number = 1
            while (key := made if number == 1 else f"{made}-{number}") in found:
                number += 1
            found.append(key)
        return found

    def prefix(self, work: CitedWork) -> str:
        """The folder of a work's files where there are several works, with its slash; else empty.

        Two versions of one dataset have the label in it, too.
        """
        if self.single_work is not None:
            return ""
        same = [one for one in self.works if one.alias == work.alias]
        return f"{work.alias}/" if len(same) == 1 else f"{work.alias}@{work.state.label}/"


def qualified_swhid(swhid: str, **qualifiers: str | None) -> str:
    """A SWHID with qualifiers, in the standard's order; those that are None are left out.

    In values ``;`` and ``%`` are percent-encoded, as are spaces and what is not ASCII.
    """
    suffixes = [
        f";{name}={quote(value, safe='/:@?#&=+,~()!$*')}"
        for name in SWHID_QUALIFIERS
        if (value := qualifiers.get(name)) is not None
    ]
    return swhid + "".join(suffixes)
