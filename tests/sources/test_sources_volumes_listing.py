import hashlib
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Document,
    FileRecord,
    VersionKind,
    VersionRef,
)
from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Listing, UnreliableListingError
from neuromirror.sources.volumes.grid import Level, Volume, blocks, zarr_documents
from neuromirror.sources.volumes.listing import (
    BlockDigests,
    DigestLog,
    VolumeListing,
    dump_memo,
    load_memo,
)
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.urls import VOLUME_REMOTE, BlockReadError, TooManyFilesError
from support.visit_context import FakeVisitContext
from support.volume_service import VolumeService, npy

_DATASET = DatasetRef("bossdb", "c/e/ch", "boss://api.bossdb.io/c/e/ch")
_VERSION = VersionRef(_DATASET, "current", VersionKind.OBSERVED, None)
_LEVELS = (
    Level("0", (0, 0, 1), (40, 30, 13), (1.0, 1.0, 1.0), (8, 8, 4)),
    Level("1", (0, 0, 0), (20, 15, 7), (2.0, 2.0, 2.0), (8, 8, 4)),
)
_COUNT = 5 * 4 * 3 + 3 * 2 * 2


@pytest.fixture
def service() -> Iterator[VolumeService]:
    rng = np.random.default_rng(5)
    arrays = {
        one.name: rng.integers(1, 255, tuple(reversed(one.extent)), "uint8") for one in _LEVELS
    }
    with VolumeService(arrays, {level.name: level.start for level in _LEVELS}) as running:
        yield running


class Visits:
    """Visits one volume repeatedly like the crawler, and keeps the memo."""

    def __init__(self, service: VolumeService, workspace: Path) -> None:
        self.service = service
        self.session = Session(
            allow_private=True, limits=RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
        )
        self.volume = Volume("boss", service.host, "c/e/ch", "uint8", "nanometer", _LEVELS)
        self.upstream = (Document(b".boss/channel.json", b"{}\n"),)
        self.signal = ""
        self.reload_volume: Callable[[], Volume] = lambda: self.volume
        self.workspace = workspace
        self.memo: bytes | None = None
        self.check_description = ""
        self.records: list[FileRecord] = []
        self.listing: Listing | None = None

    def open(self, *, deep: bool = False, **options: Any) -> Listing:
        self.workspace.mkdir(exist_ok=True)
        self.service.requests.clear()
        given = {"api": self.service.url, "hash": "fetch", "sample": 4, "rolling": 6, **options}
        return VolumeListing(
            _VERSION,
            self.volume,
            FakeVisitContext(memo=self.memo, workspace=self.workspace, deep=deep),
            self.session,
            VolumeOptions.model_validate(given),
            facts=DatasetFacts(attributes=(("type", "image"),)),
            documents=[*self.upstream, *zarr_documents(self.volume)],
            reload_volume=self.reload_volume,
            signal=self.signal,
        )

    def visit(self, **options: Any) -> bool:
        """Return whether the volume was found unchanged; otherwise read its listing."""
        listing = self.listing = self.open(**options)
        if self.memo is not None and listing.is_unchanged():
            self.memo = listing.renewed_memo() or self.memo
            same = True
        else:
            self.records = list(listing.entries())  # type: ignore[arg-type]
            listing.confirm_version()
            self.memo = listing.memo()
            same = False
        self.check_description = listing.describe_checks()
        for left in self.workspace.iterdir():
            left.unlink()
        return same

    @property
    def request_count(self) -> int:
        return self.service.requests.total()

    @property
    def evidence(self) -> str:
        assert self.listing is not None
        return dict(self.listing.facts.attributes)["checked"]

    def digests(self) -> dict[bytes, str]:
        return {record.path: record.digests[0].value for record in self.records if record.digests}


@pytest.fixture
def visits(service: VolumeService, tmp_path: Path) -> Iterator[Visits]:
    made = Visits(service, tmp_path / "workspace")
    yield made
    made.session.close()


def true_digests(visits: Visits) -> dict[bytes, str]:
    made = {}
    for block in blocks(visits.volume):
        x, y, z = block.level.chunk
        padded = np.zeros((z, y, x), "uint8")
        part = visits.service.cutout(block.level.name, [n for s in block.box for n in s], None)
        padded[tuple(slice(size) for size in part.shape)] = part
        made[block.path] = hashlib.sha256(padded.tobytes()).hexdigest()
    return made


def path_of(z: int, y: int, x: int, level: str = "0") -> bytes:
    return f"{level}/c/{z}/{y}/{x}".encode()


# --- every block


def test_every_block_is_read_once_and_its_sha256_is_checked(visits: Visits) -> None:
    assert not visits.visit()
    assert visits.digests() == true_digests(visits)
    assert len(visits.service.requests) == visits.request_count == _COUNT == len(visits.records)
    one = visits.records[-1]
    assert (one.digests[0].claimed_by, one.digests[0].checked) == ("neuromirror", True)
    assert one.size == 8 * 8 * 4
    assert one.locations[0].url == (
        f"boss://{visits.service.host}/c/e/ch/1/16:20/8:15/4:7?chunk=8,8,4"
    )
    assert one.locations[0].kind == "boss"
    assert (visits.check_description, visits.evidence) == ("", "every block")


def test_a_listing_brings_the_zarrs_metadata_and_its_remote(visits: Visits) -> None:
    listing = visits.open()
    assert listing.special_remotes == (VOLUME_REMOTE,)
    assert [document.path for document in listing.documents] == [
        *(b".boss/channel.json", b"0/zarr.json", b"1/zarr.json", b"zarr.json")
    ]
    assert set(zarr_documents(visits.volume)) < set(listing.documents)


def test_no_more_blocks_are_read_at_once_than_workers(visits: Visits) -> None:
    visits.visit(workers=2)
    assert visits.service.peak_requests <= 2
    visits.visit(workers=1, deep=True)
    assert visits.digests() == true_digests(visits)


def test_records_come_as_their_blocks_are_read(visits: Visits) -> None:
    entries = visits.open(workers=2).entries()
    assert len(list(islice(entries, 3))) == 3
    assert visits.request_count < _COUNT / 2
    entries.close()  # type: ignore[attr-defined]


# --- unchanged


def test_an_unchanged_volume_is_recognized_by_a_sample_and_a_rolling_check(visits: Visits) -> None:
    visits.visit()
    assert visits.visit()
    assert 6 <= visits.request_count <= 10
    assert f"1–6 of {_COUNT}" in visits.check_description
    assert visits.visit()
    assert "blocks 7–12 of" in visits.check_description


def test_the_rolling_pass_reads_every_block_and_starts_again(visits: Visits) -> None:
    visits.visit()
    seen: set[str] = set()
    for _ in range(-(-_COUNT // 7)):
        assert visits.visit(sample=0, rolling=7)
        seen |= set(visits.service.requests)
    assert len(seen) == _COUNT
    assert visits.visit(sample=0, rolling=7)
    assert "blocks 1–7 of" in visits.check_description


def test_each_visit_samples_other_blocks_and_a_rerun_the_same(visits: Visits) -> None:
    visits.visit()
    first = visits.memo
    visits.visit(rolling=0)
    one = set(visits.service.requests)
    visits.visit(rolling=0)
    other = set(visits.service.requests)
    visits.memo = first
    visits.visit(rolling=0)
    assert len(one) == len(other) == 4
    assert one != other
    assert set(visits.service.requests) == one


def test_a_changed_block_that_is_sampled_makes_every_block_be_read(visits: Visits) -> None:
    visits.visit()
    before = visits.digests()
    visits.service.levels["0"][0, 0, 0] ^= 255
    visits.service.levels["1"][-1, -1, -1] ^= 255
    assert not visits.visit(sample=_COUNT, rolling=0)
    assert visits.digests() == true_digests(visits)
    changed = {path for path, digest in visits.digests().items() if before[path] != digest}
    assert changed == {path_of(0, 0, 0), path_of(1, 1, 2, "1")}
    assert visits.evidence == "every block"
    assert visits.visit()


def test_a_changed_block_outside_of_the_sample_is_found_by_the_rolling_pass(visits: Visits) -> None:
    visits.visit()
    visits.service.levels["1"][-1, -1, -1] ^= 255
    results = [visits.visit(sample=0, rolling=10) for _ in range(-(-_COUNT // 10))]
    assert results == [True] * (len(results) - 1) + [False]
    assert visits.digests() == true_digests(visits)


def test_a_deep_visit_reads_every_block(visits: Visits) -> None:
    visits.visit()
    visits.service.levels["1"][-1, -1, -1] ^= 255
    assert not visits.visit(sample=0, rolling=0, deep=True)
    assert visits.request_count == _COUNT
    assert visits.digests() == true_digests(visits)


def test_other_metadata_with_the_same_sample_read_no_more(visits: Visits) -> None:
    visits.visit()
    before = visits.digests()
    visits.upstream = (Document(b".boss/channel.json", b'{"description": "new"}\n'),)
    assert not visits.visit()
    assert visits.request_count <= 10
    assert visits.digests() == before
    assert "10" in visits.evidence
    assert "1–6" in visits.check_description
    assert visits.visit()
    assert "blocks 7–12" in visits.check_description


def test_other_metadata_and_another_sample_read_all(visits: Visits) -> None:
    visits.visit()
    visits.upstream = ()
    visits.service.levels["0"][...] ^= 255
    assert not visits.visit()
    assert visits.digests() == true_digests(visits)
    assert visits.evidence == "every block"
    assert visits.check_description == ""


def test_an_upstream_write_signal_makes_every_block_be_read(visits: Visits) -> None:
    visits.signal = "DOWNSAMPLED"
    visits.visit()
    assert visits.visit()
    visits.signal = "NOT_DOWNSAMPLED"
    assert not visits.visit(sample=0, rolling=0)
    assert visits.request_count == _COUNT
    assert visits.visit()


def test_other_blocks_than_in_the_memo_are_read(visits: Visits) -> None:
    visits.visit()
    smaller = replace(_LEVELS[0], stop=(40, 30, 12))
    visits.volume = replace(visits.volume, levels=(smaller, _LEVELS[1]))
    assert not visits.visit()
    assert visits.request_count == visits.volume.files == len(visits.records)


def test_a_volume_that_changes_while_it_is_read_fails_the_listing(visits: Visits) -> None:
    longer = replace(_LEVELS[1], stop=(20, 15, 8))
    visits.reload_volume = lambda: replace(visits.volume, levels=(_LEVELS[0], longer))
    with pytest.raises(UnreliableListingError, match="bossdb:c/e/ch"):
        visits.visit()


def test_a_damaged_volume_memo_is_ignored(visits: Visits) -> None:
    visits.visit()
    good = visits.memo
    assert good is not None
    for bad in (b"", b"{}\n", good[:-1], good + b"\0", good[:400] + b"\xff" * 40, b"\xff\n" + good):
        visits.memo = bad
        assert not visits.open().is_unchanged()
        assert visits.request_count == 0


# --- interrupted visits


def test_an_interrupted_visit_is_resumed(visits: Visits) -> None:
    entries = visits.open().entries()
    assert len(list(islice(entries, 30))) == 30
    entries.close()  # type: ignore[attr-defined]
    before = visits.request_count
    assert before < _COUNT
    assert not visits.visit()
    assert _COUNT - before <= visits.request_count <= _COUNT - 30
    assert visits.digests() == true_digests(visits)


def test_a_failed_visit_is_resumed_at_the_failed_block(visits: Visits) -> None:
    visits.service.replacements["0/32:40/24:30/9:13"] = [(404, {}, b"")]
    with pytest.raises(BlockReadError):
        list(visits.open(workers=1).entries())
    assert not visits.visit()
    assert visits.request_count < 20
    assert visits.digests() == true_digests(visits)


def test_a_change_once_seen_is_not_forgotten_when_the_visit_is_killed(visits: Visits) -> None:
    visits.visit()
    visits.service.levels["0"][0, 0, 0] ^= 255
    listing = visits.open(sample=0, rolling=1)
    assert not listing.is_unchanged()
    # killed here; the next visit would sample other blocks
    assert not visits.visit(sample=0, rolling=0)
    assert visits.request_count == _COUNT - 1
    assert visits.digests() == true_digests(visits)


def test_half_an_entry_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    progress = DigestLog(tmp_path / "digests")
    assert list(progress.read()) == []
    for number in range(3):
        progress.add(number, bytes([number]) * 32)
    whole = (tmp_path / "digests").read_bytes()
    for cut in (whole[:-1], whole[:81], whole[:85] + b"\0" * 35, whole[:80] + bytes(40)):
        (tmp_path / "digests").write_bytes(cut)
        assert [number for number, _ in progress.read()] == [0, 1]
        progress.add(7, b"7" * 32)
        assert [number for number, _ in progress.read()] == [0, 1, 7]


# --- errors


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b'{"status": 404, "code": 4005, "message": "marked to be deleted"}'),
        (413, {}, b""),
        (200, {}, b"not zlib"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
    ],
)
def test_a_block_that_cannot_be_read_fails_the_listing_and_is_named(
    answer: Any, visits: Visits
) -> None:
    visits.service.replacements["0/8:16/8:16/5:9"] = [answer] * 9
    with pytest.raises(BlockReadError) as caught:
        visits.visit()
    for part in ("bossdb:c/e/ch", "0/c/1/1/1", "boss://"):
        assert part in str(caught.value)
    assert "/0/8:16/8:16/5:9)" in str(caught.value)


def test_server_errors_and_wrong_shapes_fail_the_listing(visits: Visits) -> None:
    visits.service.replacements["*"] = [(503, {}, b"")] * 1000
    with pytest.raises(BlockReadError, match="503"):
        visits.visit()
    assert visits.request_count < 100
    visits.service.replacements["*"] = []
    wrong = zlib.compress(npy(np.zeros((4, 8, 9), "uint8")))
    visits.service.replacements["0/0:8/0:8/1:5"] = [(200, {}, wrong)]
    with pytest.raises(BlockReadError, match=r"shape \(4, 8, 9\), not \(4, 8, 8\)"):
        visits.visit()


def test_one_failed_block_cancels_the_others(visits: Visits) -> None:
    rng = np.random.default_rng(2)
    visits.service.levels["0"] = rng.integers(0, 256, (16, 512, 1024), "uint8")
    visits.service.starts["0"] = (0, 0, 0)
    wide = Level("0", (0, 0, 0), (1024, 512, 16), (1.0, 1.0, 1.0), (512, 512, 16))
    visits.volume = replace(visits.volume, levels=(wide,))
    visits.service.replacements["0/0:512/0:512/0:16"] = [(404, {}, b"")]
    visits.service.replacements["0/512:1024/0:512/0:16"] = [0.05]
    with pytest.raises(BlockReadError, match="404"):
        visits.visit()
    visits.service.wait()
    assert visits.service.abandoned == ["0/512:1024/0:512/0:16"]


def test_an_interrupted_body_is_requested_again(visits: Visits) -> None:
    visits.service.replacements["0/0:8/0:8/1:5"] = [100, 20]
    visits.visit()
    assert visits.digests() == true_digests(visits)
    assert visits.request_count == _COUNT + 2


def test_a_sample_that_cannot_be_read_is_an_error_and_no_change(visits: Visits) -> None:
    visits.visit()
    visits.service.replacements["*"] = [(404, {}, b"")]
    with pytest.raises(BlockReadError):
        visits.visit()


def test_too_many_files_fail_before_any_request(visits: Visits) -> None:
    with pytest.raises(TooManyFilesError, match=f"{_COUNT} chunk files"):
        visits.open(max_files=_COUNT - 1)
    assert visits.request_count == 0


# --- without hashing


def test_without_hashing_nothing_is_read(visits: Visits) -> None:
    plain = {"hash": "none", "sample": None, "rolling": None}
    assert not visits.visit(**plain)
    assert visits.digests() == {}
    assert [record.path for record in visits.records] == [one.path for one in blocks(visits.volume)]
    assert (visits.check_description, visits.evidence) == ("metadata only", "metadata only")
    memo = visits.memo
    assert visits.visit(**plain)
    assert visits.check_description == "metadata only"
    assert visits.memo == memo  # no new memo
    assert not visits.visit(**plain, deep=True)
    assert visits.request_count == 0


def test_without_hashing_the_same_few_blocks_are_known_each_time(visits: Visits) -> None:
    few = {"hash": "none", "sample": 5, "rolling": None}
    assert not visits.visit(**few)
    digests = visits.digests()
    assert len(digests) == visits.request_count == 5
    assert digests.items() < true_digests(visits).items()
    assert "5" in visits.evidence
    assert visits.visit(**few)
    assert visits.request_count == 5
    assert visits.check_description == "metadata, 5 sampled blocks"
    visits.memo = None
    visits.visit(**few)
    assert visits.digests() == digests
    visits.service.levels["0"][...] ^= 255
    visits.service.levels["1"][...] ^= 255
    assert not visits.visit(**few)
    assert visits.digests().keys() == digests.keys()
    assert visits.digests().items() < true_digests(visits).items()


def test_without_hashing_the_second_pass_finds_and_reports_a_change(visits: Visits) -> None:
    rolling = {"hash": "none", "sample": 0, "rolling": 40}
    visits.visit(**rolling)
    assert visits.visit(**rolling)
    assert visits.visit(**rolling)  # every block is known now, but in no record
    assert visits.visit(**rolling)
    visits.service.levels["1"][-1, -1, -1] ^= 255
    assert not visits.visit(**rolling)
    path = path_of(1, 1, 2, "1")
    assert visits.digests() == {path: true_digests(visits)[path]}
    [record] = [one for one in visits.records if one.digests]
    assert record.upstream_id is not None
    before = visits.records
    assert not visits.visit(**rolling, deep=True)
    assert visits.request_count == _COUNT
    assert visits.records == before
    visits.upstream = ()
    assert not visits.visit(**rolling)
    assert visits.records == before


def test_hashing_that_is_switched_on_reads_every_block(visits: Visits) -> None:
    visits.visit(hash="none", sample=2)
    assert not visits.visit()
    assert visits.digests() == true_digests(visits)


# --- memos


@pytest.mark.parametrize("known", [[], [3], [0, 5, 9], list(range(10))])
def test_a_memo_returns_the_recorded_digests(known: list[int], visits: Visits) -> None:
    digests = BlockDigests(10)
    for number in known:
        digests.put(number, bytes([number]) * 32, 1 + number % 3)
    visits.visit(hash="none", sample=0, rolling=0)
    memo = load_memo(visits.memo, visits_shape(visits), _COUNT)
    assert memo is not None
    course = replace(memo[0], cursor=4)
    loaded = load_memo(dump_memo(course, digests), course.shape, 10)
    assert loaded is not None
    assert loaded[0] == course
    assert loaded[1].known() == known
    assert [loaded[1].get(number) for number in range(10)] == [
        bytes([number]) * 32 if number in known else None for number in range(10)
    ]
    assert loaded[1].states == digests.states
    assert load_memo(dump_memo(course, digests), "other", 10) is None
    assert load_memo(dump_memo(course, digests), course.shape, 11) is None


def visits_shape(visits: Visits) -> str:
    from neuromirror.sources.volumes.listing import fingerprint

    options = VolumeOptions(api=visits.service.url, hash="none", sample=0, rolling=0)
    return fingerprint(visits.volume, options)
