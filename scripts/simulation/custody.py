"""A year of a lab's vaults: drafts change, upstream deletes, a vault is down, bits flip.

The policies, their plans, the ledger, directory vaults with small files, downloads over HTTP, full
reads and repairs are the real code, on a simulated clock with one run per day. Drafts change as in
simulation.world. Each byte of a file stands for :data:`SCALE` bytes.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from neuromirror.annex import hash_lower, sha256e_key
from neuromirror.config.policy_files import Policies, Policy, PolicyFile
from neuromirror.config.vault_files import VaultConfig, load_vaults
from neuromirror.crawl import open_recorder
from neuromirror.custody.keep_outcomes import KeepOptions
from neuromirror.custody.keep_plan import KeepContents, KeepItem
from neuromirror.custody.policies import PolicyRun
from neuromirror.custody.policy_contents import SelectedContents, deletion_horizon
from neuromirror.custody.policy_plan import PolicyContents, RequiredContent
from neuromirror.custody.rolling_read import read_due_copies, repair_copies
from neuromirror.index import Index, RetainedFile
from neuromirror.index.ledger import Ledger
from neuromirror.model import Retention
from neuromirror.store import Store
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import Vault
from simulation.world import DAY, EPOCH, SimulatedDataset, World

DRAFT_DAYS = 30
"""Days for which upstream keeps replaced content of drafts; then it is deleted."""

LEAD_DAYS = 7
"""Shortages have to be announced this many days before the deletion."""

SCALE = 100_000
"""Bytes that one simulated byte stands for: a file of 1 kB stands for 100 MB."""

FLIP_BYTES = 10 * 10**9
"""One bit per month flips in this many bytes."""

FILES = 6
"""Files of a draft; a change replaces one to three of them."""

PINS_PER_DAY = 0.8
"""Mean number of drafts that the lab pins per day."""


@dataclass(slots=True)
class Content:
    """A content upstream: when it was replaced, seen last by the mirror, pinned and announced."""

    key: str
    data: bytes
    dataset: str
    last_seen: float
    replaced: float | None = None
    observed_replaced: bool = False
    pinned: float | None = None
    announced: float | None = None

    @property
    def deleted(self) -> float | None:
        """When upstream deletes it."""
        return None if self.replaced is None else self.replaced + DRAFT_DAYS * DAY


@dataclass(slots=True)
class CustodyResult:
    """The result of a simulation.

    Attributes
    ----------
    pinned
        Number of pinned contents.
    deleted_upstream
        Number of those that upstream deleted.
    lost
        Number of pinned contents that neither upstream nor a vault has any more.
    short
        Number of pinned contents that had fewer copies than wanted when upstream deleted them.
    announced
        Number of announced contents.
    late
        Number of shortages that were not announced seven days before.
    flips, repaired
        Number of flipped bits and of repaired copies.
    unread
        Number of copies that were not read within the time that the policies promise.
    """

    pinned: int = 0
    deleted_upstream: int = 0
    lost: int = 0
    short: int = 0
    announced: int = 0
    late: int = 0
    flips: int = 0
    repaired: int = 0
    unread: int = 0


class SimulatedPolicyRun(PolicyRun):
    """A run of policies that keeps the contents pinned in the simulation."""

    simulation: CustodySimulation

    def select(self, policy: Policy) -> SelectedContents:
        """See :class:`PolicyRun`."""
        return self.simulation.select(policy)


@dataclass(slots=True)
class CustodySimulation:
    """Simulates a world; ``folder`` is empty, ``down`` the days without one of the vaults."""

    world: World
    folder: Path
    seed: int
    copies: int = 3
    down: float = 14.0
    full_read_days: float = 10.0
    now: float = EPOCH
    contents: dict[str, Content] = field(default_factory=dict)
    drafts: dict[int, list[str]] = field(default_factory=dict)
    result: CustodyResult = field(default_factory=CustodyResult)
    url: str = ""

    def run(self) -> CustodyResult:
        """Run the simulation."""
        chance = random.Random(self.seed)
        subjects = [one for one in self.world.subjects if one.archive == 0]
        store = Store.open(self.folder / "store", create=True)
        configs, policies = self._configure()
        middle = EPOCH + self.world.days * DAY / 2
        with ExitStack() as stack:
            self.url = stack.enter_context(_serving(self))
            stack.enter_context(open_recorder(store, store.index_path))
            index = stack.enter_context(Index.open_readonly(store.index_path))
            ledger = stack.enter_context(Ledger.open(store.ledger_path, self.clock))
            while self.now < self.world.end:
                before, self.now = self.now, self.now + DAY
                self._change_upstream(subjects, before, chance)
                self._delete_upstream(before, ledger)
                self._visit(subjects)
                self._pin(subjects, chance)
                self._set_down(middle <= self.now < middle + self.down * DAY)
                self._flip_bits(chance)
                self._keep(store, index, ledger, configs, policies)
        self._count_losses()
        return self.result

    def clock(self) -> float:
        """Return the simulated time."""
        return self.now

    def select(self, policy: Policy) -> SelectedContents:
        """Return the pinned contents with the horizons that a mirror would compute."""
        host = self.url.removeprefix("http://")
        kept = KeepContents(allowed_hosts=frozenset({host}))
        required = []
        for one in self.contents.values():
            if one.pinned is None:
                continue
            urls = (f"{self.url}/{one.key}",)
            kept.items[one.key] = KeepItem(one.dataset, "1", one.key, one.key, len(one.data), urls)
            seen = datetime.fromtimestamp(one.last_seen, UTC).isoformat()
            is_current = not one.observed_replaced
            file = RetainedFile("f", one.key, len(one.data), Retention.DRAFT, is_current, seen)
            horizon = deletion_horizon([file], DRAFT_DAYS, None)
            required.append(RequiredContent(one.key, len(one.data), one.dataset, horizon))
        return SelectedContents(PolicyContents(policy, required), kept)

    def _configure(self) -> tuple[dict[str, VaultConfig], Policies]:
        folder = self.folder / "vaults"
        folder.mkdir()
        names = [f"vault-{number}" for number in range(self.copies)]
        for name in names:
            text = f'kind = "directory"\npath = "../data/{name}"\n'
            (folder / f"{name}.toml").write_text(text, "utf-8")
        (self.folder / "data").mkdir()
        policy = {"name": "pins", "what": "pins", "locks": ["."], "vaults": names}
        settings = {"keep": [policy], "full_read_days": self.full_read_days}
        return load_vaults(folder), Policies(
            folder / "policies.toml", PolicyFile.model_validate(settings)
        )

    def _new_content(self, number: int, chance: random.Random, when: float) -> str:
        data = chance.randbytes(chance.randint(200, 2000))
        key = sha256e_key(len(data), hashlib.sha256(data).hexdigest(), "f.nwb")
        self.contents[key] = Content(key, data, f"dandi:{number:06}", when)
        return key

    def _change_upstream(
        self, subjects: list[SimulatedDataset], before: float, chance: random.Random
    ) -> None:
        for number, subject in enumerate(subjects):
            for when in subject.changes:
                if not before <= when < self.now:
                    continue
                if number not in self.drafts:
                    files = [self._new_content(number, chance, when) for _ in range(FILES)]
                    self.drafts[number] = files
                    continue
                draft = self.drafts[number]
                for position in chance.sample(range(FILES), chance.randint(1, 3)):
                    self.contents[draft[position]].replaced = when
                    draft[position] = self._new_content(number, chance, when)

    def _delete_upstream(self, before: float, ledger: Ledger) -> None:
        """Count pinned contents that upstream deleted, and those that lacked copies then."""
        gone = [
            one
            for one in self.contents.values()
            if one.pinned is not None and one.deleted and before <= one.deleted < self.now
        ]
        copies = ledger.copies([one.key for one in gone])
        for one in gone:
            self.result.deleted_upstream += 1
            if len(copies.get(one.key, ())) < self.copies:
                self.result.short += 1
                deleted = one.deleted or 0
                announced = one.announced
                in_time = announced is not None and deleted - announced >= LEAD_DAYS * DAY
                self.result.late += not in_time

    def _visit(self, subjects: list[SimulatedDataset]) -> None:
        """Observe the drafts, except for those whose visits fail."""
        for number, subject in enumerate(subjects):
            if subject.fails(self.now) or number not in self.drafts:
                continue
            current = set(self.drafts[number])
            name = f"dandi:{number:06}"
            for one in self.contents.values():
                if one.dataset == name:
                    if one.key in current:
                        one.last_seen = self.now
                    else:
                        one.observed_replaced = True

    def _pin(self, subjects: list[SimulatedDataset], chance: random.Random) -> None:
        if chance.random() < PINS_PER_DAY and self.drafts:
            for key in self.drafts[chance.choice(sorted(self.drafts))]:
                if self.contents[key].pinned is None:
                    self.contents[key].pinned = self.now
                    self.result.pinned += 1

    def _set_down(self, is_down: bool) -> None:
        """Move the folder of a vault away, or back; a file in its place cannot be a vault."""
        path, away = self.folder / "data" / "vault-0", self.folder / "away"
        if is_down and path.is_dir():
            path.rename(away)
            path.write_text("down", "utf-8")
        elif not is_down and away.exists():
            path.unlink()
            away.rename(path)

    def _flip_bits(self, chance: random.Random) -> None:
        objects = [*self._objects()]
        sizes = [size for _, size in objects]
        mean = sum(sizes) * SCALE / FLIP_BYTES / 30
        for _ in range(int(mean) + (chance.random() < mean % 1)):
            ((path, _size),) = chance.choices(objects, sizes)
            data = bytearray(path.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.chmod(0o644)
            path.write_bytes(data)
            path.chmod(0o444)
            self.result.flips += 1

    def _objects(self) -> Iterator[tuple[Path, int]]:
        """Yield path and size of each copy in a vault, in the same order each time."""
        vaults = sorted((self.folder / "data").iterdir())
        paths = [
            f"annex/objects/{os.fsdecode(hash_lower(key))}/{key}/{key}" for key in self.contents
        ]
        for vault in vaults:
            for name in paths:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path = f"{vault}/{name}"
                    yield Path(path), os.stat(path).st_size

    def _keep(
        self,
        store: Store,
        index: Index,
        ledger: Ledger,
        configs: dict[str, VaultConfig],
        policies: Policies,
    ) -> None:
        run = SimulatedPolicyRun(store, index, ledger, configs, policies)
        run.simulation = self
        with run:
            run.prepare()
            for _ in run.copy(KeepOptions()):
                pass
            for announcement in run.finish():
                for key in announcement.keys:
                    self.contents[key].announced = self.now
                    self.result.announced += 1
        with ExitStack() as stack:
            vaults = [*self._open_vaults(stack, configs, store)]
            for vault in vaults:
                for _ in read_due_copies(vault, ledger, self.full_read_days, KeepOptions()):
                    pass
                for outcome in repair_copies(vault, vaults, ledger, None, KeepOptions()):
                    self.result.repaired += outcome.status == "ok"
                oldest = ledger.least_recently("hashed", vault.uuid, 1)
                limit = self.now - self.full_read_days * DAY
                self.result.unread += any(one.hashed < limit for one in oldest)

    def _open_vaults(
        self, stack: ExitStack, configs: dict[str, VaultConfig], store: Store
    ) -> Iterator[Vault]:
        for config in configs.values():
            if (self.folder / "data" / config.name).is_dir():
                yield stack.enter_context(closing(open_vault(config, store)))

    def _count_losses(self) -> None:
        """Count pinned contents of which neither upstream nor a vault has the right bytes."""
        copies: dict[str, list[Path]] = defaultdict(list)
        for path, _ in self._objects():
            copies[path.name].append(path)
        for key, one in self.contents.items():
            if one.pinned is None or one.deleted is None or one.deleted > self.now:
                continue
            self.result.lost += not any(path.read_bytes() == one.data for path in copies[key])


@contextmanager
def _serving(simulation: CustodySimulation) -> Iterator[str]:
    """Serve the contents that upstream has not deleted."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            one = simulation.contents.get(self.path[1:])
            is_there = one is not None and (one.deleted is None or one.deleted > simulation.now)
            data = one.data if one is not None and is_there else b""
            self.send_response(200 if is_there else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def remove(folder: Path) -> None:
    """Remove the folder of a simulation; objects of vaults are in read-only folders."""
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
