"""A mirrored bucket is intact to ``fsck``, also with equal documents in one dataset."""

from pathlib import Path

from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR
from support.mirror_harness import MirrorHarness


def test_equal_documents_of_a_version_are_intact(tmp_path: Path) -> None:
    with DemoBuckets(tmp_path / "buckets") as buckets:
        same = buckets.data(f"{BEHAVIOR}/data_description.json")
        buckets.put(f"{BEHAVIOR}/acquisition.json", same)
        buckets.put(f"{BEHAVIOR}/rig.json", same)
        mirror = MirrorHarness(buckets.mirrors, tmp_path / "store")
        assert mirror.sync(f"demo-aind:{BEHAVIOR}")[f"demo-aind:{BEHAVIOR}"].status == "ok"
    done = CliRunner().invoke(main, ["--store", str(mirror.folder), "fsck"])
    assert done.exit_code == 0, done.output
