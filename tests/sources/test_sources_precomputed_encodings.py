"""Paths of files depend on the encoding of their objects, determined from a sample."""

import gzip
import json
import random
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from neuromirror.model import ExcludedEntry, FileRecord
from neuromirror.net import ContextThreadPool, ObjectRow, ResponseHead
from neuromirror.sources import UnreliableListingError
from neuromirror.sources.precomputed import PrecomputedSource
from neuromirror.sources.precomputed.encodings import (
    FRESH_SAMPLE,
    SAMPLE,
    EncodingNaming,
    encoding_of,
)
from neuromirror.sources.s3.history import upstream_name
from neuromirror_demo.volumes import encode_object
from support.precomputed_layers import (
    INFO,
    TEXT,
    Layers,
    encodings_by_folder,
    key_of,
    layers_at,
    listing_of,
    read,
)
from support.visit_context import FakeVisitContext

CH = "c/e/ch"


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    """A bucket with one empty layer."""
    with layers_at(tmp_path) as made:
        made.put(f"{CH}/info", INFO)
        yield made


def paths(source: PrecomputedSource, known: FakeVisitContext | None = None) -> set[str]:
    listing = listing_of(source, CH) if known is None else listing_of(source, CH, known)
    return {path.decode() for path in read(listing)}


def memo_of(source: PrecomputedSource, known: FakeVisitContext | None = None) -> FakeVisitContext:
    listing = listing_of(source, CH) if known is None else listing_of(source, CH, known)
    read(listing)
    return FakeVisitContext(memo=listing.memo())


def chunk(number: int) -> str:
    return f"{CH}/8_8_8/{64 * number}-{64 * number + 64}_0-64_0-16"


# --- samples of a first visit


def test_a_sample_of_each_scale_gives_all_of_it_its_ending(layers):
    layers.scale(f"{CH}/4_4_40", 30, "br")
    layers.scale(f"{CH}/8_8_40", 20, "gzip")
    layers.scale(f"{CH}/16_16_40", 5)
    source = layers.source()
    source.capabilities()
    layers.demo.clear_requests()
    listing = listing_of(source, CH)
    files = read(listing)
    for path, record in files.items():
        name = key_of(record).removeprefix(f"{CH}/")
        ending = {"4_4_40": ".br", "8_8_40": ".gz", "16_16_40": ""}[name.partition("/")[0]]
        assert path.decode() == name + ending
    assert encodings_by_folder(listing) == {
        "*": ("each object", ["identity"]),
        "16_16_40/*": ("each object", ["identity"]),
        "4_4_40/*": ("a sample", ["br"]),
        "8_8_40/*": ("a sample", ["gzip"]),
    }
    assert {one for name, one in listing.facts.attributes if name == "encoding"} == {"br", "gzip"}
    # eight more to check that ETags are MD5s
    assert len(layers.heads()) <= 1 + 5 + 2 * SAMPLE + 8
    second = listing_of(layers.source(), CH)
    read(second)
    assert second.documents == listing.documents


def test_mesh_manifests_and_fragments_are_sampled_separately(layers):
    for number in range(1, 41):
        layers.put(f"{CH}/mesh/{number}:0", "{}")
        layers.put(f"{CH}/mesh/{number}:0:0-9_0-9_0-9", TEXT, "gzip")
    source = layers.source()
    source.capabilities()
    layers.demo.clear_requests()
    assert paths(source) == {
        *(f"mesh/{number}:0" for number in range(1, 41)),
        *(f"mesh/{number}:0:0-9_0-9_0-9.gz" for number in range(1, 41)),
    }
    assert len(layers.heads()) <= 1 + 2 * SAMPLE + 8


def test_every_object_of_a_mixed_scale_is_requested(layers):
    layers.scale(f"{CH}/8_8_8", 30, "br")
    layers.scale(f"{CH}/8_8_8", 30, "gzip", first=30)
    layers.scale(f"{CH}/8_8_8", 1, first=60)
    listing = listing_of(layers.source(), CH)
    names = {key_of(record): path.decode() for path, record in read(listing).items()}
    for number in range(61):
        key = chunk(number)
        ending = ".br" if number < 30 else ".gz" if number < 60 else ""
        assert names[key] == key.removeprefix(f"{CH}/") + ending
    assert encodings_by_folder(listing)["8_8_8/*"] == ("each object", ["br", "gzip", "identity"])


def test_each_asks_for_every_object(layers):
    layers.scale(f"{CH}/8_8_8", 30, "br")
    odd = next(number for number in range(30) if chunk(number) not in sampled(layers))
    layers.put(chunk(odd), TEXT)
    assert f"{chunk(odd)}.br".removeprefix(f"{CH}/") in paths(layers.source())
    found = paths(layers.source(encodings="each"))
    assert chunk(odd).removeprefix(f"{CH}/") in found
    assert len(found) == 30


def sampled(layers: Layers) -> set[str]:
    """Return the objects that a first visit requests."""
    layers.demo.clear_requests()
    paths(layers.source(etags="md5"))
    return set(layers.heads())


# --- later visits


def test_an_unchanged_layer_needs_no_head_requests(layers):
    layers.scale(f"{CH}/8_8_8", 30, "br")
    layers.scale(f"{CH}/4_4_4", 30, "br")
    layers.scale(f"{CH}/4_4_4", 30, "gzip", first=30)
    source = layers.source()
    known = memo_of(source)
    layers.demo.clear_requests()
    listing = listing_of(source, CH, known)
    assert listing.is_unchanged()
    assert {kind for kind, _ in listing.facts.links} == {"neuroglancer", "precomputed"}
    assert layers.heads() == []
    assert len(layers.demo.requests) == 1
    assert not listing_of(layers.source(encodings="each"), CH, known).is_unchanged()


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_an_object_rewritten_in_another_encoding_gets_another_path(layers, encoding):
    layers.scale(f"{CH}/8_8_8", 30, "br")
    source = layers.source()
    known = memo_of(source)
    odd = next(number for number in range(30) if chunk(number) not in sampled(layers))
    layers.put_later(chunk(odd), TEXT, encoding)
    name = chunk(odd).removeprefix(f"{CH}/")
    ending = {"": "", "gzip": ".gz"}[encoding]
    listing = listing_of(source, CH, known)
    assert not listing.is_unchanged()
    found = read(listing)
    assert (name + ending).encode() in found
    assert f"{name}.br".encode() not in found
    assert len(found) == 30
    assert listing.can_find_present
    assert listing.find_present([f"{name}.br".encode()]) == []
    # a known mixed scale is remembered when something else changes
    for number in (30, 31):
        known = FakeVisitContext(memo=listing.memo())
        layers.put_later(chunk(number), TEXT, "br")
        listing = listing_of(source, CH, known)
        second = {path.decode() for path in read(listing)}
        assert {name + ending, f"{chunk(number)}.br".removeprefix(f"{CH}/")} <= second
        assert len(second) == number + 1


def test_an_object_rewritten_in_the_second_of_the_newest_is_requested(layers):
    layers.scale(f"{CH}/8_8_8", 30, "br")
    source = layers.source()
    known = memo_of(source)
    odd = next(number for number in range(29) if chunk(number) not in sampled(layers))
    newest = layers.demo.head(chunk(29), bucket=layers.name).modified
    layers.demo.bucket(layers.name).put(chunk(odd).encode(), TEXT, modified=newest)
    assert chunk(odd).removeprefix(f"{CH}/") in paths(source, known)


def test_the_same_bytes_under_another_encoding_are_noticed(layers):
    data = encode_object(TEXT, "br").data
    layers.scale(f"{CH}/8_8_8", 30, "br")
    source = layers.source()
    known = memo_of(source)
    odd = next(number for number in range(30) if chunk(number) not in sampled(layers))
    layers.put_later(chunk(odd), data)
    assert chunk(odd).removeprefix(f"{CH}/") in paths(source, known)


def test_a_repaired_mixed_scale_is_sampled(layers):
    layers.scale(f"{CH}/8_8_8", 20, "br")
    source = layers.source()
    layers.put_later(chunk(20), TEXT)
    known = memo_of(source, memo_of(source))
    layers.put_later(chunk(20), TEXT, "br")
    listing = listing_of(source, CH, known)
    read(listing)
    assert encodings_by_folder(listing)["8_8_8/*"] == ("each object", ["br"])
    after = FakeVisitContext(memo=listing.memo())
    layers.put_later(chunk(21), TEXT, "br")
    listing = listing_of(source, CH, after)
    read(listing)
    assert encodings_by_folder(listing)["8_8_8/*"] == ("a sample", ["br"])


def test_a_damaged_memo_is_ignored(layers):
    layers.scale(f"{CH}/8_8_8", 3, "br")
    source = layers.source()
    for memo in (b"", b"\n", b"{}\nrest", b"nonsense", b"\xff"):
        assert not listing_of(source, CH, FakeVisitContext(memo=memo)).is_unchanged()
        assert len(paths(source, FakeVisitContext(memo=memo))) == 3


# --- names


def test_two_objects_with_the_same_path_are_reported(layers):
    layers.put(f"{CH}/8_8_8/a", TEXT, "br")
    layers.put(f"{CH}/8_8_8/a.br", "separate")
    layers.put(f"{CH}/8_8_8/b", TEXT)
    layers.put(f"{CH}/8_8_8/b.br", "separate")
    layers.put(f"{CH}/8_8_8/c.gz", TEXT, "br")
    layers.put(f"{CH}/8_8_8/d.gz", TEXT, "gzip")
    entries = list(listing_of(layers.source(), CH).entries())
    exceptions = [entry for entry in entries if isinstance(entry, ExcludedEntry)]
    assert [(exception.path, exception.reason, exception.size) for exception in exceptions] == [
        (b"8_8_8/a.br", "name-taken", len("separate"))
    ]
    named = {key_of(entry): entry.path for entry in entries if isinstance(entry, FileRecord)}
    assert named == {
        f"{CH}/8_8_8/a": b"8_8_8/a.br",
        f"{CH}/8_8_8/b": b"8_8_8/b",
        f"{CH}/8_8_8/b.br": b"8_8_8/b.br",
        f"{CH}/8_8_8/c.gz": b"8_8_8/c.gz.br",
        f"{CH}/8_8_8/d.gz": b"8_8_8/d.gz.gz",
    }


@pytest.mark.parametrize(
    ("encoding", "ending"),
    [
        ("br", ".br"),
        ("gzip", ".gz"),
        ("GZIP", ".gz"),
        ("x-gzip", ".gz"),
        ("gzip,aws-chunked", ".gz"),
        ("zstd", ".zstd"),
        ("bzip2", ".bz2"),
        ("xz", ".xz"),
        ("identity", ""),
        ("aws-chunked", ""),
        ("compress", ""),
        ("gzip, br", ""),
    ],
)
def test_endings_are_those_that_cloudvolume_looks_for(layers, encoding, ending):
    layers.put(f"{CH}/8_8_8/a", "stored", encoding)
    assert paths(layers.source()) == {f"8_8_8/a{ending}"}


def test_headers_without_an_encoding_give_none():
    assert encoding_of({}) == ""


def test_objects_that_end_like_compressed_ones_keep_their_names(layers):
    layers.put(f"{CH}/8_8_8/0-64_0-64_0-16.gz", gzip.compress(TEXT))
    layers.put(f"{CH}/8_8_8/64-128_0-64_0-16.gz", gzip.compress(TEXT))
    assert paths(layers.source()) == {*("8_8_8/0-64_0-64_0-16.gz", "8_8_8/64-128_0-64_0-16.gz")}


def test_documents_are_readable_however_they_are_stored(layers):
    layers.put(f"{CH}/info", INFO, "gzip")
    layers.put(f"{CH}/extra.json", '{"a": 1}', "br")
    layers.put(f"{CH}/more.json", json.dumps({"a": "b" * 3000}), "gzip")
    listing = listing_of(layers.source(), CH)
    # a document that needs a library for decoding is a file with CloudVolume's suffix
    assert set(read(listing)) == {b"extra.json.br"}
    contents = {document.path: document.content for document in listing.documents}
    assert contents[b"info"] == INFO.encode()
    assert json.loads(contents[b"more.json"]) == {"a": "b" * 3000}


# --- refused and changing objects


def test_a_refused_object_keeps_its_path_and_is_requested_in_the_next_visit(layers):
    layers.scale(f"{CH}/8_8_8", 2, "br")
    source = layers.source()
    head = source.bucket.head
    refused = chunk(1).encode()
    source.bucket.head = lambda key, **more: (  # type: ignore[method-assign]
        ResponseHead(403, {}) if key == refused else head(key, **more)
    )
    listing = listing_of(source, CH)
    names = set(read(listing))
    assert names == {f"{chunk(0)}.br".removeprefix(f"{CH}/").encode(), refused[len(CH) + 1 :]}
    assert listing.memo() is None


def test_an_object_that_changes_during_its_head_request_fails_the_listing(layers):
    layers.scale(f"{CH}/8_8_8", 2, "br")
    source = layers.source()
    head = source.bucket.head

    contents = (b"written %d times" % number for number in count(1))

    def changing(key, **more):
        if key == chunk(1).encode():
            layers.put(chunk(1), next(contents), "br")
        return head(key, **more)

    source.bucket.head = changing  # type: ignore[method-assign]
    with pytest.raises(UnreliableListingError):
        read(listing_of(source, CH))


def test_missing_files_are_looked_up_under_both_names(layers, monkeypatch):
    layers.scale(f"{CH}/8_8_8", 3, "br")
    layers.put(f"{CH}/8_8_8/plain", TEXT)
    layers.put(f"{CH}/packed.json", "{}", "gzip")
    listing = listing_of(layers.source(), CH)
    read(listing)
    assert listing.can_find_present
    there = [f"{chunk(0)}.br"[len(CH) + 1 :], "8_8_8/plain", "info", "packed.json"]
    gone = [
        *(chunk(0)[len(CH) + 1 :], f"{chunk(0)}.gz"[len(CH) + 1 :], "8_8_8/plain.br"),
        *("8_8_8/no", "8_8_8/no.br"),
    ]
    requested_paths = [one.encode() for one in (*there, *gone)]
    assert listing.find_present(requested_paths) == [one.encode() for one in there]
    monkeypatch.setattr("neuromirror.sources.s3.listing_reader._MAX_HEADS", 3)
    assert listing.find_present(requested_paths) == [one.encode() for one in there]


def test_earlier_states_are_named_by_their_own_versions(layers):
    demo, name = layers.demo, layers.demo.benchmark
    demo.put("layer/info", INFO, bucket=name)
    first = encode_object(TEXT, "br")
    demo.put("layer/8_8_8/a", first.data, bucket=name, encoding="br")
    before = demo.clock.now
    demo.clock.now += timedelta(hours=5)
    demo.put("layer/8_8_8/a", TEXT, bucket=name)
    source = layers.source(bucket=name)
    dataset = source.dataset("layer")
    (past,) = source.history(dataset, None)
    assert past.upstream == upstream_name(past.time or before)
    known = FakeVisitContext()
    assert set(read(source.listing(past, known))) == {b"8_8_8/a.br"}
    assert set(read(source.listing(source.versions(dataset)[0], known))) == {b"8_8_8/a"}


# --- samples


def named(rows: list[ObjectRow], stored: dict[bytes, str], **options: object) -> dict[bytes, str]:
    """Return the paths of rows, and under an empty name the document."""
    encodings = EncodingNaming(b"", head_each=False, memo=None, folder=None, **options)
    requests: list[bytes] = []

    def ask(row: ObjectRow) -> dict[str, str]:
        requests.append(row.key)
        return {"Content-Encoding": stored[row.key]}

    made: dict[bytes, str] = {}
    with ContextThreadPool(2) as pool:
        for row in encodings.prepare_rows(rows, ask, pool):
            path = encodings.file_path(row, row.key, ask, pool)
            path = path.result() if isinstance(path, Future) else path
            assert isinstance(path, bytes)
            made[row.key] = path.decode()
    made[b""] = encodings.document().content.decode()
    made[b"asked"] = str(len(set(requests)))
    return made


def row(key: str) -> ObjectRow:
    return ObjectRow(key.encode(), 1, "0" * 32, datetime(2026, 1, 1, tzinfo=UTC))


def test_the_order_of_a_listing_changes_nothing():
    rows = [row(f"{folder}/{number}") for folder in "abc" for number in range(200)]
    stored = {one.key: "br" if one.key[:1] == b"a" else "gzip" for one in rows}
    stored |= {one.key: "" for one in rows[400:410]}
    first = named(rows, stored)
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert named(rows, stored) == first


def test_very_many_folders_are_sampled_together():
    rows = [row(f"skeletons/{number}/part") for number in range(700)]
    rows += [row(f"8_8_8/{number}") for number in range(50)]
    stored = {one.key: "gzip" if b"skeletons" in one.key else "br" for one in rows}
    first = named(rows, stored)
    assert set(json.loads(first[b""])["objects"]) == {"8_8_8/*", "skeletons/*"}
    assert int(first[b"asked"]) == 2 * SAMPLE
    random.Random(1).shuffle(rows)
    assert named(rows, stored) == first
    crowd = [row(f"{number}/part") for number in range(700)]
    stored = dict.fromkeys((one.key for one in crowd), "br")
    assert set(json.loads(named(crowd, stored)[b""])["objects"]) == {"*"}


def test_many_new_objects_are_sampled_and_few_are_all_requested(layers, monkeypatch):
    monkeypatch.setattr("neuromirror.sources.precomputed.encodings.FRESH_SAMPLE", 12)
    assert FRESH_SAMPLE > 12
    layers.scale(f"{CH}/8_8_8", 10, "br")
    source = layers.source(etags="md5")
    known = memo_of(source)
    layers.demo._later()
    layers.scale(f"{CH}/4_4_4", 40, "br")
    layers.demo.clear_requests()
    assert len(paths(source, known)) == 50
    requests = [head for head in layers.heads() if "/4_4_4/" in head]
    assert len(requests) == 12
