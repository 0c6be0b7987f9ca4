"""A content that the cache of this machine has is not downloaded again."""

from __future__ import annotations

import hashlib

import pytest

from neuromirror.annex import key_digest, parse_key
from neuromirror.cache import ContentName, PieceCache, open_cache
from support.web_clone import WebClone

SMALL, LARGE = "small/0.dat", "large/1.dat"


def name_of(clone: WebClone, path: str) -> ContentName:
    key = clone.files[path].key
    digest, size = key_digest(key), parse_key(key).size
    assert digest is not None
    assert size is not None
    return ContentName(*digest, size)


def cached(clone: WebClone, *paths: str, flip: bool = False) -> PieceCache:
    cache = open_cache()
    assert cache is not None
    for path in paths:
        content = clone.files[path].content
        with cache.new_content(name_of(clone, path)) as file:
            file.write(bytes(255 - one for one in content) if flip else content)
    return cache


def test_cached_contents_cost_no_request(web_clone: WebClone) -> None:
    cached(web_clone, SMALL, LARGE)
    found = web_clone.get(SMALL, LARGE)
    assert {one.status for one in found.values()} == {"ok"}
    assert {one.checked for one in found.values()} == {"checked"}
    assert web_clone.web.requests == []
    assert web_clone.has_content(SMALL)
    assert web_clone.has_content(LARGE)
    assert web_clone.recorded_files() == {SMALL, LARGE, "twice.dat"}
    web_clone.annex("fsck", "--quiet", SMALL, LARGE)


def test_pieces_that_are_complete_are_a_content(web_clone: WebClone) -> None:
    cache = cached(web_clone)
    content = web_clone.files[LARGE].content
    part = cache.content(name_of(web_clone, LARGE))
    for start in range(0, len(content), 1 << 20):
        cache.write(part, start, content[start : start + (1 << 20)])
    assert web_clone.get(LARGE)[LARGE].status == "ok"
    assert web_clone.web.requests == []
    assert web_clone.has_content(LARGE)


def test_wrong_cached_contents_are_downloaded(web_clone: WebClone) -> None:
    cached(web_clone, SMALL, LARGE, flip=True)
    assert {one.status for one in web_clone.get(SMALL, LARGE).values()} == {"ok"}
    assert len(web_clone.web.requests) == 2
    assert web_clone.has_content(SMALL)
    assert web_clone.has_content(LARGE)


def test_the_clone_does_not_share_a_file_with_the_cache(web_clone: WebClone) -> None:
    cache = cached(web_clone, LARGE)
    web_clone.get(LARGE)
    (entry,) = cache.entries()
    target = (web_clone.clone / LARGE).resolve()
    assert target.stat().st_ino != entry.path.stat().st_ino
    entry.path.write_bytes(b"changed")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    assert digest == name_of(web_clone, LARGE).value


def test_the_cache_can_be_switched_off(
    web_clone: WebClone, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(web_clone, SMALL)
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    assert web_clone.get(SMALL)[SMALL].status == "ok"
    assert len(web_clone.web.requests) == 1
