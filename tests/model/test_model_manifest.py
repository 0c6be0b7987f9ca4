"""The canonical manifest, the state digest, and differences of versions."""

import hashlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.model import (
    Digest,
    Evidence,
    FileRecord,
    LinePair,
    Location,
    StateDigest,
    compose_pairs,
    diff_lines,
    manifest_digest,
    manifest_line,
    patch_lines,
    reverse_pairs,
    subdataset_line,
)

SHA, MD5, ETAG = "ab" * 32, "cd" * 16, "ef" * 16 + "-3"


def claims(*names: str) -> tuple[Digest, ...]:
    values = {"sha256": SHA, "md5": MD5, "etag": ETAG}
    return tuple(Digest(name, values[name], "demo") for name in names)


@pytest.mark.parametrize(
    ("record", "evidence", "digest"),
    [
        (FileRecord(b"a", 1, claims("md5", "sha256")), Evidence.SHA256, f"sha256:{SHA}"),
        (FileRecord(b"a", None, claims("sha256")), Evidence.SHA256, f"sha256:{SHA}"),
        (FileRecord(b"a", 1, claims("etag", "md5"), part_size=8), Evidence.MD5, f"md5:{MD5}"),
        (FileRecord(b"a", 1, claims("etag"), part_size=8), Evidence.ETAG, f"etag:{ETAG}-8"),
        (FileRecord(b"a", 1, claims("etag")), Evidence.SIZE, "none"),
        (FileRecord(b"a", None, claims("etag"), part_size=8), Evidence.NONE, "none"),
        (FileRecord(b"a", 0), Evidence.SIZE, "none"),
        (FileRecord(b"a", None), Evidence.NONE, "none"),
    ],
)
def test_the_strongest_digest_counts(record: FileRecord, evidence: Evidence, digest: str) -> None:
    assert record.evidence is evidence
    assert manifest_digest(record) == digest


LINES = [
    (b"a/b.nwb", f"sha256:{SHA}", 10, f'{{"digest":"sha256:{SHA}","path":"a/b.nwb","size":10}}\n'),
    (b"a", "none", None, '{"digest":"none","path":"a","size":null}\n'),
    (b"a", "none", 0, '{"digest":"none","path":"a","size":0}\n'),
    (b'q"q', "none", 1, '{"digest":"none","path":"q\\"q","size":1}\n'),
    (b"b\\s", "none", 1, '{"digest":"none","path":"b\\\\s","size":1}\n'),
    (b"t\tn\nz\x01", "none", 1, '{"digest":"none","path":"t\\tn\\nz\\u0001","size":1}\n'),
    (
        "é\u2028\U0001f9e0".encode(),
        "none",
        1,
        '{"digest":"none","path":"é\u2028\U0001f9e0","size":1}\n',
    ),
    ('é"'.encode(), "none", 1, '{"digest":"none","path":"é\\"","size":1}\n'),
    (b"\x7f", "none", 1, '{"digest":"none","path":"\x7f","size":1}\n'),
]


@pytest.mark.parametrize(("path", "digest", "size", "line"), LINES)
def test_a_line_has_the_documented_bytes(
    path: bytes, digest: str, size: int | None, line: str
) -> None:
    assert manifest_line(path, digest, size) == line.encode()


def test_a_subdataset_has_a_line_of_its_own() -> None:
    line = subdataset_line('z"é'.encode(), "6ba7b811-9dad-11d1-80b4-00c04fd430c8", f"sha256:{SHA}")
    assert (
        line
        == (
            '{"dataset":"6ba7b811-9dad-11d1-80b4-00c04fd430c8","path":"z\\"é",'
            f'"state":"sha256:{SHA}"}}\n'
        ).encode()
    )


def test_the_state_digest_is_the_sha256_of_all_lines() -> None:
    digest = StateDigest()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest.value() == f"sha256:{empty}"
    for path, claim, size, _ in LINES:
        digest.add(manifest_line(path, claim, size))
    whole = "".join(line for *_, line in LINES).encode()
    assert digest.value() == f"sha256:{hashlib.sha256(whole).hexdigest()}"


def test_urls_times_and_claims_are_not_in_the_state() -> None:
    plain = FileRecord(b"a", 1, claims("sha256"))
    other = FileRecord(
        b"a",
        1,
        (Digest("sha256", SHA, "another archive", True), Digest("md5", MD5, "demo")),
        (Location("https://example.org/a", "s3", "1"),),
        upstream_id="5",
    )
    assert manifest_digest(plain) == manifest_digest(other)


@given(
    path=st.text(st.characters(codec="utf-8"), min_size=1), size=st.none() | st.integers(0, 1 << 60)
)
def test_any_line_is_compact_json_with_sorted_keys(path: str, size: int | None) -> None:
    line = manifest_line(path.encode(), "none", size)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    want = {"digest": "none", "path": path, "size": size}
    assert json.loads(line) == want
    assert line == json.dumps(want, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# few names and contents, so that files are often kept, changed, removed and added again
_STATES = st.lists(
    st.dictionaries(st.sampled_from(["a", "b/c", "b-c", "é", "z"]), st.integers(0, 2)),
    min_size=2,
    max_size=6,
)


def _lines(state: dict[str, int]) -> list[bytes]:
    found = sorted(state.items(), key=lambda one: one[0].encode())
    return [
        json.dumps({"git": name, "size": size}, ensure_ascii=False, separators=(",", ":")).encode()
        for name, size in found
    ]


@given(_STATES)
def test_differences_in_a_row_are_the_difference_of_their_ends(
    states: list[dict[str, int]],
) -> None:
    steps = [list(diff_lines(_lines(one), _lines(other))) for one, other in pairwise(states)]
    whole: list[LinePair] = []
    for step in steps:
        whole = list(compose_pairs(whole, step))
    assert whole == list(diff_lines(_lines(states[0]), _lines(states[-1])))
    assert list(patch_lines(_lines(states[0]), whole)) == _lines(states[-1])
    assert list(patch_lines(_lines(states[-1]), reverse_pairs(whole))) == _lines(states[0])


def test_differences_that_do_not_fit_are_refused() -> None:
    before, between, other, after = ([b'{"git":"a","size":%d}' % one] for one in range(4))
    first, then = diff_lines(before, between), diff_lines(other, after)
    with pytest.raises(ValueError, match="no such file to change"):
        list(compose_pairs(first, then))
