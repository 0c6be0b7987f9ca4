"""The site of browser tests: a store with all kinds of pages, and its catalogue on loopback."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

# the scripted source of the crawl's tests, the running catalogue of the web's
from neuromirror.crawl import Mirror, load_mirrors, open_recorder
from neuromirror.crawl.takedown import take_down
from neuromirror.model import DatasetFacts
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import TISSUE, DemoBoss
from neuromirror_demo.bucket_contents import RAW
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedMirror, ScriptedSource

RELEASED = "demo:000002"
"""A dandiset of two released versions and a draft."""
SHARING = "demo:000003"
"""A dandiset that has a file of others."""
IMAGES = "demo:000005"
"""A dandiset with a Zarr."""
GROWING = "demo:000008"
"""A dandiset of many versions."""
ASSET = f"demo-aind:{RAW}"
"""A raw recording with derived datasets."""
VOLUME = f"demo-boss:{TISSUE}"
HELD, GONE, SECRET, ODD, WIDE = "lab:held", "lab:gone", "lab:secret", "lab:odd", "lab:wide"
"""Held; removed upstream; withdrawn; with a hostile title; with very long names."""
HOSTILE = "hostile:demo-hostile"
"""A bucket with keys that break other programs."""

SCRIPT = "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"
ODD_TITLE = f"{SCRIPT} \u202e\x07 {{{{ 1234 * 5678 }}}} ' onload=x"
ODD_PATH = f"a <b>&amp; {SCRIPT.replace('/', '')}?#%2e;$(id) {{{{ 1234 * 5678 }}}} \u202e.txt"
LONG = "a-name-without-any-place-to-break-it-" * 5
_STUDIES = ("Reaching in the dark", "Whisking and breathing", "Sleep after learning")


@dataclass
class BrowserSite:
    """A store and its running catalogue."""

    site: RunningCatalogue
    mirror_harness: MirrorHarness
    boss: DemoBoss | None = None

    @property
    def address(self) -> str:
        """The URL of the catalogue."""
        return self.site.address


@contextmanager
def run_full_site(
    folder: Path, files: Path, ports: tuple[int, int, int, int, int], *, odd: bool = True
) -> Iterator[BrowserSite]:
    """Run the catalogue of a store with all kinds of pages, and its archives.

    ``ports`` are the ports of the archives and of the catalogue; 0 selects a free one. Without
    ``odd``, hostile names and precomputed layers are left out.
    """
    with ExitStack() as stack:
        api, s3, buckets, boss, own = ports
        demo = stack.enter_context(
            DemoArchive(
                folder / "demo",
                port=api,
                s3_port=s3,
                cache=files,
                buckets=True,
                buckets_port=buckets,
                layers=odd,
            )
        )
        volumes = stack.enter_context(DemoBoss(folder / "demo", port=boss))
        mirror_harness = _mirror_archives(demo, folder, odd)
        options = ("--title", "Demo catalogue", "--listen", f"127.0.0.1:{own}")
        options += ("--mirrors", str(mirror_harness.mirrors))
        yield BrowserSite(
            stack.enter_context(run_catalogue(mirror_harness.store, *options)),
            mirror_harness,
            volumes,
        )


@contextmanager
def run_empty_site(folder: Path) -> Iterator[BrowserSite]:
    """Run the catalogue of an empty store."""
    mirror_harness = _ScriptedMirror(folder, ScriptedSource(mirror="lab"))
    mirror_harness.sync()
    with run_catalogue(mirror_harness.store, "--title", "Demo catalogue") as site:
        yield BrowserSite(site, mirror_harness)


class _ScriptedMirror(MirrorHarness):
    """A store with a scripted source as mirror ``lab``, beside the configured mirrors."""

    def __init__(self, folder: Path, source: ScriptedSource) -> None:
        mirrors = folder / "demo" / "mirrors"
        mirrors.mkdir(parents=True, exist_ok=True)
        (mirrors / "lab.toml").write_text('source = "scripted"\ntitle = "A lab of our own"\n')
        super().__init__(mirrors, folder / "store", self._open)
        self._source = source

    def _open(self, mirror: Mirror) -> Mirror:
        if mirror.name != "lab":
            return mirror
        return ScriptedMirror(mirror.name, mirror.path, mirror.settings, self._source)


def _mirror_archives(demo: DemoArchive, folder: Path, odd: bool) -> MirrorHarness:
    """Mirror the demo archives and the scripted lab, in four runs."""
    boss = demo.mirrors / "demo-boss.toml"
    boss.write_text(boss.read_text() + f"include = {json.dumps([TISSUE])}\n")
    source = ScriptedSource(mirror="lab", uri="https://lab.example.org/")
    mirror_harness = _ScriptedMirror(folder, source)
    forty = {f"recording/{number:02}.dat": ScriptedFile(b"%d" % number) for number in range(40)}
    for name, title in zip(("held", "gone", "secret"), _STUDIES, strict=True):
        source.scripted_datasets[name] = _thing(dict(forty), title)
    if odd:
        _make_odd(demo, source)
    results = mirror_harness.sync()
    source.scripted_datasets["held"].files = {}
    del source.scripted_datasets["gone"]
    for visit in range(3):
        _grow(demo, visit)
        results |= mirror_harness.sync("demo", "lab")
    troubled = {name for name, one in results.items() if one.status not in ("ok", "notneeded")}
    assert troubled == {HELD, GONE}, [results[one] for one in troubled]
    with open_recorder(mirror_harness.store, mirror_harness.store.index_path) as recorder:
        mirrors = {
            name: mirror_harness.open_mirror(one)
            for name, one in load_mirrors(mirror_harness.mirrors).items()
        }
        list(
            take_down(
                mirror_harness.store, recorder, SECRET, "asked for by its owner", "us", mirrors
            )
        )
    return mirror_harness


def _make_odd(demo: DemoArchive, source: ScriptedSource) -> None:
    """Adds titles and names with characters that need escaping."""
    assert demo.buckets is not None
    (demo.mirrors / "hostile.toml").write_text(
        f'source = "s3"\n[options]\nbucket = "{demo.buckets.hostile}"\ndepth = 0\n'
        f'endpoint = "{demo.buckets.endpoint}"\n'
    )
    source.scripted_datasets["odd"] = _thing({ODD_PATH: ScriptedFile(b"odd")}, ODD_TITLE)
    wide = {f"{LONG}/{LONG}.dat": ScriptedFile(b"w"), "short.dat": ScriptedFile(b"s")}
    source.scripted_datasets["wide"] = _thing(wide, f"Names that never end: {LONG}")


def _thing(files: dict[str, ScriptedFile], title: str) -> ScriptedDataset:
    return ScriptedDataset(files, facts=DatasetFacts(title=title, license=("CC-BY-4.0",)))


def _grow(demo: DemoArchive, visit: int) -> None:
    """Change the study between two visits."""
    dandiset = GROWING.partition(":")[2]
    demo.let_time_pass(24 * 30)
    subject = f"sub-80{2 + visit}"
    demo.add_file(dandiset, f"{subject}/{subject}_ses-01_ecephys.nwb")
    demo.change_file(dandiset, "notes.txt", f"Month {visit + 1}.\n")
    if visit == 1:
        demo.remove_file(dandiset, "sub-801/sub-801_ses-02_behavior.nwb")
    demo.let_time_pass(24)
    demo.publish(dandiset)
