"""Parsing of listing pages, and refusal of invalid ones."""

from contextlib import suppress
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from benchmarks.listing_server import BigBucket
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.net import InvalidListingError, ObjectRow, VersionsIgnoredError
from neuromirror.net.s3_pages import decode_key, parse_page

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    "<Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
    "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
)
MD5 = "9dd4e461268c8034f5c8564e155c67a6"
ROW = (
    "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><ETag>{etag}</ETag>{sums}"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def row(key="a", at="2023-01-02T03:04:05.000Z", etag=f"&quot;{MD5}&quot;", sums="", size="1"):
    return ROW.format(key=key, at=at, etag=etag, sums=sums, size=size)


def page(*rows, head=HEAD):
    body = head.format(count=len(rows)) + "".join(rows) + "</ListBucketResult>"
    return body.encode()


def test_every_field_of_a_row_is_parsed():
    sums = "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>COMPOSITE</ChecksumType>"
    body = page(row("x/a+b%2Bc%20d", sums=sums, size=str(5 * 2**40), etag=f"&quot;{MD5}-3&quot;"))
    (got,) = parse_page(body, "x").rows
    assert got == ObjectRow(
        b"x/a b+c d",
        5 * 2**40,
        f"{MD5}-3",
        datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC),
        None,
        "SHA256",
        "COMPOSITE",
        storage_class="STANDARD",
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a+b", b"a b"),
        ("a%20b", b"a b"),
        ("a%2Bb", b"a+b"),
        ("a%252Bb", b"a%2Bb"),
        ("%FF%00%0A", b"\xff\x00\n"),
        ("%C3%A9", "é".encode()),
    ],
)
def test_an_encoded_name_is_decoded_exactly_once(name, key):
    assert decode_key(name, encoded=True) == key
    assert parse_page(page(row(name)), "x").rows[0].key == key


def test_a_name_that_is_not_encoded_stays_as_it_is():
    head = HEAD.replace("<EncodingType>url</EncodingType>", "")
    assert parse_page(page(row("a+b%20c&amp;d"), head=head), "x").rows[0].key == b"a+b%20c&d"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a\rb", b"a\rb"),
        ("a\r\nb", b"a\r\nb"),
        ("\r", b"\r"),
        ("a&#xD;b", b"a\rb"),
        ("a\x01b", b"a\x01b"),
        ("a&#1;b&#x1f;", b"a\x01b\x1f"),
    ],
)
def test_control_characters_that_xml_would_change_or_refuse_stay_in_keys(name, key):
    head = HEAD.replace("<EncodingType>url</EncodingType>", "\r\n")
    assert parse_page(page(row(name), head=head), "x").rows[0].key == key
    with pytest.raises(InvalidListingError):
        parse_page(page(row("a\x00b"), head=head), "x")


@pytest.mark.parametrize("at", ["2023-01-02T03:04:05Z", "2023-01-02T03:04:05.000Z"])
def test_times_come_with_and_without_a_fraction(at):
    got = parse_page(page(row(at=at)), "x").rows[0].modified
    assert got == datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59+00:00"])
def test_a_time_before_1970_becomes_1970(at):
    assert parse_page(page(row(at=at)), "x").rows[0].modified == datetime(1970, 1, 1, tzinfo=UTC)


def test_unknown_elements_of_a_page_are_ignored():
    more = (
        "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>SHA256</ChecksumAlgorithm>"
        "<Owner><ID>x</ID><DisplayName>y</DisplayName></Owner>"
        "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>"
    )
    (got,) = parse_page(page(row(sums=more)), "x").rows
    assert (got.key, got.checksum_algorithm) == (b"a", "CRC32,SHA256")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        page(row())[:-30],
        page(row())[:400],
        page(row(key="")),
        page(row(size="-1")),
        page(row(size="1.5")),
        page(row(size="1" * 30)),
        page(row(etag="")),
        page(row(etag="&quot;&quot;")),
        page(row(at="yesterday")),
        page(row(at="2023-13-02T03:04:05Z")),
        page(row(at="0001-01-01T00:00:00+05:00")),
        page(row().replace("<Size>1</Size>", "")),
        page(row().replace("<Size>1</Size>", "<Size>1</Size><Size>2</Size>")),
        page(row().replace("<Key>a</Key>", "<Key>a</Key><Key>b</Key>")),
        page(row("b"), row("a")),
        page(row("a"), row("a")),
        page(row()).replace(b"<IsTruncated>false</IsTruncated>", b""),
        page(row()).replace(b">false<", b">maybe<"),
        page(row()).replace(b"<KeyCount>1<", b"<KeyCount>2<"),
        page(row()).replace(b"ListBucketResult", b"ListVersionsResult"),
        page(row()) + page(row()),
        page(row()).replace(b"<List", b'<!DOCTYPE x [<!ENTITY a "b">]><List', 1),
        b'<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>',
    ],
)
def test_an_inconsistent_page_is_refused(body):
    with pytest.raises(InvalidListingError):
        parse_page(body, "x")


def test_a_list_of_objects_instead_of_versions_is_refused_at_once():
    with pytest.raises(VersionsIgnoredError, match="ignores") as caught:
        parse_page(page(row()), "x", versions=True)
    assert not caught.value.transient
    with pytest.raises(InvalidListingError) as other:
        parse_page(page(row())[:-30], "x", versions=True)
    assert not isinstance(other.value, VersionsIgnoredError)


def test_an_entity_is_not_expanded():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    body = page(row("&b;")).replace(b"<List", bomb.encode() + b"<List", 1)
    with pytest.raises(InvalidListingError, match="document type"):
        parse_page(body, "x")


def test_versions_and_delete_markers_come_in_one_order_though_listed_apart():
    def version(key, number, latest, kind="Version"):
        size = f"<Size>1</Size><ETag>&quot;{MD5}&quot;</ETag>" if kind == "Version" else ""
        return (
            f"<{kind}><Key>{key}</Key><VersionId>{number}</VersionId><IsLatest>{latest}</IsLatest>"
            f"<LastModified>2023-01-02T03:04:0{len(number)}Z</LastModified>{size}</{kind}>"
        )

    body = (
        HEAD.format(count=4).replace("ListBucketResult", "ListVersionsResult")
        + version("a", "1", "false")
        + version("b", "null", "true")
        + version("c", "1", "true")
        + version("a", "22", "true", "DeleteMarker")
        + "</ListVersionsResult>"
    )
    got = parse_page(body.encode(), "x", versions=True).rows
    shape = [(one.key, one.version_id, one.deleted, one.latest) for one in got]
    assert shape == [
        (b"a", "22", True, True),
        (b"a", "1", False, False),
        (b"b", None, False, True),
        (b"c", "1", False, True),
    ]


NAMES = st.binary(min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.sets(NAMES, min_size=1, max_size=20))
def test_any_names_are_read(names):
    body = BigBucket(keys=names)._render(b"", b"", b"", False, 1000, True)
    assert [one.key for one in parse_page(body, "x").rows] == sorted(names)


def keys_by_element_tree(body):
    root = ElementTree.fromstring(body, ElementTree.XMLParser(encoding="utf-8"))
    keys = [one.text or "" for one in root.iterfind("{*}Contents/{*}Key")]
    return [decode_key(key, encoded=True) for key in keys]


FORMS = [
    row("{}"),
    row("{}", sums="<ChecksumAlgorithm>SHA256</ChecksumAlgorithm>"),
    row("{}", sums="<Owner>\n<ID>x</ID><DisplayName/></Owner>").replace("><", ">\n  <"),
    row("{}", sums="<Owner><Key>y</Key><Deep><Key>z</Key></Deep></Owner>"),
    row("{}", etag=f'"{MD5}"').replace("STANDARD", "a &#62; &lt;b&gt;").replace("{}", "&#x31;{}"),
    "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>",
]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(FORMS), max_size=9))
def test_rows_of_any_forms_are_read_as_xml(forms):
    rows = [
        form.replace("{}", f"{number:02}" if "&#x31;" in form else f"1{number:02}")
        for number, form in enumerate(forms)
    ]
    body = page(*rows)
    got = parse_page(body, "x")
    assert [one.key for one in got.rows] == keys_by_element_tree(body)
    assert len(got.rows) + len(got.prefixes) == len(forms)
    assert {one.etag for one in got.rows} <= {MD5}


def test_rows_of_too_many_forms_are_refused():
    rows = [row(f"{n:03}", sums=f"<Tag{n}>x</Tag{n}>") for n in range(100)]
    with pytest.raises(InvalidListingError, match="forms"):
        parse_page(page(*rows), "x")


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_page_is_refused_or_reads_as_xml_does(data):
    body = bytearray(page(row("a"), row("b"), row("c")))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with suppress(InvalidListingError):
        got = [one.key for one in parse_page(bytes(body), "x").rows]
        assert got == keys_by_element_tree(bytes(body))
