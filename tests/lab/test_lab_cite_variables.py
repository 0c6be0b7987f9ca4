"""What metadata documents call the variables and the investigators of a dataset."""

from collections.abc import Callable
from typing import Any

from neuromirror.lab.cite.documents import read_asset, read_dandiset


def document(path: str, **fields: Any) -> Callable[[str], dict[str, Any]]:
    """Return what reads the only document of a version."""
    return lambda asked: fields if asked == path else {}


def test_modalities_are_the_variables_of_an_aind_asset() -> None:
    modalities = [{"name": "Behavior videos", "abbreviation": "behavior-videos"}]
    asset = read_asset(document("data_description.json", name="x", modality=modalities))
    assert asset.variables == ("Behavior videos",)


def test_an_investigator_of_an_asset_is_one_person_per_object() -> None:
    people = [{"name": "Institute of Brain, Mind and Markets"}, "Jane Doe and John Smith"]
    asset = read_asset(document("data_description.json", investigators=people))
    names = ["Institute of Brain, Mind and Markets", "Jane Doe", "John Smith"]
    assert [author.full_name for author in asset.authors] == names


def test_variables_of_a_dandiset_are_read() -> None:
    variables = ["ElectricalSeries", {"value": "Units"}, "ElectricalSeries", 5, None]
    summary = {"variableMeasured": variables}
    dandiset = read_dandiset(document("dandiset.yaml", name="x", assetsSummary=summary))
    assert dandiset.variables == ("ElectricalSeries", "Units")
