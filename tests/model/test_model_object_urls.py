"""URLs of objects with and without their version."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from neuromirror.model.records import plain_url, url_version_id

_URL = "https://bucket.s3.amazonaws.com/a%20b/c"


@pytest.mark.parametrize("version_id", ["abc", "a+b/c=", "é", "null"])
def test_a_version_id_is_read_as_it_was_written(version_id: str) -> None:
    url = f"{_URL}?versionId={quote(version_id, safe='')}"
    assert url_version_id(url) == version_id
    assert url_version_id(f"{url}&partNumber=1") == version_id
    assert plain_url(url) == _URL


@pytest.mark.parametrize(
    "url", [_URL, f"{_URL}?versionId=", f"{_URL}?xversionId=a", f"{_URL}#?versionId=a"]
)
def test_a_url_without_a_version_id_has_none(url: str) -> None:
    assert url_version_id(url) is None
