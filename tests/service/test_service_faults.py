"""An index that goes away, or bad, under a service that goes on."""

from __future__ import annotations

import os

from crawl_place import Place
from service_office import Office

from neuromirror.crawl import rebuild_index
from neuromirror_demo import DemoArchive


def _names(place: Place) -> list[str]:
    with place.index() as index:
        return sorted(one.name for one in index.datasets("demo"))


def test_an_index_deleted_under_the_service_is_made_again_from_the_journal(
    office: Office, place: Place
) -> None:
    assert office.do("visit", "demo:000001").results[0].status == "ok"
    path = place.store.index_path
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    (result,) = office.do("visit", "demo:000002").results
    assert result.status == "ok", result.message
    assert _names(place) == ["demo:000001", "demo:000002"]
    place.fsck()


def test_an_index_that_went_bad_is_told_and_the_service_goes_on_with_the_one_made_anew(
    office: Office, place: Place, demo: DemoArchive
) -> None:
    assert office.do("visit", "demo:000001").results[0].status == "ok"
    path = place.store.index_path
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (os.fstat(file.fileno()).st_size - 100))
    (result,) = office.do("visit", "demo:000002").results
    if result.exit_code:
        assert "rebuild-index" in result.message
    rebuild_index(place.store, path)
    demo.add_file("000002", "new.txt", b"new")
    assert office.do("visit", "demo:000002").results[0].exit_code == 0
    assert _names(place) == ["demo:000001", "demo:000002"]
    with place.index() as index:
        paths = {one.path for one in index.files(index.resolve("demo:000002", "draft"))}
    assert "new.txt" in paths
    place.fsck(killed=True)
