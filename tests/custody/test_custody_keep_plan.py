"""The contents of versions, each once."""

from neuromirror.custody.keep_plan import collect_contents
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.verify_items import PinnedFile


def test_a_content_is_listed_once_and_for_each_of_its_datasets() -> None:
    contents = collect_contents(
        [
            ("demo:1", "0.1", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/a",))),
            ("demo:1", "0.1", PinnedFile(b"copy.nwb", "MD5E-s3--x.nwb", ("http://h/b",))),
            ("demo:2", "0.2", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/c",))),
            ("demo:2", "0.2", PinnedFile(b"b", "VURL--http%c//h/b", ("http://h/b",))),
            ("demo:2", "0.2", Finding(status="error", path=".", message="damaged")),
        ]
    )
    assert [(one.path, one.size) for one in contents.items.values()] == [("a.nwb", 3), ("b", None)]
    assert contents.keys == {
        "demo:1": ["MD5E-s3--x.nwb"],
        "demo:2": ["MD5E-s3--x.nwb", "VURL--http%c//h/b"],
    }
    assert [one.dataset for one in contents.findings] == ["demo:2"]
    assert contents.bytes == 3
