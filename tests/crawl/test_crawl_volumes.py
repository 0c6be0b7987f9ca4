"""BOSS channels as datasets: new versions, unchanged states and failures."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import Mirror, rebuild_index
from neuromirror.model import LinksFound
from neuromirror.net import RequestLimits, Session
from neuromirror.sources.boss import BossOptions, BossSource
from neuromirror_demo.boss import ACTIVITY, CELLS, TISSUE, DemoBoss
from support.dataset_clones import clone_dataset
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness, run_git
from support.private_buckets import run_here

MIRROR_FILE = """
source = "boss"
[options]
api = "{api}"
block = [128, 128, 32]
{more}
"""


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@pytest.fixture
def create_boss_harness(boss: DemoBoss, tmp_path: Path) -> Callable[..., MirrorHarness]:
    """A store that mirrors the channels of the BOSS that match ``include``."""

    def make(*include: str, name: str = "place", **options: Any) -> MirrorHarness:
        settings = {"hash": "fetch", "include": list(include), **options}
        more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        mirrors = tmp_path / name / "mirrors"
        mirrors.mkdir(parents=True, exist_ok=True)
        (mirrors / "b.toml").write_text(MIRROR_FILE.format(api=boss.api, more=more))
        return MirrorHarness(mirrors, tmp_path / name / "store")

    return make


def labels(mirror_harness: MirrorHarness, channel: str = TISSUE) -> list[str]:
    with mirror_harness.index() as index:
        return [version.label for version in index.versions.of(f"b:{channel}")]


def clone_with_content(mirror_harness: MirrorHarness, channel: str, target: Path) -> Path:
    """Return a clone with all of its content."""
    run_git(
        target.parent, "clone", "-q", str(mirror_harness.repository(f"b:{channel}")), target.name
    )
    run_git(target, "annex", "get", "-q")
    return target


@pytest.mark.slow
def test_every_kind_of_channel_is_restored_at_every_level(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness], tmp_path: Path
) -> None:
    import zarr

    boss.add_frame("small", start=(0, 0, 12), stop=(147, 135, 50), voxel=(4, 4, 40))
    for name, samples in (("volume", 1), ("series", 2)):
        boss.add_experiment(f"demo_cortex/{name}", "small", levels=3, samples=samples)
    shape = (38, 135, 147)
    tissue = np.arange(np.prod(shape)).reshape(shape)
    channels = "demo_cortex/volume/em", "demo_cortex/volume/cells", "demo_cortex/series/gcamp"
    boss.add_channel(channels[0], voxels=(tissue % 251).astype("uint8"))
    cells = (tissue // 1000 + (1 << 60)).astype("uint64")
    boss.add_channel(channels[1], "uint64", "annotation", voxels=cells)
    boss.add_channel(channels[2], "uint16", voxels=np.stack([tissue, -tissue]).astype("uint16"))
    mirror_harness = create_boss_harness(*channels)
    assert {one.status for one in mirror_harness.sync().values()} == {"ok"}
    mirror_harness.fsck()
    for number, channel in enumerate(channels):
        clone = tmp_path / f"clone{number}"
        if channel == channels[-1]:
            clone_with_content(mirror_harness, channel, clone)
        else:  # without a process per channel
            clone_dataset(mirror_harness, f"b:{channel}", clone)
            assert run_here(clone, "get", environment={}).returncode == 0
        group = zarr.open_group(str(clone), mode="r")
        levels = [attr["path"] for attr in group.attrs["ome"]["multiscales"][0]["datasets"]]
        assert levels == ["0", "1", "2"]
        for level in levels:
            expected = boss.voxels(channel, int(level))
            array = group[level]
            assert array.dtype == expected.dtype
            assert np.array_equal(array[...], expected.reshape(array.shape))


def test_syncs_of_an_unchanged_channel_are_one_version(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[2], sample=2, rolling=3)
    mirror_harness.sync()
    refs, content = mirror_harness.refs(), mirror_harness.file_digests()
    messages = [mirror_harness.sync()[f"b:{TISSUE}"].message for _ in range(3)]
    assert len(labels(mirror_harness)) == 1
    assert mirror_harness.refs() == refs
    differing = {
        path
        for path, digest in mirror_harness.file_digests().items()
        if content.get(path) != digest
    }
    # only the position of the rolling sample
    assert {path.split("/")[1] for path in differing} <= {"memos"}
    assert all(
        "nothing new; compared: metadata, 2 sampled blocks, block" in one for one in messages
    )


def test_a_voxel_changed_in_a_sampled_block_makes_a_version_at_the_next_visit(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[1, 2], sample=1000, rolling=0)
    mirror_harness.sync()
    boss.edit(TISSUE, ((9, 10), (9, 10), (20, 21)), level=1, spread=False)
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions
    assert len(labels(mirror_harness)) == 2
    changed = run_git(
        mirror_harness.repository(f"b:{TISSUE}"), "diff", "--name-only", "main~1", "main", "--", "1"
    )
    assert changed.splitlines() == ["1/c/0/0/0"]


def test_a_voxel_changed_outside_of_the_sample_is_found_by_the_rolling_sample(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[1, 2], sample=0, rolling=3)
    mirror_harness.sync()
    with mirror_harness.index() as index:
        blocks = index.versions.resolve(f"b:{TISSUE}").files
    # the last of the blocks, which is sampled last
    box = boss.box(TISSUE, 2)
    boss.edit(TISSUE, tuple((stop - 1, stop) for _, stop in box), level=2, spread=False)
    visits = 0
    while len(labels(mirror_harness)) == 1:
        mirror_harness.sync()
        visits += 1
        assert visits <= blocks // 3 + 1
    assert visits == -(-blocks // 3)


def test_a_deep_visit_reads_every_block(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[2], sample=0, rolling=0)
    mirror_harness.sync()
    box = boss.box(TISSUE, 2)
    boss.edit(TISSUE, tuple((stop - 1, stop) for _, stop in box), level=2, spread=False)
    assert "metadata only" in mirror_harness.sync()[f"b:{TISSUE}"].message
    assert len(labels(mirror_harness)) == 1
    assert mirror_harness.sync(deep=True)[f"b:{TISSUE}"].versions


def test_storage_that_moves_is_the_same_version_with_other_links(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[2])
    mirror_harness.sync()
    with mirror_harness.index() as index:
        before = index.datasets.links(f"b:{TISSUE}")
    assert before
    boss.move_storage(TISSUE)
    assert mirror_harness.sync()[f"b:{TISSUE}"].status == "notneeded"
    with mirror_harness.index() as index:
        after = index.datasets.links(f"b:{TISSUE}")
    assert len(labels(mirror_harness)) == 1
    assert [kind for kind, _ in after if kind not in dict(before)] == ["precomputed"]
    assert len(mirror_harness.entries(LinksFound)) == 2
    mirror_harness.sync()
    assert len(mirror_harness.entries(LinksFound)) == 2


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"status": 429, "path": "/cutout/", "retry_after": 1}, "429"),
    ("status", {"status": 503, "path": "/cutout/"}, "503"),
    ("status", {"status": 413, "path": "/cutout/"}, "set a smaller block"),
    ("cut", {"lying": True}, "/cutout/"),
    ("wrong_shape", {}, "voxels"),
    ("wrong_dtype", {}, "voxels"),
    ("html", {"path": "/cutout/"}, "html"),
]


class QuickMirror(Mirror, frozen=True):
    """A mirror that waits for a moment only before it repeats a request."""

    def open(self) -> BossSource:
        session = Session(allow_private=True, limits=RequestLimits(wait=0.01, wait_max=0.02))
        return BossSource(self.name, BossOptions.model_validate(self.settings.options), session)


def test_each_fault_is_reported_and_the_old_version_kept(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness], no_waits: None
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[2])
    mirror_harness.open_mirror = lambda one: QuickMirror(one.name, one.path, one.settings)
    mirror_harness.sync()
    refs = mirror_harness.refs()
    boss.edit(TISSUE, ((40, 41), (40, 41), (40, 41)))
    for fault, options, message in FAULTS:
        with boss.fault(fault, **options):
            result = mirror_harness.sync(deep=True)[f"b:{TISSUE}"]
        assert (result.status, result.visit) == ("error", "failed"), (fault, options)
        assert message in result.message
        assert TISSUE in result.message
        assert mirror_harness.refs() == refs, (fault, options)
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions


def test_a_hold_names_the_levels_that_upstream_must_downsample(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, hash="none")
    mirror_harness.sync()
    boss.set_status(TISSUE, "NOT_DOWNSAMPLED")
    assert mirror_harness.sync()[f"b:{TISSUE}"].visit == "held"
    with mirror_harness.index() as index:
        (hold,) = index.crawl.open_holds(f"b:{TISSUE}")
    # upstream's status, the level that is left, and what ends the hold
    for part in ("NOT_DOWNSAMPLED", "level 0", "downsampled"):
        assert part in hold.reason
    boss.downsample(TISSUE)
    mirror_harness.sync()
    with mirror_harness.index() as index:
        assert not list(index.crawl.open_holds(f"b:{TISSUE}"))


def test_a_quota_until_tomorrow_ends_the_sync_at_once(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness("demo_cortex/*", levels=[2])
    with boss.fault("status", status=429, path="/downsample/"):
        boss.clear_requests()
        given = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
        # one job: concurrent visits might each send a request before the first reply
        done = CliRunner().invoke(main, [*given, "sync", "--jobs", "1"])
    assert done.exit_code == 1
    assert boss.count_requests("/downsample/") == 1


def test_a_channel_that_is_marked_as_deleted_gets_a_tombstone(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, CELLS, hash="none")
    mirror_harness.sync()
    refs = run_git(mirror_harness.repository(f"b:{TISSUE}"), "for-each-ref")
    boss.soft_delete(TISSUE)
    results = mirror_harness.sync()
    assert results[f"b:{TISSUE}"].visit == "not_found"
    assert run_git(mirror_harness.repository(f"b:{TISSUE}"), "for-each-ref") == refs
    # the other channel no longer has it as a source upstream
    assert results[f"b:{CELLS}"].versions
    with mirror_harness.index() as index:
        assert index.datasets.get(f"b:{TISSUE}").is_removed_upstream
    boss.restore(TISSUE)
    assert mirror_harness.sync()[f"b:{TISSUE}"].exit_code == 0


def test_a_wrong_token_names_the_variable_and_changes_nothing(
    boss: DemoBoss,
    create_boss_harness: Callable[..., MirrorHarness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    mirror_harness = create_boss_harness(TISSUE, levels=[2], token_env="BOSS_TOKEN")
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions
    refs = mirror_harness.refs()
    monkeypatch.setenv("BOSS_TOKEN", "0123456789-not-the-token")
    results = mirror_harness.sync()
    assert [result.status for result in results.values()] == ["error"]
    (message,) = [result.message for result in results.values()]
    assert "BOSS_TOKEN" in message
    assert "0123456789" not in message
    assert mirror_harness.refs() == refs


def test_collections_and_experiments_are_superdatasets(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, CELLS, ACTIVITY, hash="none")
    mirror_harness.sync()
    groups = {
        "b": ["demo_activity", "demo_cortex"],
        "b:demo_cortex": ["sections"],
        "b:demo_cortex/sections": ["cells", "em"],
        "b:demo_activity/calcium": ["gcamp"],
    }
    for name, members in groups.items():
        repository = mirror_harness.repository(name)
        links = run_git(repository, "ls-tree", "-r", "main").splitlines()
        assert [line.split("\t")[1] for line in links if " commit " in line] == members
    before = run_git(mirror_harness.repository("b:demo_activity"), "rev-parse", "main")
    boss.describe(TISSUE, "A new description")
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions
    assert run_git(mirror_harness.repository("b:demo_activity"), "rev-parse", "main") == before
    link = run_git(mirror_harness.repository("b:demo_cortex/sections"), "rev-parse", "main:em")
    assert link == run_git(mirror_harness.repository(f"b:{TISSUE}"), "rev-parse", "main")
    mirror_harness.fsck()


def test_a_rebuilt_index_is_the_same_and_has_the_links(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, ACTIVITY, hash="none")
    mirror_harness.sync()
    boss.move_storage(TISSUE)
    mirror_harness.sync()
    store = mirror_harness.store
    before = dump_index(store.index_path)
    rebuild_index(store, store.index_path)
    assert dump_index(store.index_path) == before
    # versions missing in the journal come from git; superdatasets are not in the index
    journal = store.root / "neuromirror" / "journal.jsonl"
    journal.unlink()
    rebuild_index(mirror_harness.store, store.index_path)
    assert [len(labels(mirror_harness, channel)) for channel in (TISSUE, ACTIVITY)] == [1, 1]


def test_a_clone_of_the_mirror_reaches_a_block(
    boss: DemoBoss,
    create_boss_harness: Callable[..., MirrorHarness],
    tmp_path: Path,
    serve_directory: Callable[[Path], str],
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[2])
    mirror_harness.sync()
    address = serve_directory(mirror_harness.folder)
    folder = tmp_path / "down"
    block = "demo_cortex/sections/em/2/c/0/0/0"
    # datalad.api would import all commands
    code = (
        "import sys\n"
        "from datalad.core.distributed.clone import Clone\n"
        "from datalad.distribution.get import Get\n"
        "Get.__call__(sys.argv[3], dataset=Clone.__call__(*sys.argv[1:3]))\n"
    )
    run = [sys.executable, "-c", code, f"{address}/alias/b", str(folder), block]
    subprocess.run(run, check=True, capture_output=True)
    assert (folder / block).stat().st_size == 75 * 65 * 32


def test_a_dry_run_counts_files_and_bytes_and_what_would_be_read(
    boss: DemoBoss,
    create_boss_harness: Callable[..., MirrorHarness],
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror_harness = create_boss_harness(TISSUE, CELLS, levels=[2])
    where = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
    with pytest.raises(SystemExit):
        main(["sync", "--dry-run", *where], standalone_mode=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("new; ")[2] for line in lines] == [
        "3 files, 3.7 MB; 3.7 MB to be read once, in 3 requests",
        "3 files, 468.0 kB; 468.0 kB to be read once, in 3 requests",
    ]
    assert boss.count_requests("/cutout/") == 0
    create_boss_harness(TISSUE, CELLS, levels=[0], max_files=10)
    with pytest.raises(SystemExit) as ended:
        main(["sync", "--dry-run", *where], standalone_mode=True)
    assert ended.value.code == 1
    assert "27 chunk files" in capsys.readouterr().err


def test_without_hashing_nothing_is_read_and_only_metadata_is_compared(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, hash="none")
    mirror_harness.sync()
    assert boss.count_requests("/cutout/") == 0
    with mirror_harness.index() as index:
        version = index.versions.resolve(f"b:{TISSUE}")
        assert version.evidence == {"size": version.files}
        assert index.versions.attributes(version)["checked"] == ["metadata only"]
    boss.describe(TISSUE, "A new description")
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions
    with mirror_harness.index() as index:
        assert index.versions.resolve(f"b:{TISSUE}").metadata_only


def test_a_killed_crawl_resumes_with_the_missing_blocks(
    boss: DemoBoss, create_boss_harness: Callable[..., MirrorHarness]
) -> None:
    mirror_harness = create_boss_harness(TISSUE, levels=[1], workers=1)
    with boss.fault("status", path="/cutout/", status=404, skip=5):
        assert mirror_harness.sync()[f"b:{TISSUE}"].visit == "failed"
    boss.clear_requests()
    assert mirror_harness.sync()[f"b:{TISSUE}"].versions
    with mirror_harness.index() as index:
        blocks = index.versions.resolve(f"b:{TISSUE}").files
    assert boss.count_requests("/cutout/") == blocks - 5
