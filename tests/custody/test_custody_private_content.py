"""Content that needs a credential: kept, streamed and restored, with the credential nowhere."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.sources.volumes.urls import token_variable
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import PRIVATE, DemoBoss
from support.embargo_harness import FOLDER, ID, contents, prepare_embargo
from support.foreign_pushes import run_in
from support.forked_commands import fork_command
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
    "import neuromirror\nwith neuromirror.open({!r}, {!r}) as file: file.read()\nraise SystemExit"
)


@dataclass
class PrivateContent:
    """A file of a dataset in a private store, and the credentials that read it.

    ``files`` is the folder of credentials that are in files.
    """

    folder: Path
    home: Path
    dataset: str
    path: str
    store: Path
    secrets: tuple[str, ...]
    names: tuple[str, ...]
    credentials: dict[str, str] = field(default_factory=dict)
    files: Path | None = None
    printed: list[str] = field(default_factory=list)

    def run(self, *command: str, code: int = 0, credentials: bool = True, first: str = "") -> str:
        """Run a command with or without the credentials in its environment."""
        environment = {
            **os.environ,
            "NEUROMIRROR_STORE": str(self.store),
            "NEUROMIRROR_VAULTS": str(self.folder / "vaults"),
            "AWS_EC2_METADATA_DISABLED": "true",
            **(self.credentials if credentials else {}),
        }
        with tempfile.TemporaryFile("w+") as output:
            process = fork_command(
                *(command, output.fileno(), output.fileno()),
                environment=environment,
                first=f"import os; os.chdir({str(self.folder)!r})\n{first}",
            )
            process.join()
            output.seek(0)
            printed = output.read()
        self.printed.append(printed)
        assert process.exitcode == code, printed
        return printed

    def read(self, code: int = 0, *, credentials: bool = True) -> None:
        """Read the file over the network with or without the credentials."""
        first = READ.format(self.dataset, self.path)
        self.run(code=code, credentials=credentials, first=first)

    @contextmanager
    def without_files(self) -> Iterator[None]:
        """Move the credentials that are in files away during the block."""
        if self.files is None:
            yield
            return
        with tempfile.TemporaryDirectory() as away:
            moved = self.files.rename(Path(away, self.files.name))
            yield
            moved.rename(self.files)

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
        yield PrivateContent(
            *(lab.folder, lab.home, NAME, FILE, lab.private),
            secrets=(lab.keys.secret, lab.keys.token, "Signature="),
            names=(lab.bucket, FILE),
            credentials={"AWS_PROFILE": PROFILE},
            files=lab.home / ".aws",
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
            files=intern.parent,
        )
        command = ("--mirrors", "mirrors", "--store", "public", "sync")
        found.run(*command, "--private-store", "private")
        listed = found.run("--json", "files", found.dataset)
        files = [one for one in map(json.loads, listed.splitlines()) if one.get("urls")]
        found.path = files[0]["path"]
        yield found


@pytest.fixture(params=["bucket", "dandiset", "channel"])
def private(request: pytest.FixtureRequest) -> PrivateContent:
    """Private content of each kind, with vaults."""
    found: PrivateContent = request.getfixturevalue(request.param)
    return with_vaults(found)


def with_vaults(found: PrivateContent) -> PrivateContent:
    """Configure a vault that others may read, and one that they may not."""
    write_vault(found.folder / "vaults", "public")
    safe = str(found.folder / "vault-safe")
    write_vault(found.folder / "vaults", "safe", kind="directory", path=safe, private=True)
    return found


def copies(private: PrivateContent, vault: str) -> list[Path]:
    """Return the contents in a vault."""
    folder = private.folder / f"vault-{vault}"
    return [one for one in folder.rglob("*") if one.is_file() and "-s" in one.name]


def test_private_content_is_kept_and_read_with_its_credential_which_is_nowhere(
    private: PrivateContent,
) -> None:
    with private.without_files():
        assert_nothing_is_kept_or_read(private)
    with watched_processes(*private.secrets) as shown:
        private.read()  # the bytes are in the user's cache
        private.run("pin", private.dataset, "--path", private.path)
        private.run("keep", private.dataset, private.path, "--in", "safe")
        private.run("restore", "--into", "restored")
    assert shown == []
    assert copies(private, "safe") != []
    with private.without_files():
        private.assert_no_secret()
    # the public store names nothing of it
    public = private.folder / "public"
    text = b"\n".join(contents(public)) if public.exists() else b""
    assert [name for name in private.names if name.encode() in text] == []


def test_private_content_is_kept_in_private_vaults_only_and_read_from_them_without_a_credential(
    dandiset: PrivateContent,
) -> None:
    private = with_vaults(dandiset)
    keep = ("keep", private.dataset, private.path, "--in")
    with watched_processes(*private.secrets) as shown:
        # a vault that others may read is refused, with the credential or without
        private.run(*keep, "public", code=2)
        assert not (private.folder / "vault-public").exists()
        private.read()  # the bytes are in the user's cache
        private.run("pin", private.dataset, "--path", private.path)
        assert_a_lock_is_kept_in_private_vaults_only(private)
        private.run(*keep, "safe")
        private.run("vault", "check", "safe", "--full")
        # neither pages nor previews nor the gateway serve a private store
        private.run("catalogue", "--listen", "127.0.0.1:0", code=2)
    assert shown == []
    private.run("clone", private.dataset, "from-vault", credentials=False)
    copy = private.run("get", f"from-vault/{private.path}", credentials=False)
    assert private.path in copy
    private.run("verify", "from-vault", "--allow-missing", credentials=False)
    private.assert_no_secret()


def assert_nothing_is_kept_or_read(private: PrivateContent) -> None:
    """Check that a credential that is missing is not replaced by another one."""
    keep = ("--json", "keep", private.dataset, private.path, "--in", "safe")
    refused = private.run(*keep, code=1, credentials=False)
    records = [json.loads(line) for line in refused.splitlines() if line.startswith("{")]
    assert [one["status"] for one in records if one.get("path") == private.path] == ["error"]
    assert copies(private, "safe") == []
    private.read(code=1, credentials=False)
    clone = ("clone", private.dataset, "refused", "--get", private.path)
    private.run(*clone, code=1, credentials=False)
    assert not os.path.exists(private.folder / "refused" / private.path)


def assert_a_lock_is_kept_in_private_vaults_only(private: PrivateContent) -> None:
    """Keep a lock file, which does not say that its dataset is private, without its store."""
    keep = ("--store", str(private.folder / "public"), "keep", "datasets.lock", "--in")
    private.run(*keep, "public", code=1)
    assert copies(private, "public") == []
    private.run(*keep, "safe")
    assert copies(private, "safe") != []
