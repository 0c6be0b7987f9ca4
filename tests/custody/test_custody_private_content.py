"""Content that needs a credential: kept, streamed and restored, with the credential nowhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.sources.volumes.tokens import token_variable
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import PRIVATE, DemoBoss
from support.embargo_harness import FOLDER, ID, contents, prepare_embargo
from support.foreign_pushes import run_in
from support.private_buckets import (
    FILE,
    NAME,
    PrivateBucket,
    make_private_bucket,
    watched_processes,
)
from support.signed_buckets import PROFILE, signing_server, write_profile
from support.vaults import write_vault

READ = (
    "import sys, neuromirror\n"
    "with neuromirror.open(*sys.argv[1:]) as file: print(len(file.read()))\n"
)


@dataclass
class PrivateContent:
    """A file of a dataset in a private store, and the credentials that read it.

    ``withdraw`` removes credentials that are in files.
    """

    folder: Path
    home: Path
    dataset: str
    path: str
    store: Path
    secrets: tuple[str, ...]
    names: tuple[str, ...]
    credentials: dict[str, str] = field(default_factory=dict)
    withdraw: Callable[[], None] = lambda: None
    printed: list[str] = field(default_factory=list)

    def run(self, *command: str, code: int = 0, credentials: bool = True) -> str:
        """Run a program with or without the credentials in its environment."""
        environment = {
            "NEUROMIRROR_STORE": str(self.store),
            "NEUROMIRROR_VAULTS": str(self.folder / "vaults"),
            "AWS_EC2_METADATA_DISABLED": "true",
            **(self.credentials if credentials else {}),
        }
        done = run_in(self.folder, *command, environment=environment)
        self.printed.append(done.stdout)
        assert done.returncode == code, done.stdout
        return done.stdout

    def assert_no_secret(self) -> None:
        """Search stores, vaults, ledger, clones, HOME with its caches, and all output."""
        searched = {folder: b"\n".join(contents(folder)) for folder in (self.folder, self.home)}
        searched[Path("output")] = "\n".join(self.printed).encode()
        for secret in self.secrets:
            assert [one for one, text in searched.items() if secret.encode() in text] == [], secret


@pytest.fixture
def bucket(isolated_home: Path, tmp_path: Path) -> Iterator[PrivateContent]:
    """A requester-pays bucket with temporary credentials of a profile."""
    with signing_server() as server:
        lab: PrivateBucket = make_private_bucket(server, isolated_home, tmp_path / "lab")
        lab.keys = server.session_keys()
        write_profile(lab.home, lab.keys, f"endpoint_url = {server.endpoint}")
        server.rule(payer=[lab.bucket])
        more = (f'profile = "{PROFILE}"', "requester_pays = true")
        lab.write_mirror_file('credentials = "aws"', *more)
        lab.sync()
        setting = f"neuromirror.{lab.bucket}.requester-pays"
        run_in(tmp_path, "git", "config", "--global", setting, "true")
        files = [lab.home / ".aws" / name for name in ("credentials", "config")]

        def withdraw() -> None:
            for one in files:
                one.unlink(missing_ok=True)

        yield PrivateContent(
            *(lab.folder, lab.home, NAME, FILE, lab.private),
            secrets=(lab.keys.secret, lab.keys.token, "Signature="),
            names=(lab.bucket, FILE),
            credentials={"AWS_PROFILE": PROFILE},
            withdraw=withdraw,
        )


@pytest.fixture
def dandiset(empty_archive: DemoArchive, isolated_home: Path, tmp_path: Path) -> PrivateContent:
    """An embargoed dandiset, with the token in the environment."""
    embargo = prepare_embargo(empty_archive, tmp_path / "lab")
    embargo.sync()
    return PrivateContent(
        *(embargo.folder, isolated_home, f"demo:{ID}", f"{FOLDER}/file.txt", embargo.private),
        secrets=(embargo.demo.token, "X-Amz-Signature"),
        names=(FOLDER,),
        credentials={token_variable(urlsplit(embargo.demo.api_url).netloc): embargo.demo.token},
    )


@pytest.fixture
def empty_archive(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    with DemoArchive(tmp_path / "small", cache=demo_files, empty=True) as running:
        yield running


@pytest.fixture
def channel(isolated_home: Path, tmp_path: Path) -> Iterator[PrivateContent]:
    """A restricted channel of a BOSS, with the token in intern's file."""
    with DemoBoss(tmp_path / "boss") as boss:
        folder = tmp_path / "lab"
        (folder / "mirrors").mkdir(parents=True)
        lines = ['source = "boss"', "[options]", f'api = "{boss.api}"', 'restricted = "private"']
        lines += [f'include = ["{PRIVATE}"]', "block = [128, 128, 32]", 'hash = "fetch"']
        (folder / "mirrors" / "bossdb.toml").write_text("\n".join(lines) + "\n")
        intern = isolated_home / ".intern" / "intern.cfg"
        intern.parent.mkdir()
        host = boss.api.partition("://")[2]
        intern.write_text(f"[Default]\nprotocol = http\nhost = {host}\ntoken = {boss.token}\n")
        found = PrivateContent(
            *(folder, isolated_home, f"bossdb:{PRIVATE}", "", folder / "private"),
            secrets=(boss.token,),
            names=(PRIVATE,),
            withdraw=lambda: intern.unlink(missing_ok=True),
        )
        command = ("neuromirror", "--mirrors", "mirrors", "--store", "public", "sync")
        found.run(*command, "--private-store", "private")
        listed = found.run("neuromirror", "--json", "files", found.dataset)
        files = [one for one in map(json.loads, listed.splitlines()) if one["urls"]]
        found.path = files[0]["path"]
        yield found


@pytest.mark.parametrize("kind", ["bucket", "dandiset", "channel"])
def test_private_content_is_kept_and_streamed_without_its_credential_anywhere(
    kind: str, request: pytest.FixtureRequest
) -> None:
    private: PrivateContent = request.getfixturevalue(kind)
    vaults = private.folder / "vaults"
    write_vault(vaults, "public")
    write_vault(
        vaults, "safe", kind="directory", path=str(private.folder / "vault-safe"), private=True
    )
    keep = ("neuromirror", "keep", private.dataset, private.path, "--in")
    read = (sys.executable, "-c", READ, private.dataset, private.path)
    with watched_processes(*private.secrets) as shown:
        # a vault that others may read is refused, with the credential or without
        private.run(*keep, "public", code=2)
        assert not (private.folder / "vault-public").exists()
        private.run(*keep, "safe")
        private.run(*keep, "safe")
        private.run("neuromirror", "vault", "check", "safe", "--full")
        private.run("neuromirror", "clone", private.dataset, "clone", "--get", private.path)
        private.run("neuromirror", "verify", "clone", "--allow-missing")
        private.run(*read)
        private.run("neuromirror", "pin", private.dataset, "--path", private.path)
        private.run("neuromirror", "restore", "--into", "restored")
        # neither pages nor previews nor the gateway serve a private store
        private.run("neuromirror", "catalogue", "--listen", "127.0.0.1:0", code=2)
    assert shown == []
    private.withdraw()
    # the copy in the vault needs no credential
    private.run("neuromirror", "clone", private.dataset, "from-vault", credentials=False)
    copy = private.run(*("neuromirror", "get", f"from-vault/{private.path}"), credentials=False)
    assert private.path in copy
    private.assert_no_secret()
    # the public store names nothing of it
    public = private.folder / "public"
    text = b"\n".join(contents(public)) if public.exists() else b""
    assert [one for one in private.names if one.encode() in text] == []


@pytest.mark.parametrize("kind", ["bucket", "dandiset", "channel"])
def test_a_lock_of_private_content_is_kept_in_private_vaults_only(
    kind: str, request: pytest.FixtureRequest
) -> None:
    private: PrivateContent = request.getfixturevalue(kind)
    vaults, public = private.folder / "vaults", private.folder / "vault-public"
    write_vault(vaults, "public", kind="directory", path=str(public))
    safe = private.folder / "vault-safe"
    write_vault(vaults, "safe", kind="directory", path=str(safe), private=True)
    private.run("neuromirror", "pin", private.dataset, "--path", private.path)
    read = (sys.executable, "-c", READ, private.dataset, private.path)
    private.run(*read)  # the bytes are in the user's cache

    # the lock file does not say that its dataset is private
    keep = ("neuromirror", "--store", str(private.folder / "public"), "keep", "datasets.lock")
    private.run(*keep, "--in", "public", code=1)
    assert not [one for one in public.rglob("*") if one.is_file() and "-s" in one.name]
    private.run(*keep, "--in", "safe")
    assert [one for one in safe.rglob("*") if one.is_file() and "-s" in one.name]


@pytest.mark.parametrize("kind", ["bucket", "dandiset", "channel"])
def test_without_the_credential_nothing_is_kept_or_read(
    kind: str, request: pytest.FixtureRequest
) -> None:
    private: PrivateContent = request.getfixturevalue(kind)
    private.withdraw()
    vault = private.folder / "vault-safe"
    write_vault(private.folder / "vaults", "safe", kind="directory", path=str(vault), private=True)
    refused = private.run(
        *("neuromirror", "--json", "keep", private.dataset, private.path, "--in", "safe"),
        code=1,
        credentials=False,
    )
    records = [json.loads(line) for line in refused.splitlines() if line.startswith("{")]
    assert [one["status"] for one in records if one.get("path") == private.path] == ["error"]
    assert not [one for one in vault.rglob("*") if one.is_file() and "-s" in one.name]
    read = (sys.executable, "-c", READ, private.dataset, private.path)
    private.run(*read, code=1, credentials=False)
    private.run(
        *("neuromirror", "clone", private.dataset, "clone", "--get", private.path),
        code=1,
        credentials=False,
    )
    assert not os.path.exists(private.folder / "clone" / private.path)
    private.assert_no_secret()
