"""Parsing names of people, texts, licenses and identifiers of upstream."""

import pytest

from neuromirror.annex import parse_link_target
from neuromirror.lab.cite.documents import day, doi_of, license_of, make_person, orcid_of, ror_of
from neuromirror.lab.cite.works import qualified_swhid
from neuromirror.model.archive_metadata import plain_text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Doe, Jane", ("Doe", "Jane", "", "")),
        ("Jane Doe", ("Doe", "Jane", "", "")),
        ("Jane Q. Doe", ("Doe", "Jane Q.", "", "")),
        ("J.-P. K Sartre", ("Sartre", "J.-P. K", "", "")),
        ("van der Berg, Anna", ("Berg", "Anna", "van der", "")),
        ("Anna van der Berg", ("Berg", "Anna", "van der", "")),
        ("Anna Maria de los Ríos Soto", ("Ríos Soto", "Anna Maria", "de los", "")),
        ("De la Cruz, Ana", ("De la Cruz", "Ana", "", "")),
        ("al-Haytham, Ibn", ("al-Haytham", "Ibn", "", "")),
        ("Doe, Jr., John", ("Doe", "John", "", "Jr.")),
        ("Doe, John, III", ("Doe", "John", "", "III")),
        ("John Doe, Jr.", ("Doe", "John", "", "Jr.")),
        ("John Doe Jr.", ("Doe", "John", "", "Jr.")),
        ("王小 明", ("王小", "明", "", "")),
        ("김 민준", ("김", "민준", "", "")),
        ("Достоевский, Фёдор", ("Достоевский", "Фёдор", "", "")),
        # ambiguous: any of the words can be a family name
        ("Ana García Márquez", ("", "", "", "")),
        ("International Brain Laboratory", ("", "", "", "")),
        ("王小明", ("", "", "", "")),
        ("Plato", ("", "", "", "")),
        ("von", ("", "", "", "")),
    ],
)
def test_an_ambiguous_name_is_not_split(name: str, parts: tuple[str, str, str, str]) -> None:
    person = make_person(name)
    assert person is not None
    assert (person.family, person.given, person.particle, person.suffix) == parts
    assert person.full_name == name


def test_a_name_is_listed_as_it_is_sorted() -> None:
    names = ["Anna van der Berg", "John Doe Jr.", "Ana García Márquez"]
    made = [one.name for one in map(make_person, names) if one is not None]
    assert made == ["van der Berg, Anna", "Doe, John, Jr.", "Ana García Márquez"]


@pytest.mark.parametrize("name", ["", "  ", " , ", None, 7, ["Doe"]])
def test_text_that_is_no_name_gives_no_person(name: object) -> None:
    assert make_person(name) is None


def test_only_an_orcid_with_the_right_check_digit_is_one() -> None:
    assert orcid_of("0000-0002-1825-0097") == "0000-0002-1825-0097"
    assert orcid_of("https://orcid.org/0000-0002-1694-233X") == "0000-0002-1694-233X"
    for wrong in ("0000-0002-1825-0098", "0000-0002-1825", "0000-0002-1694-2330", None, "X"):
        assert orcid_of(wrong) is None


def test_only_a_ror_is_a_ror() -> None:
    assert ror_of("03cpe7c52") == ror_of("https://ror.org/03cpe7c52") == "https://ror.org/03cpe7c52"
    for wrong in ("13cpe7c52", "03cpe7c5", "https://example.org/03cpe7c52", None):
        assert ror_of(wrong) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <i>b</i> &amp; c<sub>2</sub>", "a b & c2"),
        ("<p>a</p><p>b<br/>c</p>", "a b c"),
        ("<script>x</script>a", "a"),
        ("a < b > c, x<y", "a < b > c, x<y"),
        ("a\n\tb\x00\x1b[1m\u202ec\ufeff", "a b[1mc"),
        ("half \ud800", "half ?"),
        ("&#60;script&#62;", "<script>"),
    ],
)
def test_a_text_is_cited_without_markup_and_control_characters(text: str, expected: str) -> None:
    assert plain_text(text) == expected


@pytest.mark.parametrize(
    ("stated", "spdx", "url"),
    [
        ("spdx:CC-BY-4.0", "CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0"),
        ("CC BY 4.0", "CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0", "https://spdx.org/licenses/CC-BY-NC-SA-4.0"),
        ("CC0", "CC0-1.0", "https://spdx.org/licenses/CC0-1.0"),
        ("ODC-By", "ODC-By-1.0", "https://spdx.org/licenses/ODC-By-1.0"),
        ("spdx:Made-Up-9", "Made-Up-9", "https://spdx.org/licenses/Made-Up-9"),
        ("https://example.org/terms", None, "https://example.org/terms"),
        ("All rights reserved", None, None),
    ],
)
def test_a_license_is_known_however_it_is_spelt(
    stated: str, spdx: str | None, url: str | None
) -> None:
    found = license_of(stated)
    assert found is not None
    assert (found.spdx, found.url) == (spdx, url)
    assert found.name == (spdx or stated)


def test_a_doi_is_found_in_its_three_spellings_and_nowhere_else() -> None:
    doi = "10.48324/dandi.000027/0.210831.2033"
    assert {doi_of(one) for one in (doi, f"doi:{doi}", f"https://doi.org/{doi}")} == {doi}
    for wrong in ("10.48324", "see 10.48324/x or not", "https://example.org/10.48324/x", None):
        assert doi_of(wrong) is None


def test_a_day_that_is_none_is_not_made_up() -> None:
    assert str(day("2024-02-29T12:00:00-08:00")) == "2024-02-29"
    for wrong in ("2023-02-29", "2024", "12:00:00", None, 2024, "0000-01-01"):
        assert day(wrong) is None


def test_the_qualifiers_of_a_swhid_stand_in_the_standards_order() -> None:
    made = qualified_swhid("swh:1:dir:00", "https://example.org/a b;c%", "swh:1:rev:11")
    assert made == "swh:1:dir:00;origin=https://example.org/a%20b%3Bc%25;anchor=swh:1:rev:11"
    assert qualified_swhid("swh:1:rev:11", None) == "swh:1:rev:11"


def test_mark_up_of_any_length_is_read_once() -> None:
    assert plain_text("A" + "<script>" * 200_000) == "A"
    assert plain_text("<script" * 200_000) != ""


def test_a_link_of_any_length_is_read_once() -> None:
    tail = b"/annex/objects" * 100_000
    assert parse_link_target(b".git" + tail + b"/MD5--k/MD5--k") == "MD5--k"
    assert parse_link_target(b".git" + tail + b"/MD5--k/MD5--l") is None
