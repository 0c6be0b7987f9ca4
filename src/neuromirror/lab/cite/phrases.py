"""Sentences shared by several formats."""

from __future__ import annotations

from neuromirror.lab.cite.person_names import family_first_name
from neuromirror.lab.cite.works import Agent, CitedWork, Person
from neuromirror.model import count_of


def listed_name(one: Agent) -> str:
    """Return an author as in a list, with the family name first if it is known."""
    return family_first_name(one) if isinstance(one, Person) else one.name


def license_phrase(work: CitedWork) -> str:
    """Return ``License: CC-BY-4.0``, or an empty text without a license."""
    names = ", ".join(one.name for one in work.licenses)
    return f"License{'s' * (len(work.licenses) > 1)}: {names}" if names else ""


def retrieval_phrase(work: CitedWork) -> str:
    """Return ``Retrieved as <SWHID>, state <digest>``, the ids of the retrieved state.

    It has no full stop at its end, which readers could copy with the digest.
    """
    return f"Retrieved as {work.qualified_swhid}, state {work.digest}"


def note(work: CitedWork, *, names_license: bool = True) -> str:
    """Return the license, the remarks and the ids of the retrieved state as one text."""
    license_ = license_phrase(work) if names_license else ""
    sentences = [f"{license_}."] if license_ else []
    return " ".join([*sentences, *remarks(work), retrieval_phrase(work)])


def remarks(work: CitedWork) -> list[str]:
    """Return sentences that follow a citation: requests to cite, derivation, selected files."""
    mirror = work.state.name.partition(":")[0]
    requests = "; ".join(f'"{one}"' for one in work.citation_requests)
    inputs = "; ".join(work.inputs)
    chosen = ", ".join(work.state.paths)
    found = [
        requests and f"The archive asks to cite {requests}.",
        work.within and f"It is a subdataset of {mirror}:{work.within}.",
        inputs and f"Derived from {inputs}.",
        chosen and f"Selection of {count_of(work.files, 'file')}: {chosen}.",
    ]
    return [one for one in found if one]


def unlisted_remarks(work: CitedWork) -> list[str]:
    """Return sentences with the number of files that the citation's list of files omits.

    They are in subdatasets, outside the git tree, or not mirrored.
    """
    subdatasets = len(work.subdatasets)
    inside = sum(files for _, files, _ in work.subdatasets)
    has = "has" if work.left_out == 1 else "have"
    found = [
        subdatasets
        and f"{count_of(inside, 'file')} in {count_of(subdatasets, 'subdataset')} are not listed.",
        work.manifest_only_files
        and f"{count_of(work.manifest_only_files, 'file')} outside the git tree are not listed.",
        work.left_out
        and f"{count_of(work.left_out, 'item')} of the upstream listing {has} not been mirrored.",
    ]
    return [one for one in found if one]


def description_or_summary(work: CitedWork) -> str:
    """Return upstream's description of a work; without one, its title, number of files and size."""
    if work.description:
        return work.description
    return f"{work.title}: {count_of(work.files, 'file')}, {work.bytes} bytes."
