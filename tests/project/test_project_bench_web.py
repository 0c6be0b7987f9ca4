"""Requests of the catalogue's bench, on a store that is small enough for a test."""

from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]


def test_every_page_that_the_bench_asks_for_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchmarks import web, web_store

    sizes = web_store.Sizes(datasets=4, versions=3, files=60, history=4, folder=5)
    made = web_store.ready(tmp_path, sizes)
    found = web.kinds(made)
    assert all(found.values()), found
    with web.catalogue(made) as server:
        for kind, addresses in found.items():
            for address in sorted(set(addresses))[:1]:
                reply = requests.get(server.address + address, timeout=300)
                assert reply.status_code == 200, (kind, address)
        assert server.memory_mb() > 0
    second = web_store.ready(tmp_path, sizes)
    assert (second.store, second.seconds) == (made.store, 0)
