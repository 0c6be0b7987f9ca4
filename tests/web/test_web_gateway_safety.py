"""The gateway gives no hostile content an origin, no credential away, and nothing withdrawn."""

import asyncio
import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pytest
import requests

from neuromirror.index import DatasetWithdrawnError, Index
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewayService
from support.gateway_site import ServedFile, mirror_contents, serve_gateway
from support.range_server import RangeServer
from support.running_catalogue import run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource

T = TypeVar("T")
SCRIPT = b"<script>alert(document.domain)</script>"
_NAMES = ["a.html", "a.svg", "a.xhtml", "a.js", "a.mjs", "a.css", "a.xml", "a", "a.swf"]
HOSTILE = dict.fromkeys(_NAMES, SCRIPT)
SECRETS = (
    "https://user:password@bucket.example.org/a",
    "https://bucket.example.org/a?X-Amz-Signature=0&X-Amz-Credential=0",
    "https://bucket.example.org/a?token=secret",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of hostile files."""
    with RangeServer() as server:
        harness = mirror_contents(tmp_path_factory.mktemp("box"), server, HOSTILE)
        with serve_gateway(harness) as at:
            yield at


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_has_no_origin_and_no_script_type(hostile: str, name: str) -> None:
    reply = requests.get(f"{hostile}/{name}", timeout=60)
    assert reply.content == SCRIPT
    policy = reply.headers["content-security-policy"].split("; ")
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    kind = reply.headers["content-type"].partition(";")[0]
    assert "script" not in kind
    assert kind != "text/css"
    shown = reply.headers["content-disposition"].partition(";")[0]
    assert shown == ("inline" if kind == "text/plain" else "attachment")
    assert "set-cookie" not in reply.headers


def test_a_name_cannot_add_a_header(tmp_path: Path) -> None:
    name = 'a"; filename=b.html\u202e.txt'
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {name: b"x"})
        with serve_gateway(harness) as at:
            reply = requests.get(f"{at}/{quote(name)}", timeout=60)
    disposition = reply.headers["content-disposition"]
    assert reply.content == b"x"
    assert disposition.startswith('inline; filename="a__ filename_b.html_.txt"; filename*=UTF-8')
    assert disposition.isascii()


def test_no_redirect_has_a_credential(tmp_path: Path) -> None:
    source = ScriptedSource()
    harness = ScriptedHarness(tmp_path / "box", source)
    public = "https://bucket.example.org/b?versionId=1"
    source.scripted_datasets["data"] = ScriptedDataset(
        {
            "a": ServedFile(b"a", sha256=True, urls=SECRETS),
            "b": ServedFile(b"b", sha256=True, urls=(*SECRETS, public)),
        }
    )
    harness.sync()
    with run_catalogue(harness.store) as site:
        refused = site.get("/at/box:data@latest/a", allow_redirects=False)
        found = site.get("/at/box:data@latest/b", allow_redirects=False)
        described = site.get("/at/box:data@latest/a?format=json").json()
    assert refused.status_code == 502
    assert "location" not in refused.headers
    assert found.headers["location"] == public
    assert described["locations"] == []


PRIVATE = (
    *("http://192.168.0.1/a", "http://127.1/a", "http://localhost:8080/a", "http://[::1]/a"),
    *("http://10.1.2.3/a", "http://0x7f.1/a", "http://[::ffff:10.0.0.1]/a"),
)
METADATA = "http://169.254.169.254/latest/"


@pytest.mark.parametrize("allowed", [False, True])
def test_no_redirect_leads_into_a_visitors_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text('[annex "security"]\n\tallowed-ip-addresses = 192.168.0.1\n' * allowed)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    source = ScriptedSource()
    harness = ScriptedHarness(tmp_path / "box", source)
    public = "https://bucket.example.org/b"
    source.scripted_datasets["data"] = ScriptedDataset(
        {
            "a": ServedFile(b"a", sha256=True, urls=(*PRIVATE, METADATA)),
            "b": ServedFile(b"b", sha256=True, urls=(*PRIVATE, METADATA, public)),
        }
    )
    harness.sync()
    usable = [PRIVATE[0]] if allowed else []
    with run_catalogue(harness.store, "--no-cutouts") as site:
        for form in ("/at/box:data@latest/a", "/download/box:data@latest?path=a"):
            reply = site.get(form, allow_redirects=False)
            assert [reply.headers.get("location")] == (usable or [None]), form
        found = site.get("/at/box:data@latest/b", allow_redirects=False)
        described = site.get("/at/box:data@latest/b?format=json").json()
    assert found.headers["location"] == public
    assert described["locations"] == [public, *usable]


def test_an_archive_in_a_private_network_is_redirected_to(tmp_path: Path) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.bin": b"a"})
        url = f"{server.url}/a.bin"
        with run_catalogue(harness.store) as site:
            reply = site.get("/at/box:data@latest/a.bin", allow_redirects=False)
    assert reply.headers["location"] == url


def test_a_withdrawn_dataset_is_not_delivered(tmp_path: Path) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"a"})
        with serve_gateway(harness) as at:
            assert requests.get(f"{at}/a.txt", timeout=60).status_code == 200
            harness.withdraw("box:data")
            for path in ("a.txt", "", "a.txt?format=json", ".gitattributes"):
                reply = requests.get(f"{at}/{path}", timeout=60)
                assert reply.status_code == 410, path
                assert reply.headers["cache-control"] == "no-store"


class SlowReader(AsyncIndexReader):
    """Answers the first query of the index after an event only."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answered, self.may_return = asyncio.Event(), asyncio.Event()

    async def query(self, question: Callable[[Index], T]) -> T:
        found = await super().query(question)
        if not self.answered.is_set():
            self.answered.set()
            await self.may_return.wait()
        return found


def test_a_version_that_is_withdrawn_during_a_query_is_not_kept(tmp_path: Path) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"a"})
        store = harness.store

    async def find() -> None:
        reader = SlowReader(store.index_path)
        gateway = GatewayService(store, reader, GatewayModes())
        early = asyncio.create_task(gateway.version("box:data", "latest"))
        await reader.answered.wait()
        harness.withdraw("box:data")
        for _ in range(5):  # the first connections change the files of the index
            with pytest.raises(DatasetWithdrawnError):
                await gateway.version("box:data", "latest")
        reader.may_return.set()
        await early
        with pytest.raises(DatasetWithdrawnError):
            await gateway.version("box:data", "latest")

    asyncio.run(find())


def test_a_request_with_a_body_or_another_method_is_refused(hostile: str) -> None:
    parts = urlsplit(hostile)
    for method in ("POST", "PUT", "DELETE", "PROPFIND"):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.request(method, f"{parts.path}/a.html", body=b"x")
        reply = connection.getresponse()
        assert reply.status == 405
        reply.read()
        connection.close()
