"""Datasets created by neuromirror's formats, and a file server with configurable faults."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from neuromirror.annex import WEB_UUID, link_target, location_log, log_path, url_log, url_log_path
from support.annex_helpers import TIMESTAMP, FileServer, run
from support.loopback_http import QuietHandler, serving


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Serve files on loopback; other paths return 404."""
    files = FileServer("")

    class Answers(QuietHandler):
        def do_HEAD(self) -> None:
            content = files.contents.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def do_GET(self) -> None:
            files.requests.append(self.path)
            self.do_HEAD()
            self.wfile.write(files.contents.get(self.path, b""))

    with serving(Answers) as files.address:
        yield files


MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Create a bare repository of annexed files (path → key and URLs) without git-annex."""

    def make(
        files: Mapping[bytes, tuple[str, list[str]]],
        remotes: bytes = b"",
        more: Mapping[bytes, bytes] | None = None,
        holders: Sequence[str] = (WEB_UUID,),
    ) -> Path:
        repo = tmp_path / "upstream.git"
        run("git", "init", "-q", "--bare", "-b", "main", str(repo), cwd=tmp_path)
        main = [
            b'M 120000 inline "%s"\ndata %d\n%s\n' % (path, len(target), target)
            for path, (key, _) in files.items()
            for target in [link_target(key, path)]
        ]
        present = b"".join(location_log(TIMESTAMP, holder) for holder in sorted(holders))
        logs = {log_path(key): present for key, _ in files.values()} | dict(more or {})
        logs |= {url_log_path(key): url_log(urls, TIMESTAMP) for key, urls in files.values()}
        if remotes:
            logs[b"remote.log"] = remotes
        branch = [
            b'M 100644 inline "%s"\ndata %d\n%s\n' % (path, len(log), log)
            for path, log in logs.items()
        ]
        stream = b""
        for ref, changes in ((b"main", main), (b"git-annex", branch)):
            stream += b"commit refs/heads/%s\n" % ref
            stream += b"committer A <a@example.invalid> %d +0000\ndata 0\n" % TIMESTAMP
            stream += b"".join(changes) + b"\n"
        subprocess.run(["git", "fast-import", "--quiet"], input=stream, cwd=repo, check=True)
        return repo

    return make


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[Path], Path]:
    """Clone a repository with git clone and git annex init."""

    def make(repo: Path) -> Path:
        path = tmp_path / "clone"
        run("git", "clone", "-q", str(repo), str(path), cwd=tmp_path)
        run("git", "annex", "init", "-q", cwd=path)
        return path

    return make


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Any, str]]:
    """Run moto's S3 server; yields a boto3 client and the URL of a bucket."""
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(proxies={}),
    )
    client.create_bucket(Bucket="parts")
    yield client, f"http://{host}:{port}/parts"
    server.stop()
