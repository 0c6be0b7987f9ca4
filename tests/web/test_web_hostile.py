"""Hostile names in all URLs, and as the names of real files."""

import hashlib
import http.client
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest

from neuromirror.model import DatasetFacts, Digest, FileRecord, Location
from neuromirror.web.api.datasets import OPERATIONS
from neuromirror.web.api.operations import ROOT
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, links, run_catalogue, visible_text
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource

_MARK = "<script>alert(1)</script>"
_ODD = [
    *(_MARK.encode(), b"'\"><img src=x onerror=alert(1)>", b"{{ 1234 * 5678 }}", b"{% raw %}"),
    *(b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r\nX-Odd: 1", b"\n", b"\x1b[31m", b"\x7f"),
    *("\u202e".encode(), "\u2066".encode(), "\u2028".encode(), "\ufeff".encode(), b"\xef\xbf\xbe"),
    *(b"..", b"../../../../etc/passwd", b".", b"//", b"/", b"\\", b"%", b"%2e%2e", b"%00", b"~"),
    *(b"demo:", b"demo:000001", b"DEMO:000001", b"demo:000001@draft", b"@", b":", b"", b"a@b@c"),
    *(b"draft", b"latest", b"Latest", b"state:abcdef0", b"0" * 7, b"f" * 40, b"sha256:" + b"0" * 8),
    *(b"-1", b"0", b"1e9", b"9" * 5000, b"NaN", "\u0663".encode(), b"1" * 19, b"true", b"null"),
    *(b"'; DROP TABLE files; --", b'" OR 1=1', b"NEAR(a b)", b"a* AND", b"sub-1", b"path:x", b"*"),
    *(b"x" * 10_000, "\U0001f9e0".encode() * 2000, "e\u0301".encode(), "\u0130".encode(), b""),
    *(b"MD5E-s0--d41d8cd98f00b204e9800998ecf8427e.txt", b"etag:" + b"0" * 32 + b"-2", b"AAAA"),
    *(b"W10", b"WzEsMiwiYSIsM10", b"bnVsbA", b"Ii4uIg", b"LTE", b"OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk"),
]
_ADDRESSES = """
    /?q={} /search?archive={} /?q=a&page={} /?q={}&mirror={} /?{}={} /{} /{}/{} /dataset/{}
    /dataset/{}@{} /dataset/demo:000001@{} /dataset/demo:{}@draft
    /dataset/demo:000001@draft?under={} /dataset/demo:000001@draft?start={}
    /dataset/demo:000001@draft?under={}&start={} /dataset/demo:000001@draft?q={}
    /dataset/demo:000001?before={} /dataset/demo:000001?page={} /dataset/demo:000001?{}={}
    /file/demo:000001@draft?path={} /file/{}@{}?path={} /file/demo:000001@{}?path=a
    /checksums/{}@{} /checksums/demo:000001@{} /cite/{}@{} /cite/demo:000001@draft?format={}
    /badge/{}@{}.svg /badge/demo:000001@{}.svg /volume/{}@{}
    /slice/{}@{}.png /cutout/{}@{} /volume/demo:000001@draft?{}={} /diff?a={}&b={}
    /diff?a=demo:000001@{}&b=demo:000001@draft /diff?a={} /find?checksum={}
    /diff?a=demo:000001@draft&b=demo:000002@draft&page={} /find?checksum=sha256:{}
    /diff?dataset={} /diff?dataset=demo:000001&other={} /diff?a={}&b={}&under={} /lock?add={}
    /lock?add=demo:000001@{}&q={} /lock/datasets.lock?add={} /lock/datasets.lock.zip?add={}&add={}
    /lock/files.curl?add=demo:000001@draft&path={} /at/{}@{}/{} /at/demo:000001@draft/{}
    /at/demo:000001@draft/?format={}&after={} /lock/{}?add={} /download/{}@{}?path=a
    /download/demo:000001@draft?path={} /croissant/{}@{}.json /harvest.json?since={}
    /harvest.json?page={} /events?kind={} /events?mirror={} /events?before={}
    /mirrors?{}={} /feed/{}.atom /feed/demo:{}.atom /sitemap/{}.xml /alias/{}/HEAD /alias/{}/{}
    /manifests/00/{} /tombstones/{}.json /-/{} /-/static-plugins/neuromirror/{} /index/{}
"""
_PAGES = _ADDRESSES.split()
_APIS = [
    ROOT
    + re.sub(r"\{\w+\}", "{}", path)
    + ("?" + "&".join(f"{one.name}={{}}" for one in operation.parameters if named(one.name)))
    for operation in OPERATIONS
    for path in (operation.path, operation.path.replace("{name}@{version}", "demo:000001@draft"))
    for named in (
        lambda name: True,
        lambda name: name in ("path", "after", "q", "checksum", "a", "b"),
    )
]


@dataclass
class Answer:
    """The response to a request."""

    status: int
    kind: str
    body: bytes


def get_unnormalized(address: str, path: str) -> Answer:
    """A request target that is sent without normalization."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers.get("content-type", ""), reply.read())
    finally:
        connection.close()


def check(answer: Answer, path: str, store: Path) -> None:
    """Assert that a response is no server error, runs no script, and reveals no local details."""
    assert answer.status < 500, (path, answer.status, answer.body[-800:])
    for private in (str(store), "site-packages", "Traceback", ".sqlite", "/src/neuromirror"):
        if private not in path:
            assert private.encode() not in answer.body, (path, private)
    if answer.kind.startswith(("text/html", "image/svg", "application/atom", "application/xml")):
        assert b"<script>alert" not in answer.body, path
        assert b"<img src=x" not in answer.body, path
        assert b"7006652" not in answer.body, path
        text = answer.body.decode()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text), path
    if "xml" in answer.kind:
        ElementTree.fromstring(answer.body)
    if "json" in answer.kind:
        answer.body.decode("ascii")


def test_no_value_in_any_address_breaks_a_page(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    """Each address with some of the values in turn, so that all are tried in several addresses."""
    odd = cycle(_ODD)
    for template in [*_PAGES, *_APIS]:
        for value in (_MARK.encode(), b"\xff", b"9" * 5000, *islice(odd, 3)):
            path = template.replace("{}", quote(value, safe=""))
            check(get_unnormalized(site.address, path), path, demo_harness.folder)


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /dataset/\xff\xfe HTTP/1.1\r\nHost: x\r\n",
        b"GET /api/v1/datasets?q=\xe2\x80\xae HTTP/1.1\r\nHost: x\r\n",
        b"GET http://elsewhere.example.org/ HTTP/1.1\r\nHost: x\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n",
        b"GET //elsewhere.example.org/%2e%2e HTTP/1.1\r\nHost: x\r\n",
        b"GET /?q=a#frag HTTP/1.1\r\nHost: x\r\n",
        b'GET / HTTP/1.1\r\nHost: "><script>alert(1)</script>\r\n',
        b"GET /feed.atom HTTP/1.1\r\nHost: <script>alert(1)</script>&\r\n",
        b"GET /api/v1/datasets?limit=1 HTTP/1.1\r\nHost: a>,<b\r\n",
        b'GET /api/v1/datasets HTTP/1.1\r\nHost: x\r\nIf-None-Match: \xff"\xe9,W/\r\n',
        b"GET /dataset/demo:000001 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n",
        b"TRACE /api/v1 HTTP/1.1\r\nHost: x\r\nX-Secret: 1\r\n",
        b"OPTIONS /api/../neuromirror/store.json HTTP/1.1\r\nHost: x\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n",
    ],
)
def test_a_request_that_no_browser_makes_breaks_nothing(
    site: RunningCatalogue, demo_harness: MirrorHarness, lines: bytes
) -> None:
    where = urlsplit(site.address)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as asking:
        asking.sendall(lines + b"Connection: close\r\n\r\n")
        reply = b""
        while block := asking.recv(1 << 16):
            reply += block
    head, _, body = reply.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    kind = re.search(rb"(?im)^content-type: (.*?)\r?$", head)
    check(
        Answer(status, kind[1].decode() if kind else "", body),
        repr(lines[:80]),
        demo_harness.folder,
    )
    assert b"X-Secret" not in reply
    assert site.get("/api/v1").status_code == 200


# --- files with such names

_NAMES = [
    *(b".git/config", b".GIT/hooks/post-checkout", b"git~1", b".gitmodules", b".gitattributes"),
    *(b"new\nline.txt", b"tab\tand\rreturn", b"\x1b[31mred", b"bytes-\xff\xfe.nwb", b"half-\xc3/x"),
    *(_MARK.encode(), b"'quotes\" & <b>.txt", b"{{ 1234 * 5678 }}.txt", b"{% include 'x' %}"),
    *(b"100%.txt", b"%2e%2e/%41", b"a+b c&d=e?f#g;h", b"back\\slash\\", b"..", b"../up", b"a//b"),
    *("Ünï/\u4f60\u597d.nwb".encode(), "\u202egnp.txt".encode(), "e\u0301.txt".encode()),
    *("é.txt".encode(), b"Case.txt", b"case.txt", b"CASE/x", b"case/x", b"con", b"aux.txt", b" "),
    *(b"deep/" * 30 + b"end.txt", b"x" * 250, "\U0001f9e0".encode() * 60, b"-rf", b"*", b"~", b":"),
    *(
        b"sub-01/a.nwb",
        b"sub-01/a.nwb.json",
        b"sub-01.nwb",
        b"sub-01@draft",
        b"#hash",
        b"q?under=x",
    ),
]


_DATASETS = ["a?b/<d> #é&'\"+", "{{1}}/o@d/files", "a/versions"]


@dataclass
class HostileMirror(ScriptedFile):
    """A file with a name of any bytes."""

    def record(self, path: str) -> FileRecord:
        name = path.encode("utf-8", "surrogateescape")
        plain = super().record("x")
        url = f"https://bucket.example.invalid/{quote(name)}?versionId=1"
        sha256 = Digest("sha256", hashlib.sha256(self.content).hexdigest(), "bucket")
        return FileRecord(
            name,
            plain.size,
            (*plain.digests, sha256),
            (Location(url, "s3", "1"),),
            modified=plain.modified,
        )


@dataclass
class HostileSite(RunningCatalogue):
    """The catalogue of the store in ``folder``."""

    folder: Path = Path()


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileSite]:
    """The catalogue of a dataset with files of such names, and of some with odd ones themselves."""
    source = ScriptedSource()
    box = ScriptedHarness(tmp_path_factory.mktemp("odd") / "box", source)
    files: dict[str, ScriptedFile] = {
        name.decode("utf-8", "surrogateescape"): HostileMirror(b"content of %d" % number)
        for number, name in enumerate(_NAMES)
    }
    source.scripted_datasets["odd"] = ScriptedDataset(
        files,
        facts=DatasetFacts(title=f"Odd {_MARK} & \u202e\x07 {{{{ 1234 * 5678 }}}} ' onload=x"),
    )
    for name in _DATASETS:
        source.scripted_datasets[name] = ScriptedDataset({"a.txt": ScriptedFile(b"1")})
    box.sync()
    with run_catalogue(box.store) as site:
        yield HostileSite(site.address, folder=box.folder)


def test_every_file_that_is_shown_can_be_followed_to_its_page_and_its_checksum(
    hostile_site: HostileSite,
) -> None:
    listed = hostile_site.api("/datasets/box:odd@latest/files?limit=1000")["files"]
    digests = {one["path"]: one["digests"]["sha256"] for one in listed}
    assert len(digests) >= len(_NAMES) - 2
    sums = hostile_site.page("/checksums/box:odd@latest").splitlines()
    for path in ("/", "/?q=odd", "/dataset/box:odd", "/feed.atom"):
        check(get_unnormalized(hostile_site.address, path), path, hostile_site.folder)
    waiting, followed = ["/dataset/box:odd@latest"], []
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        page = hostile_site.page(path)
        check(get_unnormalized(hostile_site.address, path), path, hostile_site.folder)
        found = links(page)
        waiting += [one for one in found if "under=" in one or "start=" in one]
        for link in found:
            if link.startswith("/file/") and link not in seen:
                seen.add(link)
                check(get_unnormalized(hostile_site.address, link), link, hostile_site.folder)
                text = visible_text(hostile_site.page(link))
                (digest,) = {one for one in digests.values() if one in text}
                followed.append(digest)
    assert sorted(followed) == sorted(digests.values())
    for path, digest in digests.items():
        assert f"{digest}  {path}" in sums
        file = hostile_site.get(
            "/api/v1/datasets/box:odd@latest/file", params={"path": path}
        ).json()
        assert file["digests"]["sha256"] == digest
        assert hostile_site.get(file["page"]).status_code == 200


def test_files_with_odd_names_are_paged_and_searchable(hostile_site: HostileSite) -> None:
    whole = [one["path"] for one in hostile_site.api("/datasets/box:odd@latest/files")["files"]]
    found: list[str] = []
    following = "/datasets/box:odd@latest/files?limit=3"
    while following:
        page = hostile_site.api(following)
        found += [one["path"] for one in page["files"]]
        following = (page["next"] or "").partition(ROOT)[2]
    assert found == whole
    for path in whole:
        reply = hostile_site.get("/api/v1/datasets/box:odd@latest/paths", params={"q": path})
        if any(letter.isalnum() for letter in path):
            assert path in [one["path"] for one in reply.json()["files"]], path
        else:
            assert reply.status_code == 400


@pytest.mark.parametrize("local_id", _DATASETS)
def test_a_dataset_with_an_odd_name_is_reached_by_every_link_to_it(
    hostile_site: HostileSite, local_id: str
) -> None:
    name = f"box:{local_id}"
    (listed,) = [one for one in hostile_site.api("/datasets")["datasets"] if one["name"] == name]
    document = hostile_site.api(f"/datasets/{quote(name, safe=':')}")
    assert document["name"] == name == listed["name"]
    (version,) = document["all_versions"]
    whole = hostile_site.api(f"/datasets/{quote(name, safe=':')}@{version['version']}")
    assert whole["name"] == f"{name}@{version['version']}"
    for rest in ("/files", "/folder", "/file?path=a.txt", "/citation", "/ancestry"):
        path = f"/datasets/{quote(name, safe=':')}@{version['version']}{rest}"
        assert hostile_site.api(path).get("version", whole["name"]) == whole["name"]
    diff = hostile_site.get("/api/v1/diff", params={"a": whole["name"], "b": whole["name"]})
    assert diff.json()["changes"] == []
    for start in (document["page"], whole["page"]):
        page = hostile_site.page(start)
        assert name in visible_text(page)
        for link in links(page):
            if link.startswith(("/", hostile_site.address)) and "neuromirror/catalogue" not in link:
                reply = hostile_site.get(link, allow_redirects=False)
                expected = 302 if link.startswith("/download/") else 200
                assert reply.status_code == expected, (start, link)
    assert name in hostile_site.page(whole["checksums"])
    feed = ElementTree.fromstring(hostile_site.page(f"/feed/{quote(name, safe=':')}.atom"))
    for link in feed.iter("{http://www.w3.org/2005/Atom}link"):
        assert hostile_site.get(link.get("href", "")).status_code == 200
