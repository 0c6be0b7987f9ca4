"""The gateway in redirect mode: addresses, headers, ranges, conditions, folders."""

import hashlib
import http.client
from urllib.parse import urlsplit

import pytest
import requests

from neuromirror.web.gateway.content import MAX_RANGES, RangeNotSatisfiableError, parse_ranges
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, links, run_catalogue


@pytest.fixture(scope="session")
def published(demo_harness: MirrorHarness) -> str:
    """The name of a published version with files."""
    with demo_harness.index() as index:
        return index.versions.resolve("demo:000002").name


@pytest.fixture(scope="session")
def nwb(demo_harness: MirrorHarness, published: str) -> tuple[str, str]:
    """Path and sha256 of a file of that version."""
    with demo_harness.index() as index:
        row = index.versions.resolve(*published.split("@"))
        file = next(one for one in index.files.of(row) if one.path.endswith(".nwb"))
        return file.path, file.digest_values["sha256"]


def test_a_file_is_redirected_to_its_exact_object(
    site: RunningCatalogue, published: str, nwb: tuple[str, str]
) -> None:
    path, sha256 = nwb
    reply = site.get(f"/at/{published}/{path}", allow_redirects=False)
    assert reply.status_code == 307
    assert reply.headers["neuromirror-verified"] == "no"
    assert reply.headers["neuromirror-digest"] == f"sha256:{sha256}"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "versionId=" in reply.headers["location"]
    assert urlsplit(reply.headers["location"]).username is None
    content = site.get(f"/at/{published}/{path}").content
    assert hashlib.sha256(content).hexdigest() == sha256
    part = site.get(f"/at/{published}/{path}", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    known = {"If-None-Match": f'"sha256:{sha256}"'}
    assert site.get(f"/at/{published}/{path}", headers=known).status_code == 304


def test_a_document_in_git_is_delivered_with_ranges_and_conditions(
    site: RunningCatalogue, published: str
) -> None:
    address = f"/at/{published}/dandiset.yaml"
    whole = site.get(address)
    assert whole.status_code == 200
    assert whole.headers["etag"] == f'"sha256:{hashlib.sha256(whole.content).hexdigest()}"'
    assert whole.headers["content-type"] == "application/yaml"
    assert whole.headers["content-disposition"] == 'inline; filename="dandiset.yaml"'
    assert whole.headers["neuromirror-verified"] == "yes"
    assert "immutable" in whole.headers["cache-control"]
    assert "content-encoding" not in whole.headers
    assert whole.headers["content-security-policy"].startswith("sandbox;")
    size, etag = len(whole.content), whole.headers["etag"]

    def ask(status: int, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = site.get(address, headers=named)
        assert reply.status_code == status, (headers, reply.text[:200])
        return reply

    part = ask(206, Range="bytes=1-4")
    assert part.content == whole.content[1:5]
    assert part.headers["content-range"] == f"bytes 1-4/{size}"
    assert ask(206, Range="bytes=-3").content == whole.content[-3:]
    assert ask(206, Range=f"bytes=3-{size * 2}").content == whole.content[3:]
    assert ask(200, Range="bytes=4-1").content == whole.content
    assert ask(200, Range="lines=1-2").content == whole.content
    assert ask(416, Range=f"bytes={size}-").headers["content-range"] == f"bytes */{size}"
    assert ask(416, Range="bytes=0-4,2-6").headers["cache-control"] == "no-store"
    ask(416, Range="bytes=" + ",".join(f"{one}-{one}" for one in range(0, 2 * MAX_RANGES + 2, 2)))
    assert ask(304, If_None_Match=f'"x", {etag}').content == b""
    ask(200, If_None_Match='"x"')
    ask(412, If_Match='"x"')
    ask(200, If_Match=etag)
    assert ask(206, Range="bytes=0-0", If_Range=etag).content == whole.content[:1]
    assert ask(200, Range="bytes=0-0", If_Range='"x"').content == whole.content
    assert (
        ask(200, Range="bytes=0-0", If_Range="Mon, 23 Nov 2026 06:50:01 GMT").content
        == whole.content
    )


def test_several_ranges_are_parts(site: RunningCatalogue, published: str) -> None:
    address = f"/at/{published}/dandiset.yaml"
    whole = site.get(address).content
    reply = site.get(address, headers={"Range": "bytes=0-3, 10-11, -2"})
    assert reply.status_code == 206
    kind, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert len(reply.content) == int(reply.headers["content-length"])
    parts = reply.content.split(f"--{boundary}".encode())
    assert parts[-1] == b"--\r\n"
    found = [part.partition(b"\r\n\r\n") for part in parts[1:-1]]
    assert [body[:-2] for _, _, body in found] == [whole[:4], whole[10:12], whole[-2:]]
    assert f"Content-Range: bytes 10-11/{len(whole)}".encode() in found[1][0]


def test_head_has_the_headers_of_get(
    site: RunningCatalogue, published: str, nwb: tuple[str, str]
) -> None:
    for path in ("dandiset.yaml", nwb[0], "", "absent", "?format=json"):
        address = f"/at/{published}/{path}"
        got = site.get(address, allow_redirects=False)
        head = requests.head(site.address + address, allow_redirects=False, timeout=60)
        assert head.status_code == got.status_code
        ignored = {"date"}
        assert {n: v for n, v in head.headers.items() if n not in ignored} == {
            n: v for n, v in got.headers.items() if n not in ignored
        }
    # a HEAD request has no ranges
    ranged = requests.head(
        f"{site.address}/at/{published}/dandiset.yaml", headers={"Range": "bytes=0-0"}, timeout=60
    )
    assert ranged.status_code == 200


def test_names_that_move_are_cached_briefly(site: RunningCatalogue, published: str) -> None:
    for label in ("latest", "draft"):
        reply = site.get(f"/at/demo:000002@{label}/dandiset.yaml")
        assert reply.status_code == 200
        assert "immutable" not in reply.headers["cache-control"]
        assert reply.headers["neuromirror-version"].startswith("demo:000002@")
    commit = site.api(f"/datasets/{published}")["commit"]
    reply = site.get(f"/at/demo:000002@{commit}/dandiset.yaml")
    assert "immutable" in reply.headers["cache-control"]
    for query, accepted, is_fixed in (
        ("/?format=json", "", False),  # has the host of the request
        ("/", "text/html", False),  # its design may change
        ("/dandiset.yaml?format=json", "", False),  # names locations, which may change
    ):
        reply = site.get(f"/at/demo:000002@{commit}{query}", headers={"Accept": accepted})
        assert reply.status_code == 200
        assert ("immutable" in reply.headers["cache-control"]) is is_fixed, query
    short = site.get(f"/at/demo:000002@{commit[:8]}/dandiset.yaml")
    assert "immutable" not in short.headers["cache-control"]


def test_programs_may_encode_the_name(site: RunningCatalogue, published: str) -> None:
    content = site.get(f"/at/{published}/dandiset.yaml").content
    for name in (published.replace("@", "%40"), published.replace(":", "%3A")):
        assert site.get(f"/at/{name}/dandiset.yaml").content == content
    assert site.get(f"/at/{published.replace('@', '%40')}/a@b").status_code == 404
    for address in ("/at/", "/at/demo:000002", "/at/demo:000002/", "/at/@", "/at/@@@@@@@@"):
        assert site.get(address).status_code == 404


def test_no_cache_keeps_urls_with_the_host_of_a_request(
    site: RunningCatalogue, demo_harness: MirrorHarness, published: str
) -> None:
    name, commit = published.partition("@")[0], site.api(f"/datasets/{published}")["commit"]
    paths = [f"/at/{name}@{commit}/?format=json", f"/at/{name}@{commit}/dandiset.yaml?format=json"]
    for path in paths:
        reply = site.get(path, headers={"Host": "evil.example.org"})
        assert "http://evil.example.org/at/" in reply.text
        assert "max-age=0, must-revalidate" in reply.headers["cache-control"]
    with run_catalogue(demo_harness.store, "--address", "https://mirror.example.org") as other:
        replies = [other.get(path, headers={"Host": "evil.example.org"}) for path in paths]
    assert not any("evil" in one.text for one in replies)
    assert "immutable" in replies[0].headers["cache-control"]


def test_folders_are_pages_and_json(site: RunningCatalogue, published: str) -> None:
    top = f"/at/{published}/"
    shown = site.get(top, headers={"Accept": "text/html"}).text
    assert 'href="/help"' in shown
    document = site.get(f"{top}?format=json").json()
    assert document["version"] == published
    assert document["pinned"] is True
    assert document == site.get(top, headers={"Accept": "application/json"}).json()
    entries = {one["name"]: one for one in document["entries"]}
    assert entries["dandiset.yaml"]["type"] == "file"
    folder = next(one for one in document["entries"] if one["name"].startswith("sub-"))
    assert urlsplit(folder["url"]).path in links(shown)
    # programs follow all links, so that there are no others
    assert links(site.page(top)) == [urlsplit(one["url"]).path for one in document["entries"]]
    inner = requests.get(folder["url"], params={"format": "json"}, timeout=60).json()
    assert inner["folder"] == folder["name"]
    file = next(one for one in inner["entries"] if one["type"] == "file")
    assert file["digest"].startswith("sha256:")
    assert requests.get(file["url"], timeout=60).status_code == 200
    # pages of one entry find the same entries
    names, address = [], f"{site.address}{top}?format=json&limit=1"
    while address:
        page = requests.get(address, timeout=60).json()
        names += [one["name"] for one in page["entries"]]
        address = page["next"] and page["next"] + "&limit=1"
    assert names == list(entries)


def test_a_folder_without_slash_is_redirected_unless_a_range_is_requested(
    site: RunningCatalogue, published: str
) -> None:
    document = site.get(f"/at/{published}/?format=json").json()
    folder = next(one["name"] for one in document["entries"] if one["type"] == "folder")
    address = f"/at/{published}/{folder}"
    assert site.get(address, headers={"Range": "bytes=0-9"}).status_code == 404
    assert site.get(f"{address}/absent").status_code == 404
    found = site.get(address, allow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (307, f"{address}/")
    listed = site.get(f"{address}?format=json").json()
    assert listed == site.get(f"{address}/?format=json").json()
    top = site.get(f"/at/{published}", allow_redirects=False)
    assert (top.status_code, top.headers["location"]) == (307, f"/at/{published}/")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../etc/passwd",
            "%2e%2e/%2e%2e/etc/passwd",
            "a%00b",
            "a%0ab",
            "//",
            "./dandiset.yaml",
        ),
        *("dandiset.yaml/", ".git/config", "%ff", "x/../dandiset.yaml", "-", "HEAD", "a" * 9000),
        *("dandiset.yaml%0d%0aX-Odd:1", "%e2%80%ae", "sub-01/..%2f..%2fconfig", "%2fetc%2fpasswd"),
    ],
)
def test_a_hostile_path_is_not_found(site: RunningCatalogue, published: str, path: str) -> None:
    parts = urlsplit(site.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", f"/at/{published}/{path}")
    reply = connection.getresponse()
    body = reply.read()
    assert reply.status in (400, 404), body[:200]
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "x-odd" not in reply.headers
    assert b"root:" not in body
    connection.close()


def test_scripts_of_other_sites_may_read(site: RunningCatalogue, published: str) -> None:
    address = f"{site.address}/at/{published}/dandiset.yaml"
    preflight_headers = {
        "Origin": "https://viewer.example.org",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "range",
    }
    preflight = requests.options(address, headers=preflight_headers, timeout=60)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "Range" in preflight.headers["access-control-allow-headers"]
    for path, status in (("dandiset.yaml", 200), ("absent", 404)):
        reply = site.get(f"/at/{published}/{path}", headers={"Origin": preflight_headers["Origin"]})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == "*"
        exposed = reply.headers["access-control-expose-headers"].split(", ")
        assert {"Content-Range", "Content-Length", "ETag"} <= set(exposed)


def test_the_api_leads_to_the_content(
    site: RunningCatalogue, published: str, nwb: tuple[str, str]
) -> None:
    at = f"{site.address}/at/{published}/"
    assert site.api(f"/datasets/{published}")["at"] == at
    file = site.api(f"/datasets/{published}/file?path={nwb[0]}")
    assert file["at"] == at + nwb[0]
    described = requests.get(f"{file['at']}?format=json", timeout=60).json()
    assert described["digest"] == f"sha256:{nwb[1]}"
    assert described["key"] == file["key"]
    assert described["delivered"] == "redirect"
    assert described["locations"]
    document = requests.get(f"{at}dandiset.yaml?format=json", timeout=60).json()
    assert (document["key"], document["delivered"]) == (None, "document")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        *(("", None), ("bytes", None), ("bytes=", None), ("bytes=a-b", None), ("bytes=-", None)),
        *(("bytes=0-", [(0, 10)]), ("bytes=-0,1-1", [(1, 2)]), ("bytes=-99", [(0, 10)])),
        *(("BYTES = 1-2 , 4-", [(1, 3), (4, 10)]), ("bytes=1-2,20-30", [(1, 3)])),
        *(("bytes=0-999999999999999999", [(0, 10)]), ("bytes=0-" + "9" * 6000, [(0, 10)])),
        *(("bytes=-" + "9" * 24, [(0, 10)]), ("bytes=" + "0" * 30 + "1-2", [(1, 3)])),
        ("bytes=\u0661-2", None),
    ],
)
def test_ranges(header: str, found: list[tuple[int, int]] | None) -> None:
    assert parse_ranges(header, 10) == found


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=-0", "bytes=5-6,0-1", "bytes=0-5,5-6", "bytes=" + "9" * 24 + "-"]
)
def test_refused_ranges(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse_ranges(header, 10)
    with pytest.raises(RangeNotSatisfiableError):
        parse_ranges("bytes=0-", 0)
