"""Clones to download files into, and a web server with faults that serves their files."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuromirror.annex import (
    UrlRemote,
    UrlRemotes,
    link_target,
    location_log,
    log_path,
    md5e_key,
    sha256e_key,
    url_key,
    url_log,
    url_log_path,
    uuid_line,
    web_remote,
)
from neuromirror.annex.keys import xs3etag_key
from neuromirror.git import BatchObjectReader
from neuromirror.lab import Outcome, get
from support.loopback_http import HttpService, ServiceHandler, send_reply

STAMP = 1_700_000_000
LARGE = 3 << 20
ATTIC = "11111111-2222-4333-8444-555555555555"
API = "22222222-2222-4333-8444-555555555555"

Fault = Callable[["WebHandler", bytes], None]


@dataclass
class RecordedRequest:
    """A request: path, headers, and the client's connection."""

    path: str
    headers: Mapping[str, str]
    connection: tuple[str, int]


class WebHandler(ServiceHandler):
    def send_content(self, content: bytes) -> None:
        """Send a file, or the requested range of it."""
        byte_range = self.headers.get("Range")
        if byte_range is None:
            self.reply(200, content)
            return
        start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.reply(416, b"")
            return
        about = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(206, content[start:], Content_Range=about)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        send_reply(self, status, body, **headers)


@dataclass
class FaultyWebServer(HttpService):
    """A server on loopback; ``faults`` lists the faults of successive requests, by path."""

    interface: str = "127.0.0.1"
    contents: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[RecordedRequest] = field(default_factory=list)

    handler_type = WebHandler

    def answer(self, handler: WebHandler) -> None:
        self.requests.append(
            RecordedRequest(handler.path, dict(handler.headers), handler.client_address)
        )
        faults = self.faults.get(handler.path, [])
        content = self.contents.get(handler.path)
        fault = faults.pop(0) if len(faults) > 1 else faults[0] if faults else None
        if fault is not None:
            fault(handler, content or b"")
        elif content is None:
            handler.reply(404, b"not here")
        else:
            handler.send_content(content)

    def paths(self) -> list[str]:
        """Return the requested paths, in order."""
        return [request.path for request in self.requests]


def missing(handler: WebHandler, content: bytes) -> None:
    handler.reply(404, b"not here")


def forbidden(handler: WebHandler, content: bytes) -> None:
    handler.reply(403, b"no")


def no_fault(handler: WebHandler, content: bytes) -> None:
    handler.send_content(content)


def other_bytes(handler: WebHandler, content: bytes) -> None:
    """Send different bytes of the same length."""
    handler.send_content(content[:-1] + bytes([content[-1] ^ 1]))


def login_page(handler: WebHandler, content: bytes) -> None:
    handler.reply(200, b"<html>please log in</html>")


def without_ranges(handler: WebHandler, content: bytes) -> None:
    handler.reply(200, content)


def chunked(handler: WebHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(content), 50_000):
        piece = content[start : start + 50_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def endless(handler: WebHandler, content: bytes) -> None:
    """Send the file many times over."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    for _ in range(1000):
        handler.wfile.write(content)


def cut_after(count: int) -> Fault:
    """Return a fault that closes the connection after ``count`` bytes of the requested range."""

    def fault(handler: WebHandler, content: bytes) -> None:
        byte_range = handler.headers.get("Range")
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        rest = content[start:]
        handler.send_response(206 if byte_range else 200)
        if byte_range:
            about = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", about)
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        handler.wfile.write(rest[:count])
        handler.wfile.flush()
        handler.close_connection = True

    return fault


def delay(seconds: float) -> Fault:
    def fault(handler: WebHandler, content: bytes) -> None:
        time.sleep(seconds)
        handler.send_content(content)

    return fault


def hold_until(over: threading.Event) -> Fault:
    def fault(handler: WebHandler, content: bytes) -> None:
        over.wait(3600)
        handler.send_content(content)

    return fault


def redirect_to(url: str) -> Fault:
    return lambda handler, content: handler.reply(302, b"", Location=url)


@dataclass(frozen=True)
class File:
    """A file of a dataset: path, key, URLs, and repositories that have it."""

    path: str
    key: str
    urls: Sequence[str] = ()
    content: bytes = b""
    holders: Sequence[str] = ()


def content_of(name: str, size: int = 2000) -> bytes:
    """Return bytes that are unique to a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return (digest * (size // 32 + 1))[:size]


def files_of_all_kinds(web: FaultyWebServer) -> list[File]:
    """Return a file of each kind, served by the web server."""
    files: list[File] = []

    def add(path: str, make: Callable[[bytes], str], size: int = 2000, **named: object) -> None:
        content = content_of(path, size)
        address = f"/{len(files)}"
        web.contents[address] = content
        urls = named.pop("urls", None) or [f"{web.url}{address}"]
        files.append(File(path, make(content), urls, content, **named))  # type: ignore[arg-type]

    def named(backend: str, hasher: Callable[[bytes], str]) -> Callable[[bytes], str]:
        return lambda content: f"{backend}-s{len(content)}--{hasher(content)}"

    def sha256e(path: str) -> Callable[[bytes], str]:
        return lambda content: sha256e_key(
            len(content), hashlib.sha256(content).hexdigest(), path.encode()
        )

    for number in range(12):
        add(f"small/{number}.dat", sha256e("x.dat"))
    add("kinds/md5e.tar.gz", lambda c: md5e_key(len(c), hashlib.md5(c).hexdigest(), b"a.tar.gz"))
    for backend, hasher in (
        ("MD5", hashlib.md5),
        ("SHA1", hashlib.sha1),
        ("SHA512", hashlib.sha512),
        ("SHA3_256", hashlib.sha3_256),
        ("BLAKE2B256", lambda c: hashlib.blake2b(c, digest_size=32)),
    ):
        add(f"kinds/{backend}", named(backend, lambda c, h=hasher: h(c).hexdigest()))  # type: ignore[misc]
    add("kinds/empty.txt", sha256e("x.txt"), size=0)
    add("kinds/etag", lambda c: xs3etag_key(len(c), etag(c, 1 << 20), 1 << 20), size=LARGE)
    add("kinds/url", lambda c: f"URL-s{len(c)}--http://example.org/kinds/url")
    add("kinds/url-no-size", lambda c: "URL--http://example.org/kinds/url-no-size")
    add("kinds/vurl", lambda c: url_key("http://example.org/kinds/vurl", len(c)))
    add("kinds/vurl-large", lambda c: url_key("http://example.org/v?a=1&b=%20", None), size=LARGE)
    add("large/1.dat", sha256e("x.dat"), size=LARGE)
    add("large/2.dat", sha256e("x.dat"), size=LARGE + 17)
    add("odd/new\nline and ümläut .dat", sha256e("x.dat"))
    twice = files[0]
    files.append(File("twice.dat", twice.key, twice.urls, twice.content))
    for name in ("two/a.dat", "two/b.dat"):
        content = content_of(name)
        paths = [f"/first/{name}", f"/second/{name}"]
        web.contents |= dict.fromkeys(paths, content)
        urls = [f"{web.url}{url_path}" for url_path in paths]
        files.append(File(name, sha256e(name)(content), urls, content))
    content = content_of("api")
    web.contents |= {"/api/x": content, "/zzz/x": content}
    urls = [f"{web.url}/api/x", f"{web.url}/zzz/x"]
    files.append(File("two/api.dat", sha256e("x.dat")(content), urls, content))
    files.append(File("nowhere.dat", sha256e("x.dat")(b"no"), (), b"no", (ATTIC,)))
    return files


def etag(content: bytes, part: int) -> str:
    parts = [content[start : start + part] for start in range(0, len(content), part)]
    joined = b"".join(hashlib.md5(one).digest() for one in parts)
    return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"


def git(folder: Path, *arguments: str, given: bytes | None = None) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=False, capture_output=True, input=given
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def make_dataset(
    folder: Path, files: Sequence[File], more: Mapping[str, tuple[str, bytes]] | None = None
) -> Path:
    """Return a bare repository of annexed files with URLs; ``more`` are files stored in git."""
    lines: list[bytes] = []

    def put(mode: str, path: bytes, data: bytes) -> None:
        quoted = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b'"', b'\\"')
        lines.append(b'M %s inline "%s"\n' % (mode.encode(), quoted))
        lines.append(b"data %d\n%s\n" % (len(data), data))

    who = b"Test <test@example.invalid> %d +0000" % STAMP
    lines.append(b"commit refs/heads/main\ncommitter %s\ndata 4\ntest\n" % who)
    put("100644", b"README", b"plain\n")
    for path, (mode, data) in (more or {}).items():
        put(mode, path.encode(), data)
    for file in files:
        path = file.path.encode()
        put("120000", path, link_target(file.key, path))
    lines.append(b"commit refs/heads/git-annex\ncommitter %s\ndata 4\ntest\n" % who)
    config = {"remote": "api", "glob": "*/api/*"}
    put("100644", b"uuid.log", uuid_line("attic", ATTIC, STAMP))
    api = web_remote(config["remote"], 300, STAMP, uuid=API, urlinclude=config["glob"])
    put("100644", b"remote.log", api)
    logged: dict[str, File] = {file.key: file for file in files}
    for file in logged.values():
        if file.urls:
            holders = UrlRemotes((UrlRemote(API, urlinclude=config["glob"]),))
            named = holders.uuids_for([url.encode() for url in file.urls])
            put("100644", log_path(file.key), b"".join(location_log(STAMP, one) for one in named))
            put("100644", url_log_path(file.key), url_log(file.urls, STAMP))
        for holder in file.holders:
            put("100644", log_path(file.key), location_log(STAMP, holder))
    repository = folder / "dataset.git"
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "--bare", "-b", "main", str(repository))
    git(repository, "fast-import", "--quiet", given=b"".join(lines))
    return repository


@dataclass
class WebClone:
    """A web server, a dataset with files of all kinds on it, and a clone without content."""

    web: FaultyWebServer
    folder: Path
    files: dict[str, File]
    clone: Path

    def copy(self, name: str) -> Path:
        """Return a copy of the clone, with the same git-annex UUID."""
        target = self.folder / name
        shutil.copytree(self.clone, target, symlinks=True)
        return target

    def url_path(self, path: str, index: int = 0) -> str:
        """Return the path of a file on the web server."""
        return self.files[path].urls[index].removeprefix(self.web.url)

    def get(self, *paths: str, **options: object) -> dict[str, Outcome]:
        """Download files; return the outcomes by path."""
        found = list(get(self.clone, list(paths) or None, **options))  # type: ignore[arg-type]
        assert len(found) == len({one.path for one in found})
        return {one.path: one for one in found}

    def has_content(self, path: str, clone: Path | None = None) -> bool:
        """Return whether the content of a file is present and correct."""
        target = (clone or self.clone) / path
        return target.exists() and target.read_bytes() == self.files[path].content

    def recorded_files(self) -> set[str]:
        """Return the files that git-annex's logs record as present, whether they are or not."""
        lines = self.annex("whereis", "--json").splitlines()
        found = [json.loads(line) for line in lines]
        return {one["file"] for one in found if any(copy["here"] for copy in one["whereis"])}

    def annex(self, *arguments: str, clone: Path | None = None) -> str:
        return git(clone or self.clone, "annex", *arguments)


def object_modes(clone: Path) -> dict[str, int]:
    """Return the modes of all files and folders in the object directory, by path."""
    root = clone / ".git" / "annex" / "objects"
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = stat.S_IMODE(path.lstat().st_mode)
    return found


def temporary_files(clone: Path) -> list[str]:
    """Return the files in git-annex's directories for unfinished work."""
    annex = clone / ".git" / "annex"
    found = []
    for name in ("tmp", "othertmp", "journal", "journal-private", "transfer", "bad"):
        found += [str(p.relative_to(annex)) for p in (annex / name).rglob("*") if p.is_file()]
    return found


def branch_logs(clone: Path) -> dict[str, list[str]]:
    """Return the lines of each file of the git-annex branch, without timestamps."""
    found = {}
    names = git(clone, "ls-tree", "-r", "--name-only", "git-annex").splitlines()
    with BatchObjectReader(clone / ".git") as objects:
        contents = objects.read([f"git-annex:{name}".encode() for name in names])
        for name, content in zip(names, contents, strict=True):
            lines = (content or b"").decode().splitlines()
            found[name] = sorted(line.partition(" ")[2] for line in lines)
    return found


@pytest.fixture(scope="session")
def web_clone_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebClone]:
    """A prepared web server and clone to copy from; git-annex is initialized in the clone."""
    folder = tmp_path_factory.mktemp("get")
    with ExitStack() as stack:
        web = stack.enter_context(FaultyWebServer())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        _use_home(patch, folder / "home")
        files = files_of_all_kinds(web)
        repository = make_dataset(folder, files)
        clone = folder / "clone"
        git(folder, "clone", "-q", str(repository), str(clone))
        git(clone, "annex", "init", "-q", "test")
        patch.undo()
        yield WebClone(web, folder, {file.path: file for file in files}, clone)


def _use_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Test\n\temail = test@example.invalid\n[init]\n\tdefaultBranch = main\n"
    )
    patch.setenv("HOME", str(home))
    patch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def web_clone(web_clone_template: WebClone, tmp_path: Path) -> Iterator[WebClone]:
    """A clone with files of all kinds, without content."""
    clone = tmp_path / "clone"
    shutil.copytree(web_clone_template.clone, clone, symlinks=True)
    web = web_clone_template.web
    web.requests.clear()
    yield WebClone(web, tmp_path, web_clone_template.files, clone)
    web.faults.clear()
