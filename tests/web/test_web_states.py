"""Details of a state besides its files in the catalogue: sidecars, times, other copies."""

from support.running_catalogue import run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, files

AIND, BENCHMARK = "demo-aind", "demo-aind-benchmark"


def test_a_draft_with_the_files_of_the_published_version_is_not_called_changed(
    box: ScriptedHarness,
) -> None:
    box.datasets["a"] = ScriptedDataset(
        files("one.bin"), published_versions={"1.0": files("one.bin")}
    )
    for is_changed in (False, True):
        if is_changed:
            box.datasets["a"].files |= files("two.bin")
        box.sync()
        with box.index() as index:
            kinds = [one.kind for one in index.versions("box:a")]
        assert kinds == ["published", *["observed"] * (1 + is_changed)]
        with run_catalogue(box.store) as site:
            assert ("has changed since then" in site.text("/dataset/box:a")) is is_changed
