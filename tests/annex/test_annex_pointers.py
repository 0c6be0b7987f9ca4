"""Pointer files and the targets of annex symlinks."""

import pytest

from neuromirror.annex import (
    MAX_POINTER_BYTES,
    POINTER_PREFIX,
    find_pointer_key,
    is_pointer,
    link_target,
    parse_link_target,
    parse_pointer,
    pointer_content,
)

KEY = "SHA256E-s5--" + "ab" * 32 + ".nwb"
ESCAPED_KEY = "VURL-s1--https://archive.example/a%b&c"


@pytest.mark.parametrize("key", [KEY, ESCAPED_KEY])
def test_a_written_pointer_or_link_is_parsed(key):
    assert parse_pointer(pointer_content(key)) == key
    assert find_pointer_key(pointer_content(key)) == key
    for path in (b"a", b"a/b/c.nwb"):
        assert parse_link_target(link_target(key, path)) == key
        assert find_pointer_key(link_target(key, path)) == key


def test_text_after_the_first_line_of_a_pointer_is_ignored():
    assert parse_pointer(pointer_content(KEY) + b"more\n") == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b" " + pointer_content(KEY),
        POINTER_PREFIX + b"no key\n",
        POINTER_PREFIX + b"SHA256E-s1--\xff\n",
        pointer_content(KEY) + bytes(MAX_POINTER_BYTES),
    ],
)
def test_other_contents_are_no_pointers(content):
    assert parse_pointer(content) is None


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"a/b",
        b"annex/objects/k/MD5--k/MD5--k",
        b".git/annex/objects/aa/bb/MD5--k/MD5--other",
        b".git/annex/objects/aa/bb/not a key/not a key",
        b".git/other/aa/bb/MD5--k/MD5--k",
    ],
)
def test_other_targets_are_no_annex_links(target):
    assert parse_link_target(target) is None


@pytest.mark.parametrize(
    "content",
    [
        b"../x.git/annex/objects/aa/bb/" + KEY.encode() + b"/" + KEY.encode(),
        b"prefix" + POINTER_PREFIX + KEY.encode() + b"\r\n",
    ],
)
def test_forms_that_git_annex_accepts_are_found(content):
    assert find_pointer_key(content) == KEY
    assert parse_pointer(content) is None


def test_a_pointer_is_recognized_by_its_start_and_its_size():
    assert is_pointer(POINTER_PREFIX, MAX_POINTER_BYTES)
    assert not is_pointer(POINTER_PREFIX, MAX_POINTER_BYTES + 1)
    assert not is_pointer(POINTER_PREFIX[:-1], 20)
