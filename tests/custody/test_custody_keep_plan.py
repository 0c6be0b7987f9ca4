"""The contents of versions, each once."""

from neuromirror.custody.contents import KeepContents
from neuromirror.transfer.outcomes import Finding
from neuromirror.transfer.verified_repository import PinnedFile


def test_a_content_is_listed_once_with_its_first_file() -> None:
    contents = KeepContents()
    for dataset, item in [
        ("demo:1", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/a",))),
        ("demo:1", PinnedFile(b"copy.nwb", "MD5E-s3--x.nwb", ("http://h/b",))),
        ("demo:2", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/c",))),
        ("demo:2", PinnedFile(b"b", "VURL--http%c//h/b", ("http://h/b",))),
        ("demo:2", Finding(status="error", path=".", message="damaged")),
        ("demo:2", Finding(status="ok", path=".", message="fine")),
    ]:
        contents.add(dataset, "0.1", item)
    assert [(one.path, one.size) for one in contents.items.values()] == [("a.nwb", 3), ("b", None)]
    assert [one.dataset for one in contents.findings] == ["demo:2"]
    assert contents.bytes == 3
