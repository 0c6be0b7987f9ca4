"""The archives of the soak, which change and fail at random, and a ledger of their states."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuromirror_demo import DemoArchive

State = Mapping[str, tuple[int, frozenset[str]]]
"""The files of a dataset by path: sizes, and digests of which any identifies the content."""

DANDISETS = 8
FEWEST, MOST = 4, 12
"""Files of a draft: few enough that no loss is held, and enough to choose from."""

SCHEDULES = {
    "demo": "list_minutes = 1\n",
    "demo-aind": "list_minutes = 1\nmin_hours = 0.005\nmax_days = 0.0005\n",
}
"""List every minute, and visit datasets without a fingerprint every 18 to 43 seconds."""

_API_FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"status": 503}),
    ("status", {"status": 500}),
    ("status", {"status": 429, "retry_after": "1"}),
    ("status", {"status": 403}),
    ("status", {"status": 404, "path": "/assets/"}),
    *(("html", {}), ("cut", {}), ("cut", {"lying": True}), ("stale_info", {})),
    *(("lost_page", {}), ("next_null", {}), ("empty_list", {}), ("duplicate_rows", {})),
    ("empty_list", {"path": r"/dandisets/$"}),
    *(("hang", {"seconds": 3.0}), ("slow", {})),
    ("status", {"server": "s3", "status": 503}),
)
_BUCKET_FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"status": 503}),
    ("status", {"status": 403}),
    *(("cut", {"path": "."}), ("slow", {}), ("hang", {"seconds": 3.0}), ("html", {})),
)


@dataclass
class Ledger:
    """The states of each dataset, oldest first; ``published`` by dandiset and label."""

    states: dict[str, list[State]] = field(default_factory=dict)
    published: dict[str, dict[str, State]] = field(default_factory=dict)
    changes: int = 0
    faults: int = 0

    def note(self, dataset: str, state: State) -> None:
        """Record a state of a dataset if it differs from the last one."""
        known = self.states.setdefault(dataset, [])
        if not known or known[-1] != state:
            known.append(state)


class RestlessArchive:
    """A DANDI archive and a bucket, with changes and faults in an order that a seed determines."""

    def __init__(self, demo: DemoArchive, seed: int) -> None:
        assert demo.buckets is not None
        self._demo, self._buckets = demo, demo.buckets
        self._random = random.Random(seed)
        self._number = 0
        self._digests: dict[tuple[str, str], frozenset[str]] = {}
        self.ledger = Ledger()
        self._dandisets = demo.make_dandisets(DANDISETS)
        for dandiset in self._dandisets:
            for number in range(FEWEST + 2):
                demo.add_file(dandiset, f"sub-{number}/first.txt", f"{dandiset} {number}")
        self._assets = [one for one in self._buckets.assets() if self._files(one)]
        self._first = [key for asset in self._assets for key in self._files(asset)]
        self._editable = [one for one in self._assets if self._has_sound_documents(one)]
        for dandiset in self._dandisets:
            self._note_draft(dandiset)
        for asset in self._assets:
            self._note_asset(asset)

    # --- changes

    def change(self) -> None:
        """Make one change at a random place."""
        self._number += 1
        with self._demo.lock, self._buckets.lock:
            if self._random.random() < 0.5:
                self._change_dandiset(self._random.choice(self._dandisets))
            else:
                self._change_asset(self._random.choice(self._assets))
        self.ledger.changes += 1

    def _change_dandiset(self, dandiset: str) -> None:
        demo, paths = self._demo, sorted(self._demo.paths(dandiset))
        path, text = self._random.choice(paths), f"change {self._number}"
        verbs: list[Callable[[], object]] = [
            lambda: demo.change_file(dandiset, path, text),
            lambda: demo.rename_file(dandiset, path, f"sub-r/renamed-{self._number}.txt"),
            lambda: demo.set_metadata(dandiset, title=f"Soaked {self._number}"),
            lambda: demo.touch(dandiset),
            lambda: self._publish(dandiset),
        ]
        if len(paths) < MOST:
            verbs.append(lambda: demo.add_file(dandiset, f"sub-n/{self._number}.txt", text))
        if len(paths) > FEWEST:
            verbs.append(lambda: demo.remove_file(dandiset, path))
        self._random.choice(verbs)()
        self._note_draft(dandiset)

    def _publish(self, dandiset: str) -> None:
        label = self._demo.publish(dandiset)
        self.ledger.published.setdefault(f"demo:{dandiset}", {})[label] = self._draft(dandiset)

    def _change_asset(self, asset: str) -> None:
        buckets, added = self._buckets, [one for one in self._files(asset) if "/soak/" in one]
        verbs: list[Callable[[], object]] = []
        if len(added) < MOST:
            name = f"soak/{self._number}.bin"
            verbs.append(lambda: buckets.add_file(asset, name, f"grown {self._number}"))
        if added:
            gone = self._random.choice(added)
            verbs.append(lambda: buckets.delete_object(gone))
        if asset in self._editable:
            edit = {"notes": f"soaked {self._number}"}
            verbs.append(lambda: buckets.edit_sidecar(asset, changes=edit))
        self._random.choice(verbs)()
        self._note_asset(asset)

    # --- faults

    def fail(self) -> Callable[[], None]:
        """Enable a fault; return a function that disables it."""
        self.ledger.faults += 1
        if self._random.random() < 0.5:
            name, options = self._random.choice(_API_FAULTS)
            return self._demo.fault(name, **options).clear
        if self._random.random() < 0.3:
            # the loss of a file that was never mirrored cannot be detected
            return self._buckets.drop_key_from_listing(self._random.choice(self._first)).clear
        name, options = self._random.choice(_BUCKET_FAULTS)
        return self._buckets.fault(name, **options).clear

    def pause(self, most: float) -> float:
        """Return the seconds until the next change or fault."""
        return self._random.uniform(0.1 * most, most)

    def heal(self) -> None:
        """Disable all faults."""
        self._demo.clear_faults()
        self._buckets.clear_faults()

    # --- states

    def _note_draft(self, dandiset: str) -> None:
        self.ledger.note(f"demo:{dandiset}", self._draft(dandiset))

    def _draft(self, dandiset: str) -> State:
        assets = self._demo.dandisets[dandiset].draft.assets
        return {
            path: (asset.size, frozenset({asset.blob.sha256, asset.blob.etag}))
            for path, asset in assets.items()
            if asset.blob is not None
        }

    def _note_asset(self, asset: str) -> None:
        state = {}
        for key in self._files(asset):
            head = self._buckets.head(key)
            etag = head.etag.strip('"')
            if (key, etag) not in self._digests:
                self._digests[key, etag] = frozenset({etag, self._buckets.sha256(key)})
            state[key.removeprefix(f"{asset}/")] = (head.size, self._digests[key, etag])
        self.ledger.note(f"demo-aind:{asset}", state)

    def _keys(self, asset: str) -> list[str]:
        return [key.decode() for key in self._buckets.present(f"{asset}/")]

    def _files(self, asset: str) -> list[str]:
        """Return the keys of an asset that are not documents."""
        return [key for key in self._keys(asset) if is_data(key.removeprefix(f"{asset}/"))]

    def _has_sound_documents(self, asset: str) -> bool:
        """Return whether the asset's documents can be edited; some are malformed, as in reality."""
        documents = [key for key in self._keys(asset) if key.count("/") == 1]
        documents = [key for key in documents if key.endswith(".json")]
        try:
            for key in documents:
                json.loads(self._buckets.data(key))
        except ValueError:
            return False
        return f"{asset}/data_description.json" in documents


def is_data(path: str) -> bool:
    """Return whether a path of an asset belongs to its data and is not a document."""
    return "/" in path and not path.endswith(("/", ".json"))


def write_schedules(mirrors: Path) -> None:
    """Write mirror files with short schedules for these archives only."""
    for path in mirrors.glob("*.toml"):
        if path.stem not in SCHEDULES:
            path.unlink()
            continue
        text = path.read_text()
        path.write_text(f"{text}\n[schedule]\n{SCHEDULES[path.stem]}")
