"""Sentences that several formats have in common."""

from __future__ import annotations

from neuromirror.lab.cite.names import inverted
from neuromirror.lab.cite.plain import counted
from neuromirror.lab.cite.works import Agent, Person, Work


def listed_name(one: Agent) -> str:
    """An author as in a list: the family name first where it is known."""
    return inverted(one) if isinstance(one, Person) else one.name


def licensed(work: Work) -> str:
    """``License: CC-BY-4.0``; empty where upstream states none."""
    names = ", ".join(one.name for one in work.licenses)
    return f"License{'s' * (len(work.licenses) > 1)}: {names}" if names else ""


def retrieved(work: Work) -> str:
    """Which state it was, without a full stop: people copy what stands at the end."""
    return f"Retrieved as {work.located}, state {work.digest}"


def remarks(work: Work) -> list[str]:
    """What a reader must know besides: sentences, each with its full stop."""
    mirror = work.state.name.partition(":")[0]
    asked = "; ".join(f'"{one}"' for one in work.asked)
    inputs = "; ".join(work.inputs)
    chosen = ", ".join(work.state.paths)
    found = [
        asked and f"Upstream asks to cite {asked}.",
        work.within and f"It is a part of {mirror}:{work.within}.",
        inputs and f"Derived from {inputs}.",
        chosen and f"Of it {counted(work.files, 'file')}: {chosen}.",
    ]
    return [one for one in found if one]


def unlisted(work: Work) -> list[str]:
    """What a list of a work's files leaves out: sentences, each with its full stop."""
    parts = len(work.parts)
    inside = sum(files for _, files, _ in work.parts)
    has = "has" if work.left_out == 1 else "have"
    found = [
        parts
        and f"{counted(inside, 'file')} in {counted(parts, 'sub-dataset')}, which are datasets of "
        "their own, are not listed.",
        work.only_files
        and f"{counted(work.only_files, 'file')} outside the git tree are not listed.",
        work.left_out
        and f"{counted(work.left_out, 'thing')} that upstream lists {has} not been mirrored.",
    ]
    return [one for one in found if one]


def described(work: Work) -> str:
    """The description for formats that must have one: upstream's, or what is known in any case."""
    if work.description:
        return work.description
    return f"{work.title}: {counted(work.files, 'file')}, {work.bytes} bytes."
