"""Globs match as defined, and no glob makes matching expensive."""

import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.annex import url_glob
from neuromirror.lab.globs import MAX_GLOB_LENGTH, MAX_WILDCARD_CHARACTERS, Globs
from neuromirror.model import ConfigurationError

TOKEN = re.compile(r"\*+|\?|\[(!?)(\]?[^\]/]*)\]|.", re.DOTALL)


def fits_name(part: str, name: str) -> bool:
    """Match one name by definition, trying every length for each star."""
    tokens = [found[0] for found in TOKEN.finditer(part)]

    @cache
    def rest(token: int, at: int) -> bool:
        if token == len(tokens):
            return at == len(name)
        text = tokens[token]
        if text[0] == "*":
            return any(rest(token + 1, end) for end in range(at, len(name) + 1))
        if at == len(name):
            return False
        if len(text) > 1:
            is_one = name[at] in text.lstrip("[!").rstrip("]")
            return is_one != text.startswith("[!") and rest(token + 1, at + 1)
        return text in ("?", name[at]) and rest(token + 1, at + 1)

    return rest(0, 0)


def fits(glob: str, path: str) -> bool:
    """Match a path by definition: itself, or a folder that it is in."""
    parts, names = tuple(glob.split("/")), tuple(path.split("/"))

    @cache
    def rest(part: int, at: int) -> bool:
        if part == len(parts):
            return True
        if parts[part] == "**":
            if part == len(parts) - 1:
                return at < len(names)
            return any(rest(part + 1, end) for end in range(at, len(names) + 1))
        return at < len(names) and fits_name(parts[part], names[at]) and rest(part + 1, at + 1)

    return rest(0, 0)


PART = st.one_of(
    st.just("**"),
    st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"]), min_size=1, max_size=6).map(
        "".join
    ),
)
GLOB = st.lists(PART, min_size=1, max_size=5).map("/".join)
NAME = st.text("ab", min_size=1, max_size=6)
PATH = st.lists(NAME, min_size=1, max_size=6).map("/".join)


@given(st.lists(GLOB, min_size=1, max_size=3), PATH)
def test_globs_match_as_their_definition_says(globs: list[str], path: str) -> None:
    found = Globs(globs)
    assert found.matches(path) == any(fits(glob, path) for glob in globs)
    if found.matches(path):
        folders = ["/".join(path.split("/")[:end]) for end in range(1, path.count("/") + 1)]
        assert all(found.reaches(folder) for folder in folders)


@given(st.lists(PATH, min_size=1, max_size=5), PATH)
def test_plain_paths_are_looked_up(globs: list[str], path: str) -> None:
    below = [glob for glob in globs if glob == path or glob.startswith(f"{path}/")]
    above = [glob for glob in globs if path == glob or path.startswith(f"{glob}/")]
    assert Globs(globs).matches(path) == bool(above)
    assert Globs(globs).reaches(path) == bool(above or below)


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("*a" * 40 + "Z", "a" * 4000),
        ("*a" * 40 + "*Z", "a" * 4000),
        ("?*" * 40 + "Z", "a" * 4000),
        ("[ab]*[!b]*" * 20 + "Z", "a" * 4000),
        ("**/a/" * 40 + "Z", "a/" * 2000 + "a"),
        ("**/*/" * 40 + "Z", "a/" * 2000 + "a"),
        ("**/*a*a*a/" * 20 + "Z", "aaaaaaaa/" * 400 + "a"),
        ("x/" + "**/" * 40 + "Z", "x/" + "a/" * 2000 + "a"),
    ],
)
def test_no_glob_backtracks(glob: str, path: str) -> None:
    # each would take exponential time with backtracking
    found = Globs((glob,))
    assert not found.matches(path)
    assert isinstance(found.reaches(path), bool)


def test_no_glob_of_urls_backtracks() -> None:
    assert url_glob("*a" * 40 + "Z").match("a" * 4000) is None
    assert url_glob("*" + "a" * 5000).match("a" * 5000) is None


def test_the_size_of_globs_is_bounded() -> None:
    with pytest.raises(ConfigurationError):
        Globs(("a" * (MAX_GLOB_LENGTH + 1),))
    with pytest.raises(ConfigurationError):
        Globs(f"*{number}" for number in range(MAX_WILDCARD_CHARACTERS))
    # the number of plain paths is not limited, because they are looked up
    many = Globs(f"sub-{number}/anat" for number in range(100_000))
    assert many.matches("sub-99999/anat/x.nii")
    assert not many.matches("sub-99999/func/x.nii")
    assert not many.reaches("sub-100000")


def test_a_set_does_not_leave_its_name() -> None:
    assert not Globs(("a[+-9]b",)).matches("a/b")
    assert Globs(("a[+-9]b",)).matches("a.b")
