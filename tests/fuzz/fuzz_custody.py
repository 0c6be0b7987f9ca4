"""Targets: files of vaults, of what is kept and of siblings, and replies of vaults in S3."""

from __future__ import annotations

import http.client
import io
from typing import Any

from fuzz_core import check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.config.keep_file import load_keeps
from neuromirror.config.sibling_files import load_sibling
from neuromirror.config.vault_files import load_vault, refuse_unsafe_vaults
from neuromirror.model import ConfigurationError
from neuromirror.vault.own_vaults import _address
from neuromirror.vault.s3_client import ObjectNotFoundError, _parse_reply, _UnexpectedReplyError

_KEY = "SHA256E-s5--" + "0" * 64 + ".nwb"
_VAULTS = (
    'kind = "directory"\npath = "/archive/vault"\nurl = "https://x.example.org/vault"\n'
    "prefer = true\n",
    'kind = "s3"\nbucket = "our-vault"\nprefix = "annex/"\nregion = "eu-central-1"\n'
    'public_url = "https://x.example.org/a"\nobject_lock = "COMPLIANCE"\nretention_days = 30\n',
)


@target("vault-file", ConfigurationError, seeds=fixed_seeds(*_VAULTS), kind="text")
def vault_file(data: bytes) -> None:
    """Vault files, and the URLs of the copies in them."""
    path = scratch() / "nas.toml"
    path.write_bytes(data)
    vault = load_vault(path)
    for is_named in (False, True):
        address = _address(vault, is_named=is_named)
        shown = address if isinstance(address, str) else address.copy_url(_KEY)
        check_agreement(shown.isprintable(), shown)
    refuse_unsafe_vaults({vault.name: vault}, path.parent)


_KEEPS = """[[keep]]
locks = "../papers/*/datasets.lock"
vault = "nas"
[[keep]]
locks = "~/x/[ab]/**"
vault = "cloud"
check_days = 1.5
"""


@target("keep-file", ConfigurationError, seeds=fixed_seeds(_KEEPS), kind="text")
def keep_file(data: bytes) -> None:
    """Lists of what a service keeps."""
    folder = scratch() / "vaults"
    folder.mkdir(exist_ok=True)
    (folder / "keep.toml").write_bytes(data)
    for keep in load_keeps(folder, ["nas", "cloud"]).keeps:
        check_agreement(keep.check_days > 0, keep.check_days)


_SIBLING = """type = "gitea"
api = "https://forge.example.org"
owner = "lab"
homepage = "https://mirror.example.org/dataset/{name}"
topics = ["datalad"]
datasets = ["dandi:*"]
"""


@target(
    "sibling-file",
    ConfigurationError,
    seeds=fixed_seeds(_SIBLING, 'type = "git"\nurl = "ssh://git@host/srv/{alias}.git"\n'),
    kind="text",
)
def sibling_file(data: bytes) -> None:
    """Sibling files."""
    path = scratch() / "forge.toml"
    path.write_bytes(data)
    settings = load_sibling(path).settings
    names = {"name": "a:b", "alias": "a--b", "mirror": "a", "id": "b", "title": "t"}
    for template in (settings.url, settings.repository, settings.description, settings.homepage):
        template.format(**names)


_OPERATIONS = ("head_object", "put_object", "copy_object", "get_object", "head_bucket")
_REPLIES = (
    b'\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "0"\r\nx-amz-checksum-sha256: AAAA\r\n\r\n',
    b'\1HTTP/1.1 200 OK\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\nContent-Length: 0\r\n\r\n',
    b"\2HTTP/1.1 200 OK\r\nContent-Length: 75\r\n\r\n<CopyObjectResult><ETag>&quot;0&quot;</ETag>"
    b"<ChecksumSHA256>AA==</ChecksumSHA256></CopyObjectResult>",
    b"\3HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n<Error><Code>NoSuchKey</Code></Error>",
    b"\4HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
)


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@target(
    "s3-vault-reply",
    http.client.HTTPException,
    ObjectNotFoundError,
    _UnexpectedReplyError,
    seeds=fixed_seeds(*_REPLIES),
    kind="1+text",
)
def s3_vault_reply(data: bytes) -> None:
    """Replies of the server of a vault in S3; the first byte chooses the operation."""
    operation = _OPERATIONS[(data[0] if data else 0) % len(_OPERATIONS)]
    reply: Any = http.client.HTTPResponse(_Socket(data[1:]))  # type: ignore[arg-type]
    reply.begin()
    found = _parse_reply(operation, reply.status, reply.headers, reply.read(1 << 16))
    check_agreement(isinstance(found, dict), found)
