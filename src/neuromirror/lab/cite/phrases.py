"""Sentences that several formats have in common."""

from __future__ import annotations

from neuromirror.lab.cite.person_names import family_first_name
from neuromirror.lab.cite.text_values import count_of
from neuromirror.lab.cite.works import Agent, CitedWork, Person


def listed_name(one: Agent) -> str:
    """An author as in a list: the family name first where it is known."""
    return family_first_name(one) if isinstance(one, Person) else one.name


def license_phrase(work: CitedWork) -> str:
    """``License: CC-BY-4.0``; empty where upstream states none."""
    names = ", ".join(one.name for one in work.licenses)
    return f"License{'s' * (len(work.licenses) > 1)}: {names}" if names else ""


def retrieval_phrase(work: CitedWork) -> str:
    """Which state it was, without a full stop: people copy what stands at the end."""
    return f"Retrieved as {work.qualified_swhid}, state {work.digest}"


def remarks(work: CitedWork) -> list[str]:
    """What a reader must know besides: sentences, each with its full stop."""
    mirror = work.state.name.partition(":")[0]
    requests = "; ".join(f'"{one}"' for one in work.citation_requests)
    inputs = "; ".join(work.inputs)
    chosen = ", ".join(work.state.paths)
    found = [
        requests and f"Upstream asks to cite {requests}.",
        work.within and f"It is a part of {mirror}:{work.within}.",
        inputs and f"Derived from {inputs}.",
        chosen and f"Of it {count_of(work.files, 'file')}: {chosen}.",
    ]
    return [one for one in found if one]


def unlisted_remarks(work: CitedWork) -> list[str]:
    """What a list of a work's files leaves out: sentences, each with its full stop."""
    parts = len(work.subdatasets)
    inside = sum(files for _, files, _ in work.subdatasets)
    has = "has" if work.left_out == 1 else "have"
    found = [
        parts
        and f"{count_of(inside, 'file')} in {count_of(parts, 'subdataset')}, which are datasets "
        "of their own, are not listed.",
        work.manifest_only_files
        and f"{count_of(work.manifest_only_files, 'file')} outside the git tree are not listed.",
        work.left_out
        and f"{count_of(work.left_out, 'thing')} that upstream lists {has} not been mirrored.",
    ]
    return [one for one in found if one]


def description_or_summary(work: CitedWork) -> str:
    """The description for formats that must have one: upstream's, or what is known in any case."""
    if work.description:
        return work.description
    return f"{work.title}: {count_of(work.files, 'file')}, {work.bytes} bytes."
