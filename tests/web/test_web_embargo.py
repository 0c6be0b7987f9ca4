"""The catalogue of a public store beside a private one: nothing of the latter is to be learnt."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from test_web_hostile import _APIS, _PAGES, Answer, get_unnormalized

from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.embargo_harness import ID, NAME, EmbargoHarness, prepare_embargo
from support.running_catalogue import RunningCatalogue, run_catalogue

UNKNOWN, UNKNOWN_ID = "demo:000007", "000007"
PAGES = [
    *("/", "/mirrors", "/events", "/feed.atom", "/feed/demo.atom", "/sitemap.xml", "/robots.txt"),
    *("/?q=canarytitle", "/?q=000006", "/?q=demo:000006", "/index", "/-/metadata"),
    *("/api/v1", "/api/v1/datasets", "/api/v1/mirrors", "/api/v1/events", "/api/v1/failures"),
    *("/alias/", "/alias/demo--000006/HEAD", "/alias/demo/HEAD", "/neuromirror/journal.jsonl"),
    *("/neuromirror/private", "/../private/neuromirror/journal.jsonl", "/%2e%2e/private/"),
    *("/alias/..%2f..%2f..%2fprivate%2fneuromirror%2fjournal.jsonl", "/private/", "/-withdrawn/"),
]


@dataclass
class EmbargoSite:
    """The catalogue, and the stores."""

    site: RunningCatalogue
    embargo: EmbargoHarness
    secrets: list[str]

    def get(self, path: str) -> Answer:
        return get_unnormalized(self.site.address, path)


def secrets_of(embargo: EmbargoHarness) -> list[str]:
    """Words by which the private store names the dandiset's versions and files."""
    found = [canary.decode() for canary in embargo.canaries()]
    with embargo.index(embargo.private) as index:
        row = index.versions.last(NAME)
        assert row is not None
        found += [row.commit, row.label, row.state, index.datasets.get(NAME).dataset_id]
    return found


@pytest.fixture(scope="module")
def embargo_site(
    demo_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbargoSite]:
    """The catalogue of a public store, which tests only look at."""
    folder = tmp_path_factory.mktemp("embargo")
    with DemoArchive(folder / "archive", cache=demo_files, empty=True) as archive:
        embargo = prepare_embargo(archive, folder / "stores")
        embargo.sync()
        # failures, a hold and an open dandiset with the same bytes
        archive.add_file("000001", "same.txt", "open too\n")
        archive.add_file(ID, "later.txt", "not yet public either\n")
        with archive.fault("status", path=rf"{ID}/versions/draft/assets/", status=403):
            embargo.sync(code=1)
        embargo.sync()
        with run_catalogue(Store.open(embargo.public)) as site:
            yield EmbargoSite(site, embargo, secrets_of(embargo))


def replies(beside: EmbargoSite, name: str, local_id: str) -> dict[str, Answer]:
    """Return the responses of all URLs that name the dataset."""
    found = {}
    for template in [*_PAGES, *_APIS]:
        for term in [name, local_id]:
            path = template.replace("{}", quote(term, safe=":"))
            found[path] = beside.get(path)
    return found


@pytest.fixture(scope="module")
def private(embargo_site: EmbargoSite) -> dict[str, Answer]:
    """The responses of the URLs of the dandiset under embargo."""
    return replies(embargo_site, NAME, ID)


def normalized(answer: Answer, *terms: str) -> tuple[int, str, str]:
    """A reply without the words that were asked for, and without numbers."""
    text = answer.body.decode("utf-8", "replace")
    for term in terms:
        text = text.replace(quote(term, safe=""), "#").replace(quote(term), "#").replace(term, "#")
    return answer.status, answer.kind, re.sub(r"\d+", "0", text)


def test_no_reply_holds_anything_of_the_private_store(
    embargo_site: EmbargoSite, private: dict[str, Answer]
) -> None:
    for path, answer in ({path: embargo_site.get(path) for path in PAGES} | private).items():
        assert answer.status < 500, path
        held = [one for one in embargo_site.secrets if one.encode().lower() in answer.body.lower()]
        assert [one for one in held if one.lower() not in path.lower()] == [], path


def test_what_is_under_embargo_is_answered_like_what_is_not_there(
    embargo_site: EmbargoSite, private: dict[str, Answer]
) -> None:
    unknown = replies(embargo_site, UNKNOWN, UNKNOWN_ID)
    for (path, one), other in zip(private.items(), unknown.values(), strict=True):
        assert normalized(one, NAME, ID) == normalized(other, UNKNOWN, UNKNOWN_ID), path


def test_the_catalogue_never_looks_at_the_private_store(
    embargo_site: EmbargoSite, private: dict[str, Answer]
) -> None:
    opened = [path.resolve() for path in Path(f"/proc/{embargo_site.site.pid}/fd").iterdir()]
    assert not [one for one in opened if one.is_relative_to(embargo_site.embargo.private)]
    store = embargo_site.embargo.private
    away = store.rename(store.with_name("elsewhere"))
    try:
        without = replies(embargo_site, NAME, ID)
    finally:
        away.rename(store)
    for path, answer in private.items():
        assert normalized(answer) == normalized(without[path]), path
