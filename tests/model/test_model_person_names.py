"""Splitting a text into names of people."""

from __future__ import annotations

import pytest

from neuromirror.model.archive_metadata import split_person_names, without_degrees


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("José Núñez, PhD", ["José Núñez, PhD"]),
        ("Doe, Jane", ["Doe, Jane"]),
        ("Doe, J. A.", ["Doe, J. A."]),
        ("van der Berg, Anna", ["van der Berg, Anna"]),
        ("García Márquez, Ana", ["García Márquez, Ana"]),
        ("Jane Doe, John Smith", ["Jane Doe", "John Smith"]),
        ("Jane A. Doe, J. Smith", ["Jane A. Doe", "J. Smith"]),
        ("Anna van der Berg, Jane Doe", ["Anna van der Berg", "Jane Doe"]),
        ("Jane Doe, John Smith, Ada Lovelace", ["Jane Doe", "John Smith", "Ada Lovelace"]),
        ("Doe, Jane, Smith, John", ["Doe, Jane", "Smith, John"]),
        ("Doe, Jane; Smith, John", ["Doe, Jane", "Smith, John"]),
        ("Jane Doe and John Smith", ["Jane Doe", "John Smith"]),
        ("Jane Doe, Ph.D., John Smith, Jr.", ["Jane Doe, Ph.D.", "John Smith, Jr."]),
        ("Jane Doe, PhD, MD", ["Jane Doe, PhD, MD"]),
        ("Yo-Yo Ma, Jane Doe", ["Yo-Yo Ma", "Jane Doe"]),
        ("Madonna", ["Madonna"]),
        (" , ;", []),
        ("", []),
    ],
)
def test_a_comma_splits_people_and_not_a_name(text: str, names: list[str]) -> None:
    assert split_person_names(text) == names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("José Núñez, PhD", "José Núñez"),
        ("Doe, Jane, Ph.D., M.D.", "Doe, Jane"),
        ("John Smith, Jr.", "John Smith, Jr."),
        ("MD", "MD"),
    ],
)
def test_degrees_are_no_part_of_a_name(name: str, plain: str) -> None:
    assert without_degrees(name) == plain


def test_white_space_of_any_length_is_read_once() -> None:
    assert split_person_names("A" + " " * 1_000_000 + "B") == ["A" + " " * 1_000_000 + "B"]
