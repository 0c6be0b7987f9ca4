"""``get`` leaves the same files and records as git-annex, and uses the cache of this machine."""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from neuromirror.annex import key_digest, parse_key
from neuromirror.cache import ContentName, PieceCache, open_cache
from neuromirror.model import ConfigurationError, Evidence
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.transfer import get
from support.block_digests import digests_of
from support.web_clone import (
    LARGE,
    WebClone,
    branch_logs,
    cut_after,
    git,
    hold_until,
    object_modes,
    other_bytes,
    temporary_files,
)

NOWHERE = "nowhere.dat"


def test_object_files_and_logs_are_those_of_git_annex(web_clone: WebClone) -> None:
    theirs, there = web_clone.copy("theirs"), set(web_clone.files) - {NOWHERE}
    git(theirs, "annex", "get", "-q", *there)
    got = web_clone.get()
    assert {path: one.status for path, one in got.items()} == {
        **dict.fromkeys(there, "ok"),
        NOWHERE: "impossible",
    }
    assert all(map(web_clone.has_content, there))
    assert object_modes(web_clone.clone) == object_modes(theirs)
    assert temporary_files(web_clone.clone) == []
    assert branch_logs(web_clone.clone) == branch_logs(theirs)
    assert git(web_clone.clone, "status", "--porcelain") == ""
    assert web_clone.recorded_files() == there
    complaints = web_clone.annex("fsck", *there)
    assert not any(word in complaints for word in ("fixing", "**", "failed"))


def test_two_paths_of_one_key_cost_one_request_and_present_content_none(
    web_clone: WebClone,
) -> None:
    for status in ("ok", "notneeded"):
        got = web_clone.get("small/0.dat", "twice.dat")
        assert [one.status for one in got.values()] == [status, status]
        assert web_clone.web.paths() == [web_clone.url_path("twice.dat")]


def test_only_named_paths_are_downloaded(web_clone: WebClone) -> None:
    got = web_clone.get("small/3.dat", str(web_clone.clone / "kinds"))
    assert set(got) == {path for path in web_clone.files if path.startswith("kinds/")} | {
        "small/3.dat"
    }
    assert not web_clone.has_content("small/4.dat")


def test_paths_are_resolved_through_symlinked_folders(web_clone: WebClone) -> None:
    link = web_clone.folder / "link"
    link.symlink_to(web_clone.clone / "small")
    got = list(
        get(web_clone.clone / "kinds", [link / "1.dat", web_clone.clone / "small" / "2.dat"])
    )
    assert {one.path for one in got} == {"small/1.dat", "small/2.dat"}


def test_each_outcome_has_its_evidence(web_clone: WebClone) -> None:
    got = web_clone.get("small/1.dat", "kinds")
    proved = {path.rpartition("/")[2]: (one.evidence, one.checked) for path, one in got.items()}
    assert proved["1.dat"] == (Evidence.SHA256, "checked")
    assert proved["md5e.tar.gz"] == (Evidence.MD5, "checked")
    assert proved["etag"] == (Evidence.ETAG, "checked")
    assert proved["url"] == (Evidence.SIZE, "checked")
    assert proved["url-no-size"] == (Evidence.NONE, None)
    assert proved["SHA512"] == (None, "checked")
    assert got["kinds/etag"].size == LARGE
    assert got["small/1.dat"].url == web_clone.files["small/1.dat"].urls[0]


def test_an_unknown_path_is_reported_and_the_rest_is_fetched(web_clone: WebClone) -> None:
    got = web_clone.get("small/1.dat", "small/none.dat", "README")
    assert got["small/none.dat"].status == "impossible"
    assert got["small/1.dat"].status == "ok"
    assert got["README"].status == "notneeded"


def test_a_file_without_a_url_names_the_repositories_that_have_it(web_clone: WebClone) -> None:
    got = web_clone.get(NOWHERE)
    assert got[NOWHERE].status == "impossible"
    assert "attic" in got[NOWHERE].message


def test_a_path_outside_of_the_clone_is_a_usage_error(web_clone: WebClone) -> None:
    with pytest.raises(ConfigurationError, match="not in the dataset"):
        web_clone.get("../elsewhere")


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        list(get(tmp_path))
    git(tmp_path, "init", "-q")
    with pytest.raises(ConfigurationError, match="no git-annex branch"):
        list(get(tmp_path))


def test_git_annex_is_initialized_in_a_plain_git_clone(web_clone: WebClone) -> None:
    fresh = web_clone.folder / "fresh"
    git(
        web_clone.folder,
        "clone",
        "-q",
        git(web_clone.clone, "config", "remote.origin.url").strip(),
        str(fresh),
    )
    got = list(get(fresh, ["small/1.dat"]))
    assert [one.status for one in got] == ["ok"]
    assert git(fresh, "config", "annex.uuid").strip() in git(fresh, "annex", "whereis", "small")


def test_fetched_git_annex_branches_are_merged(web_clone: WebClone) -> None:
    origin = Path(git(web_clone.clone, "config", "remote.origin.url").strip())
    other = web_clone.folder / "other"
    git(web_clone.folder, "clone", "-q", str(origin), str(other))
    git(other, "annex", "init", "-q", "other")
    url = f"{web_clone.web.url}/late"
    web_clone.web.contents["/late"] = web_clone.files[NOWHERE].content
    git(
        other,
        "-c",
        "annex.security.allowed-ip-addresses=all",
        "annex",
        "registerurl",
        web_clone.files[NOWHERE].key,
        url,
    )
    git(web_clone.clone, "fetch", "-q", str(other), "+git-annex:refs/remotes/other/git-annex")
    assert web_clone.get(NOWHERE)[NOWHERE].status == "ok"


def test_a_link_that_leads_out_of_the_annex_writes_nothing_there(web_clone: WebClone) -> None:
    for name, target in {
        "out": ".git/annex/objects/aa/bb/../../../../../../out/SHA256E-s1--x",
        "up": ".git/annex/objects/..",
        "strange": ".git/annex/objects/aa/bb/SHA256E-s5--a\nb/SHA256E-s5--a\nb",
    }.items():
        (web_clone.clone / name).symlink_to(target)
    git(web_clone.clone, "add", ".")
    before = sorted(web_clone.folder.iterdir())
    got = web_clone.get("out", "up", "strange")
    assert {one.status for one in got.values()} == {"impossible"}
    assert sorted(web_clone.folder.iterdir()) == before
    assert object_modes(web_clone.clone) == {}


def test_an_interrupted_get_keeps_and_records_what_arrived(web_clone: WebClone) -> None:
    over = threading.Event()
    for number in (10, 11):
        web_clone.web.faults[web_clone.url_path(f"small/{number}.dat")] = [hold_until(over)]
    outcomes = get(web_clone.clone, ["small"], jobs=3)
    next(outcomes)
    had = {f"small/{number}.dat" for number in range(10)}
    until = time.monotonic() + 600
    while not all(map(web_clone.has_content, had)) and time.monotonic() < until:
        time.sleep(0.01)
    outcomes.close()  # type: ignore[attr-defined]
    over.set()
    assert web_clone.recorded_files() == had | {"twice.dat"}
    assert temporary_files(web_clone.clone) == []


def test_block_digests_of_large_files_are_recorded(web_clone: WebClone) -> None:
    large = ("large/1.dat", "large/2.dat", "kinds/etag")
    web_clone.web.faults[web_clone.url_path("large/2.dat")] = [other_bytes]
    folder = BlockDigestsFolder.of_user()
    assert web_clone.get("large/2.dat")["large/2.dat"].status == "error"
    assert list(folder.paths()) == []
    web_clone.web.faults.clear()
    web_clone.web.faults[web_clone.url_path("large/1.dat")] = [cut_after(LARGE // 2)]
    web_clone.get(*large, "small/1.dat")
    for path in large:
        file = web_clone.files[path]
        part_size = 1 << 20 if path == "kinds/etag" else None
        assert web_clone.has_content(path)
        assert folder.read(file.key) == digests_of(file.content, 1 << 20, part_size)
    assert len(list(folder.paths())) == len(large)


def test_a_folder_that_cannot_be_written_does_not_fail_a_download(web_clone: WebClone) -> None:
    root = BlockDigestsFolder.of_user().root
    root.parent.mkdir(parents=True)
    root.write_text("a file in place of the folder")
    assert web_clone.get("large/1.dat")["large/1.dat"].status == "ok"


SMALL, CACHED = "small/0.dat", "large/1.dat"


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
    cached(web_clone, SMALL, CACHED)
    found = web_clone.get(SMALL, CACHED)
    assert {one.status for one in found.values()} == {"ok"}
    assert {one.checked for one in found.values()} == {"checked"}
    assert web_clone.web.requests == []
    assert web_clone.has_content(SMALL)
    assert web_clone.has_content(CACHED)
    assert web_clone.recorded_files() == {SMALL, CACHED, "twice.dat"}
    web_clone.annex("fsck", "--quiet", SMALL, CACHED)


def test_pieces_that_are_complete_are_a_content(web_clone: WebClone) -> None:
    cache = cached(web_clone)
    content = web_clone.files[CACHED].content
    part = cache.content(name_of(web_clone, CACHED))
    for start in range(0, len(content), 1 << 20):
        cache.write(part, start, content[start : start + (1 << 20)])
    assert web_clone.get(CACHED)[CACHED].status == "ok"
    assert web_clone.web.requests == []
    assert web_clone.has_content(CACHED)


def test_wrong_cached_contents_are_downloaded(web_clone: WebClone) -> None:
    cached(web_clone, SMALL, CACHED, flip=True)
    assert {one.status for one in web_clone.get(SMALL, CACHED).values()} == {"ok"}
    assert len(web_clone.web.requests) == 2
    assert web_clone.has_content(SMALL)
    assert web_clone.has_content(CACHED)


def test_the_clone_does_not_share_a_file_with_the_cache(web_clone: WebClone) -> None:
    cache = cached(web_clone, CACHED)
    web_clone.get(CACHED)
    (entry,) = cache.entries()
    target = (web_clone.clone / CACHED).resolve()
    assert target.stat().st_ino != entry.path.stat().st_ino
    entry.path.write_bytes(b"changed")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    assert digest == name_of(web_clone, CACHED).value


def test_the_cache_can_be_switched_off(
    web_clone: WebClone, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(web_clone, SMALL)
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    assert web_clone.get(SMALL)[SMALL].status == "ok"
    assert len(web_clone.web.requests) == 1
