"""The metadata of a citation, as frozen records without I/O.

All texts are plain (see :mod:`neuromirror.lab.cite.text_values`). Fields that upstream does not
have are empty or None, and are omitted from a citation.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from neuromirror.model import alias_of


class Organisation(Struct, frozen=True):
    """An institution, a lab or a consortium; ``ror`` is its ror.org URL."""

    name: str
    ror: str | None = None


class Person(Struct, frozen=True):
    """A person.

    Attributes
    ----------
    full_name
        The whole name, for a name that cannot be split; ``family`` is then empty.
    particle
        The word before the family name that is ignored for sorting (``van der``).
    suffix
        The word after the name (``Jr.``).
    orcid
        The bare ORCID.
    """

    full_name: str
    family: str = ""
    given: str = ""
    particle: str = ""
    suffix: str = ""
    orcid: str | None = None
    affiliations: tuple[Organisation, ...] = ()

    @property
    def orcid_url(self) -> str | None:
        """Return the URL of the ORCID."""
        return None if self.orcid is None else f"https://orcid.org/{self.orcid}"


Agent = Person | Organisation


class Funder(Struct, frozen=True):
    """A funder and its award."""

    organisation: Organisation
    award: str = ""


class License(Struct, frozen=True):
    """A license.

    Attributes
    ----------
    name
        The SPDX id if it is known, otherwise upstream's text.
    spdx
        The SPDX id; None if unknown.
    url
        The URL of the license; None if unknown.
    """

    name: str
    spdx: str | None = None
    url: str | None = None


class Related(Struct, frozen=True):
    """A resource that upstream relates to the dataset.

    ``relation`` is a relation type of DataCite (``IsDescribedBy``), ``kind`` is DOI or URL.
    """

    relation: str
    identifier: str
    kind: str


class CitedState(Struct, frozen=True):
    """A minted commit in a local repository.

    Attributes
    ----------
    git_dir
        The git directory that has the commit.
    name, label
        The name of the dataset and the label of the version.
    commit, tree
        The object ids in hex.
    time
        The upstream time of the state, or None.
    annex
        The commit of the git-annex branch, or None.
    paths
        The globs that select the cited files; empty for all files.
    is_cited
        Returns whether a path is cited; None for all files.
    files, bytes
        The number and size of the selected files.
    origin
        A clone URL, if known.
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

    Attributes
    ----------
    published, created
        Dates of upstream.
    address
        The URL of the landing page.
    identifiers
        Identifiers of upstream, as (kind, value).
    citation_requests
        Texts that upstream asks to cite.
    variables
        Names of what was measured.
    """

    authors: tuple[Agent, ...] = ()
    publisher: Organisation | None = None
    published: date | None = None
    created: date | None = None
    cite_created: bool = False  # cite the year of creation: other dates are those of copies
    address: str = ""
    identifiers: tuple[tuple[str, str], ...] = ()
    licenses: tuple[License, ...] = ()
    description: str = ""
    keywords: tuple[str, ...] = ()
    funders: tuple[Funder, ...] = ()
    related: tuple[Related, ...] = ()
    citation_requests: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class CitedWork(UpstreamMetadata, frozen=True, kw_only=True):
    """A cited version: the metadata of upstream and the retrieved state.

    Attributes
    ----------
    state
        The retrieved state.
    title
        The title in upstream's metadata.
    upstream
        The name of the version upstream (``draft``).
    is_published
        Whether upstream published it under this name.
    digest
        The state digest.
    source
        The URI of the dataset upstream.
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
    manifest_only_files
        Number of files outside git.
    left_out
        Number of items that upstream lists and that are not mirrored.
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
        """Return ``<mirror>:<local id>@<label>``."""
        return f"{self.state.name}@{self.state.label}"

    @property
    def alias(self) -> str:
        """Return the name of the dataset for file names."""
        return alias_of(self.state.name)

    @property
    def version(self) -> str:
        """Return the version for readers, with the upstream name if the label is only a time."""
        label, upstream = self.state.label, self.upstream
        return (
            label
            if self.is_published or upstream in (label, "", "current")
            else f"{upstream} {label}"
        )

    @property
    def citation_date(self) -> date | None:
        """Return the date to cite: of publication, else of the state, else of creation.

        With ``cite_created``, the date of creation precedes that of the state.
        """
        if self.cite_created and self.created is not None:
            return self.published or self.created
        return self.published or self.modified or self.created

    @property
    def required_date(self) -> date:
        """Return the date for formats that require one: the date to cite, else today."""
        return self.citation_date or datetime.now(UTC).date()

    @property
    def swhid(self) -> str:
        """Return the SWHID of the commit, without qualifiers."""
        return f"swh:1:rev:{self.state.commit}"

    @property
    def qualified_swhid(self) -> str:
        """Return the SWHID of the commit, with the origin if known."""
        return qualified_swhid(self.swhid, self.state.origin)

    @property
    def directory_swhid(self) -> str:
        """Return the SWHID of the root directory, with origin and anchor."""
        tree = f"swh:1:dir:{self.state.tree}"
        return qualified_swhid(tree, self.state.origin, self.swhid)

    @property
    def all_identifiers(self) -> list[tuple[str, str]]:
        """Return the identifiers of the state and those of upstream, as (kind, value)."""
        return [
            ("SWHID", self.qualified_swhid),
            ("SWHID", self.directory_swhid),
            ("State digest", self.digest),
            *self.identifiers,
        ]

    @property
    def doi_url(self) -> str | None:
        """Return the URL of the DOI."""
        return None if self.doi is None else f"https://doi.org/{quote(self.doi, safe='/:;().-_')}"

    @property
    def url(self) -> str:
        """Return the URL to cite: the DOI, else the landing page, else the source."""
        return self.doi_url or self.address


class CitationCollection(Struct, frozen=True):
    """The works of one citation file.

    Attributes
    ----------
    works
        The cited versions.
    title
        The title of the collection, used for several works.
    """

    works: tuple[CitedWork, ...]
    title: str = "Datasets cited together"

    @property
    def single_work(self) -> CitedWork | None:
        """Return the only work, or None for several."""
        return self.works[0] if len(self.works) == 1 else None

    def keys(self) -> list[str]:
        """Return a unique ASCII key for each work.

        Returns
        -------
        list[str]
            The keys, in the order of the works.
        """
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
        """Return the folder of the files of a work, with a slash; empty for a single work.

        Two versions of one dataset have the label in the folder name.

        Parameters
        ----------
        work
            A work of the collection.

        Returns
        -------
        str
            The folder with a slash, or an empty text.
        """
        if self.single_work is not None:
            return ""
        same = [one for one in self.works if one.alias == work.alias]
        return f"{work.alias}/" if len(same) == 1 else f"{work.alias}@{work.state.label}/"


def qualified_swhid(swhid: str, origin: str | None, anchor: str | None = None) -> str:
    """Return a SWHID with qualifiers, in the order of ISO/IEC 18670; None values are omitted.

    In values, ``;``, ``%``, spaces and non-ASCII characters are percent-encoded.
    """
    suffixes = [
        f";{name}={quote(value, safe='/:@?#&=+,~()!$*')}"
        for name, value in (("origin", origin), ("anchor", anchor))
        if value is not None
    ]
    return swhid + "".join(suffixes)
