"""A real S3 server on loopback: Ceph's radosgw with one monitor and one OSD in memory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

_PROGRAMS: Final = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")
_CONFIG: Final = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}/0
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/$name.log
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {memory}
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
debug rgw = 0
"""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server and the credentials of its user."""

    endpoint: str
    access_key: str = "bench"
    secret_key: str = "benchsecret"

    def environment(self) -> dict[str, str]:
        """Return the variables with which AWS programs use the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def is_installed() -> bool:
    """Return whether the programs of Ceph are installed (Debian: radosgw, ceph-mon, ceph-osd)."""
    return all(map(shutil.which, _PROGRAMS))


@contextmanager
def radosgw(folder: Path, memory: int = 14 << 30) -> Iterator[S3Server]:
    """Run a server whose objects are in memory, for the time of the block."""
    folder.mkdir()
    for name in ("mon", "osd", "run", "rgw"):
        (folder / name).mkdir()
    ports = {"mon": _free_port(), "port": _free_port()}
    config = folder / "ceph.conf"
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    config.write_text(_CONFIG.format(fsid=fsid, folder=folder, memory=memory, **ports))
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [program, *arguments],
            env={**os.environ, "CEPH_CONF": str(config)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )

    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", *_caps("mon"))
    for name in ("client.admin", "client.rgw", "osd.0"):
        run("ceph-authtool", keyring, "--gen-key", "-n", name, *_caps("mon", "osd", "mgr"))
    run(
        "monmaptool",
        "--create",
        "--addv",
        "a",
        f"[v2:127.0.0.1:{ports['mon']}]",
        "--fsid",
        fsid,
        monmap,
    )
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
    started = []
    try:
        for command in (
            ["ceph-mon", "-f", "-i", "a", "--public-addr", "127.0.0.1"],
            ["ceph-osd", "-f", "-i", "0"],
            ["radosgw", "-f", "-n", "client.rgw", "--keyring", keyring],
        ):
            if command[0] == "ceph-osd":
                run("ceph", "osd", "new", osd)
                run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            started.append(
                subprocess.Popen(
                    [*command, "-c", str(config)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            time.sleep(2)
        server = S3Server(f"http://127.0.0.1:{ports['port']}")
        _await(server.endpoint)
        run(
            *("radosgw-admin", "user", "create", "--uid=bench", "--display-name=bench"),
            f"--access-key={server.access_key}",
            f"--secret-key={server.secret_key}",
        )
        yield server
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


def _caps(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--cap", name, "allow *")]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _await(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
