"""Defects of a source plugin: malformed records, and errors that no code expects."""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from neuromirror.crawl.plan import PluginSource, describe_unexpected
from neuromirror.model import Digest, FileRecord, Location
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, files

SOURCE = "the source 'scripted' of support.scripted_source"
PLUGIN = PluginSource("shelf", "shelf_source.reader")


class MalformedFile(ScriptedFile):
    """A file whose record has other digests and locations."""

    digests: tuple[Digest, ...] = ()
    locations: tuple[Location, ...] = ()

    def record(self, path: str) -> FileRecord:
        record = super().record(path)
        digests, locations = self.digests or record.digests, self.locations or record.locations
        return replace(record, digests=digests, locations=locations)


def broken() -> None:
    raise KeyError("size")


@pytest.mark.parametrize(
    ("digest", "location", "message"),
    [
        (Digest("sha256", "A1" * 32, "box"), None, f"the sha256 '{'A1' * 32}' is not 64 lower"),
        (Digest("sha512", "0" * 128, "box"), None, "the digest algorithm 'sha512' is not one of"),
        (None, Location("https://a.example.invalid/x", "http"), "the location kind 'http' is not"),
        (None, Location("sub-01/x", "api"), "the URL 'sub-01/x' of the kind 'api' does not start"),
    ],
)
def test_a_dataset_with_a_malformed_record_is_not_minted(
    harness: ScriptedHarness, digest: Digest | None, location: Location | None, message: str
) -> None:
    malformed = MalformedFile(b"content")
    malformed.digests = () if digest is None else (digest,)
    malformed.locations = () if location is None else (location,)
    harness.datasets["one"] = ScriptedDataset({**files("a"), "sub-01/x": malformed})
    harness.datasets["two"] = ScriptedDataset(files("b"))
    results = harness.sync()
    assert (results["box:one"].status, results["box:two"].status) == ("error", "ok")
    assert f"box:one current: 'sub-01/x': {message}" in results["box:one"].message
    assert not harness.store.repository(harness.source.dataset("one")).exists()


def test_an_unexpected_error_names_its_line_and_the_plugin(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset({"a": None})  # type: ignore[dict-item]
    message = harness.sync()["box:one"].message
    assert re.fullmatch(
        r"unexpected AttributeError: .* in scripted_source\.py, line \d+; the error is in "
        + re.escape(SOURCE),
        message,
    )


def test_an_unexpected_error_in_a_library_names_the_call_in_the_plugin(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.source.on_entries = lambda: json.loads("{")
    message = harness.sync()["box:one"].message
    assert re.search(
        r" in decoder\.py, line \d+, called from scripted_source\.py, line \d+; ", message
    )
    assert message.endswith(f"; the error is in {SOURCE}")


def test_an_unexpected_error_in_a_list_names_the_plugin(harness: ScriptedHarness) -> None:
    harness.source.scripted_datasets = None  # type: ignore[assignment]
    message = harness.sync()["box"].message
    assert re.search(r" in scripted_source\.py, line \d+; ", message)
    assert message.endswith(f"; the error is in {SOURCE}")


def test_a_wrong_value_of_a_plugin_names_the_plugin(harness: ScriptedHarness) -> None:
    class WrongFile(ScriptedFile):
        def record(self, path: str) -> FileRecord:
            return path  # type: ignore[return-value]

    harness.datasets["one"] = ScriptedDataset({"a": WrongFile(b"")})
    message = harness.sync()["box:one"].message
    assert re.search(r"in listing\.py, line \d+; check the values that", message)
    assert message.endswith(f"{SOURCE} returned")


@pytest.mark.parametrize(
    ("plugin", "end"),
    [
        (None, "; please report this"),
        (PLUGIN, "; check the values that the source 'shelf' of shelf_source.reader returned"),
    ],
)
def test_an_unexpected_error_elsewhere(plugin: PluginSource | None, end: str) -> None:
    with pytest.raises(KeyError) as raised:
        broken()
    line = broken.__code__.co_firstlineno + 1
    start = "unexpected KeyError: 'size'"
    position = f" in test_crawl_plugins.py, line {line}"
    assert describe_unexpected(raised.value, plugin) == start + position + end
    # an error of another process has no frames
    assert describe_unexpected(KeyError("size"), plugin) == start + end
