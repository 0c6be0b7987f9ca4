"""Words and pictures that pages are made of."""

import pytest

from neuromirror.web.pages.folders import is_public


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://bucket.s3.amazonaws.com/a.nwb", True),
        ("http://bucket.s3.amazonaws.com/a.nwb", False),
        ("https://localhost/a.nwb", False),
        ("https://archive.local/a.nwb", False),
        ("https://192.168.0.1/a.nwb", False),
        ("https://[::1]/a.nwb", False),
        ("s3://bucket/a.nwb", False),
        ("https://", False),
        ("https://[bad/a.nwb", False),
    ],
)
def test_only_the_open_web_is_public(url: str, public: bool) -> None:
    assert is_public(url) is public
