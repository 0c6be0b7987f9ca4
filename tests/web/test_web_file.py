"""The page of a file: its past, its places, and what can look at it."""

import ast
import subprocess
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest

from neuromirror.model import Digest, FileRecord, Location
from support.running_catalogue import RunningCatalogue, commands, links, run_catalogue, visible_text
from support.scripted_source import (
    START,
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    files,
)
from support.stub_server import StubServer, responds_with


class FileAtUrls(ScriptedFile):
    """A file that is at other places than the bucket."""

    file_urls: tuple[str, ...] = ()

    def record(self, path: str) -> FileRecord:
        found = tuple(Location(url, "api") for url in self.file_urls)
        return msgspec.structs.replace(super().record(path), locations=found)


def file_at(*urls: str) -> ScriptedFile:
    """A file at places of its own."""
    found = FileAtUrls(repr(urls).encode())
    found.file_urls = urls
    return found


class FileInParts(ScriptedFile):
    """A file whose only checksum is that of an upload in parts."""

    def record(self, path: str) -> FileRecord:
        etag = Digest("etag", f"{'0123456789abcdef' * 2}-1", "bucket")
        return msgspec.structs.replace(super().record(path), digests=(etag,), part_size=5 << 20)


DANDI = "https://api.dandiarchive.org/api/assets/546a7033/download/"
OPEN = "https://bucket.example.org/some.nwb"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ScriptedHarness:
    """A store with files of each sort, which tests only look at."""
    source = ScriptedSource()
    found = ScriptedHarness(tmp_path_factory.mktemp("files"), source)
    source.scripted_datasets["one"] = ScriptedDataset(
        {"a.txt": ScriptedFile(b"first"), "same.txt": ScriptedFile(b"shared")}
    )
    source.scripted_datasets["two"] = ScriptedDataset({"deep/copy.txt": ScriptedFile(b"shared")})
    source.scripted_datasets["parts"] = ScriptedDataset({"a.bin": FileInParts(b"in parts")})
    source.scripted_datasets["000027"] = ScriptedDataset(
        {
            "dandi.nwb": file_at(OPEN, DANDI),
            "open.nwb": file_at("http://127.0.0.1:9/x.nwb", OPEN + "?versionId=1"),
            "inner.nwb": file_at(
                "https://10.0.0.1/x.nwb", "https://localhost/x.nwb", "http://a.org/x"
            ),
            "brain.nii.gz": file_at("https://bucket.example.org/brain.nii.gz"),
            "notes.txt": file_at("https://bucket.example.org/notes.txt"),
        }
    )
    found.sync()
    later = START + timedelta(hours=1)
    source.scripted_datasets["one"].files["a.txt"] = ScriptedFile(b"second", later)
    found.sync()
    del source.scripted_datasets["one"].files["a.txt"]
    found.sync()
    return found


def viewers(shelf: RunningCatalogue, path: str) -> list[str]:
    page = shelf.page(f"/file/box:000027@latest?path={quote(path)}")
    ours = ("https://neurosift.app", "https://neuroglancer-demo")
    return [link for link in links(page) if link.startswith(ours)]


def test_the_past_of_a_path_leads_to_what_it_held(catalogue: RunningCatalogue) -> None:
    first, second, gone = [
        one["version"] for one in catalogue.api("/datasets/box:one/versions")["versions"]
    ]
    page = catalogue.page(f"/file/box:one@{second}?path=a.txt")
    spans = [link for link in links(page) if link.startswith("/file/box:one@")]
    assert {span.split("@")[1].split("?")[0] for span in spans} == {first, second}
    assert visible_text(page).count("this content") >= 1
    assert "6 B" in catalogue.text(f"/file/box:one@{second}?path=a.txt")
    # where it is no more, the page says where it was
    error = catalogue.page(f"/file/box:one@{gone}?path=a.txt", 404)
    near = [link for link in links(error) if link.startswith("/file/box:one@")]
    assert near
    assert all(catalogue.get(one).status_code == 200 for one in near)


def test_viewers_get_only_public_urls_of_known_formats(catalogue: RunningCatalogue) -> None:
    assert viewers(catalogue, "inner.nwb") == []
    assert viewers(catalogue, "notes.txt") == []
    (address,) = viewers(catalogue, "brain.nii.gz")
    assert address.startswith("https://neuroglancer-demo.appspot.com/#!")


def test_a_name_that_a_shell_would_read_is_quoted(box: ScriptedHarness) -> None:
    name = "$(touch owned) 'x'; -y.txt"
    box.datasets["odd"] = ScriptedDataset(
        files("b.txt") | {name: file_at("https://bucket.example.org/y")}
    )
    box = ScriptedHarness(box.folder.parent / "odd", box.source)
    box.sync()
    with run_catalogue(box.store) as site:
        page = site.page(f"/file/box:odd@latest?path={quote(name)}")
        shell = [one for one in commands(page) if one.startswith(("curl", "neuromirror"))]
        assert len(shell) == 2
        for command in shell:
            script = command.replace("curl", "echo").replace("neuromirror", "echo")
            stdout = subprocess.run(
                ["sh", "-ec", script.partition("|")[0]],
                capture_output=True,
                text=True,
                check=True,
                cwd=box.folder,
            ).stdout
            assert name in stdout or quote(name, safe="/") in stdout.replace("+", "%20")
        (code,) = [one for one in commands(page) if one.startswith("import urllib")]
        assert repr(name) in repr(ast.literal_eval(code.rpartition(", ")[2].rstrip(")")))
        assert not (box.folder / "owned").exists()


def test_the_curl_command_requests_only_the_url_of_the_file(tmp_path: Path) -> None:
    with StubServer() as server:
        server.answers["/{a,b}[1-3]"] = responds_with(200, b"content")
        source = ScriptedSource(uri=f"{server.url}/")
        box = ScriptedHarness(tmp_path / "box", source)
        url = f"{server.url}/{{a,b}}[1-3]"
        source.scripted_datasets["odd"] = ScriptedDataset({"#1.txt": file_at(url)})
        box.sync()
        with run_catalogue(box.store, "--no-cutouts") as site:
            page = site.page(f"/file/box:odd@latest?path={quote('#1.txt')}")
            (command,) = [one for one in commands(page) if one.startswith("curl ")]
        (data := tmp_path / "data").mkdir()
        script = command.partition("\n")[0]  # the md5 is that of the harness
        subprocess.run(["sh", "-ec", script], cwd=data, capture_output=True, check=True)
        assert [unquote(request.path) for request in server.requests] == ["/{a,b}[1-3]"]
    assert (data / "#1.txt").read_bytes() == b"content"
