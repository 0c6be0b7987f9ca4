"""The catalogue of a public store beside a private one: nothing of the latter is to be learnt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from embargo_place import ID, NAME, Embargo, prepared
from test_web_hostile import _APIS, _PAGES, Answer, asked
from web_site import Running, running

from neuromirror.store import Store
from neuromirror_demo import DemoArchive

UNKNOWN, UNKNOWN_ID = "demo:000007", "000007"
PAGES = [
    *("/", "/mirrors", "/events", "/feed.atom", "/feed/demo.atom", "/sitemap.xml", "/robots.txt"),
    *("/?q=canarytitle", "/?q=000006", "/?q=demo:000006", "/index", "/index.json", "/-/metadata"),
    *("/api/v1", "/api/v1/datasets", "/api/v1/mirrors", "/api/v1/events", "/api/v1/failures"),
    *("/alias/", "/alias/demo--000006/HEAD", "/alias/demo/HEAD", "/neuromirror/journal.jsonl"),
    *("/neuromirror/private", "/../private/neuromirror/journal.jsonl", "/%2e%2e/private/"),
    *("/alias/..%2f..%2f..%2fprivate%2fneuromirror%2fjournal.jsonl", "/private/", "/-withheld/"),
]


@dataclass
class Beside:
    """The catalogue, and the stores."""

    site: Running
    embargo: Embargo
    secrets: list[str]

    def get(self, path: str) -> Answer:
        return asked(self.site.address, path)


def secrets_of(embargo: Embargo) -> list[str]:
    """Words by which the private store names the dandiset's versions and files."""
    found = [one.decode() for one in embargo.canaries()]
    with embargo.index(embargo.private) as index:
        row = index.last_version(NAME)
        assert row is not None
        found += [row.commit, row.label, row.state, index.dataset(NAME).dataset_id]
    return found


@pytest.fixture
def beside(small: DemoArchive, tmp_path: Path) -> Iterator[Beside]:
    embargo = prepared(small, tmp_path / "stores")
    embargo.sync()
    # failures, a hold and an open dandiset with the same bytes
    small.add_file("000001", "same.txt", "open too\n")
    small.add_file(ID, "later.txt", "not yet public either\n")
    with small.fault("status", path=rf"{ID}/versions/draft/assets/", status=403):
        embargo.sync(code=1)
    embargo.sync()
    with running(Store.open(embargo.public)) as site:
        yield Beside(site, embargo, secrets_of(embargo))


def replies(beside: Beside, name: str, local_id: str, words: list[str]) -> dict[str, Answer]:
    """What is answered to each address that names a dataset, or something of it."""
    found = {}
    for template in [*_PAGES, *_APIS]:
        for word in [name, local_id, *words]:
            path = template.replace("{}", quote(word, safe=":"))
            found[path] = beside.get(path)
    return found


def told(answer: Answer, *words: str) -> tuple[int, str, str]:
    """A reply without the words that were asked for, and without numbers."""
    text = answer.body.decode("utf-8", "replace")
    for word in words:
        text = text.replace(quote(word, safe=""), "#").replace(quote(word), "#").replace(word, "#")
    return answer.status, answer.kind, re.sub(r"\d+", "0", text)


def test_no_reply_holds_anything_of_the_private_store(beside: Beside) -> None:
    answers = {path: beside.get(path) for path in PAGES}
    answers |= replies(beside, NAME, ID, [])
    for path, answer in answers.items():
        assert answer.status < 500, path
        held = [one for one in beside.secrets if one.encode().lower() in answer.body.lower()]
        assert [one for one in held if one.lower() not in path.lower()] == [], path


def test_what_is_under_embargo_is_answered_like_what_is_not_there(beside: Beside) -> None:
    private = replies(beside, NAME, ID, [])
    unknown = replies(beside, UNKNOWN, UNKNOWN_ID, [])
    for (path, one), other in zip(private.items(), unknown.values(), strict=True):
        assert told(one, NAME, ID) == told(other, UNKNOWN, UNKNOWN_ID), path


def test_the_catalogue_never_looks_at_the_private_store(beside: Beside) -> None:
    with_it = replies(beside, NAME, ID, [])
    opened = [path.resolve() for path in Path(f"/proc/{beside.site.pid}/fd").iterdir()]
    assert not [one for one in opened if one.is_relative_to(beside.embargo.private)]
    beside.embargo.private.rename(beside.embargo.private.with_name("elsewhere"))
    without = replies(beside, NAME, ID, [])
    for path, answer in with_it.items():
        assert told(answer) == told(without[path]), path
