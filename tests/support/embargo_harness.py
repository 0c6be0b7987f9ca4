"""A public and a private store, an archive with canaries, and a search of every byte."""

import io
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.index import Index
from neuromirror.model import DatasetRef, JournalEntry
from neuromirror.store import Store
from neuromirror.store.private_store import dataset_entries
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import run_git

NAME, ID = "demo:000006", "000006"
TITLE, FOLDER, DESCRIPTION = "Canarytitle", "canaryfolder", "Canarywords"


@dataclass
class EmbargoHarness:
    """A public and a private store and an archive; ``output`` has everything printed."""

    demo: DemoArchive
    folder: Path
    output: list[str] = field(default_factory=list)

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def private(self) -> Path:
        return self.folder / "private"

    def write_mirror_file(self, *more: str, private: bool = True) -> None:
        """Write the mirror file, with the name of the token's variable."""
        lines = ['source = "dandi"', "[options]", f'api = "{self.demo.api_url}"', *more]
        lines.append('token_env = "DEMO_TOKEN"')
        if private:
            lines.append('embargoed = "private"')
        (self.demo.mirrors / "demo.toml").write_text("\n".join(lines) + "\n")

    def environment(self, token: str | None = None) -> dict[str, str]:
        return {
            "NEUROMIRROR_MIRRORS": str(self.demo.mirrors),
            "NEUROMIRROR_STORE": str(self.public),
            "DEMO_TOKEN": self.demo.token if token is None else token,
        }

    def run(
        self, *arguments: str, code: int | None = 0, token: str | None = None, **more: str
    ) -> str:
        """Run a command in this process; return its output. ``code`` None accepts any exit code."""
        environment = {**self.environment(token), **more}
        done = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)
        printed = done.stdout + done.stderr
        self.output.append(printed)
        assert code is None or done.exit_code == code, printed
        return printed

    def sync(self, *names: str, code: int | None = 0, token: str | None = None) -> str:
        """Sync with the private store configured."""
        private_store = str(self.private)
        return self.run(
            "sync", *names, code=code, token=token, NEUROMIRROR_PRIVATE_STORE=private_store
        )

    def embargoed_line(self, printed: str) -> str:
        """Return the one line about the embargoed dandiset."""
        (found,) = [line for line in printed.splitlines() if NAME in line]
        return " ".join(found.split())

    def run_on_private_store(self, *arguments: str, code: int = 0) -> str:
        """Run a command on the private store, without recording its output."""
        done = CliRunner().invoke(
            main, ["--store", str(self.private), *arguments], env=self.environment()
        )
        assert done.exit_code == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def index(self, folder: Path) -> Index:
        return Index.open_readonly(Store.open(folder).index_path)

    def commits(self, folder: Path) -> dict[str, str]:
        """Return the commits of the dandiset's versions by label."""
        with self.index(folder) as index:
            return {one.label: one.commit for one in index.versions.of(NAME)}

    def locations(self, folder: Path) -> list[tuple[str, str | None]]:
        """Return kind and version id of all locations in the dandiset's last state."""
        store = Store.open(folder)
        with self.index(folder) as index:
            row = index.versions.last(NAME)
        assert row is not None
        with self.index(folder) as index:
            dataset_id = index.datasets.get(NAME).dataset_id
        return [
            (location.kind, location.version_id)
            for record in store.records.read(dataset_id, row.commit)
            for location in record.record.locations
        ]

    # --- canaries

    def canaries(self) -> list[bytes]:
        """Return data that only owners of the dandiset may see."""
        values = [TITLE, FOLDER, DESCRIPTION, self.demo.token, "X-Amz-", "demoAccessKey"]
        for asset in self.demo.dandisets[ID].draft.assets.values():
            values.append(asset.asset_id)
            if asset.blob is not None:
                values += [asset.blob.blob_id, asset.blob.sha256, asset.blob.etag]
            if asset.zarr is not None:
                values.append(asset.zarr.zarr_id)
        return [value.lower().encode() for value in values]

    def canaries_in(self, folder: Path) -> set[bytes]:
        """Return the canaries in a folder: in names, bytes, packs, compressed files."""
        canaries = self.canaries()
        found: set[bytes] = set()
        for content in contents(folder):
            lowered = content.lower()
            found.update(canary for canary in canaries if canary in lowered)
        return found

    def assert_no_canary_outside(self) -> None:
        """Check that no canary is in the public store or in any output."""
        assert self.canaries_in(self.public) == set()
        printed = "\n".join(self.output).lower().encode()
        assert [canary for canary in self.canaries() if canary in printed] == []


def contents(folder: Path) -> list[bytes]:
    """Return all names, links and bytes in a folder, decompressed."""
    found: list[bytes] = []
    for folder_path, folders, files in os.walk(folder):
        found.append("\n".join([*folders, *files]).encode())
        for name in (*folders, *files):
            path = Path(folder_path, name)
            if path.is_symlink():
                found.append(os.readlink(path).encode())
            elif path.is_file():
                found.append(path.read_bytes())
                if path.suffix == ".zst":
                    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(found[-1]))
                    found.append(reader.read())
        if "objects" in folders and "HEAD" in files:
            command = ["git", "-C", folder_path, "cat-file", "--batch-all-objects", "--batch"]
            found.append(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def prepare_embargo(demo: DemoArchive, folder: Path) -> EmbargoHarness:
    """Return an archive of an open and an embargoed dandiset, with two stores.

    The embargoed one has canaries in title, path, text and bytes.
    """
    demo.create_dandiset(Description("An open one"), identifier="000001")
    demo.add_file("000001", "open.txt", "open\n")
    about = Description(f"A {TITLE}", f"About {DESCRIPTION}")
    demo.create_dandiset(about, identifier=ID, embargoed=True)
    demo.add_file(ID, "notes.txt", "not yet public\n")
    demo.add_file(ID, f"{FOLDER}/file.txt", f"bytes of {FOLDER}\n")
    folder.mkdir()
    made = EmbargoHarness(demo, folder)
    made.write_mirror_file()
    return made


def entries(embargo: EmbargoHarness, folder: Path) -> list[JournalEntry]:
    """Return the journal's entries about the dandiset in a store."""
    uri = f"{embargo.demo.api_url}/dandisets/{ID}/"
    return dataset_entries(Store.open(folder), DatasetRef("demo", ID, uri))


def refs_or_none(folder: Path) -> dict[str, str]:
    """Return the refs of the dandiset's repository; empty without a repository."""
    return refs(folder) if (folder / "alias" / f"demo--{ID}").exists() else {}


def refs(folder: Path) -> dict[str, str]:
    """Return the refs of the dandiset's repository."""
    repository = (folder / "alias" / f"demo--{ID}").resolve()
    lines = run_git(repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)
