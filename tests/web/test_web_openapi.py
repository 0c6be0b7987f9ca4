"""The API is as its OpenAPI description says: schemathesis asks it all kinds of things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from crawl_place import Place
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from web_site import Running, running

from neuromirror.web.api.datasets import OPERATIONS
from neuromirror_demo import DemoBuckets

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

_PATHS = [one.path for one in OPERATIONS]

# the same examples on every run, none kept on disk: what fails here must fail for everybody
_bounded = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(site: Running) -> Any:
    """The description, in which no reply may have anything that it does not tell of."""
    told = site.api("/openapi.json")
    for schema in told["components"]["schemas"].values():
        schema["additionalProperties"] = False
    return schemathesis.openapi.from_dict(told)


class Known:
    """What the catalogue really has, in the words of the API's parameters."""

    def __init__(self, site: Running) -> None:
        self.names = [one["name"] for one in site.api("/datasets")["datasets"]]
        self.versions = {
            name: [one["version"] for one in site.api(f"/datasets/{name}")["all_versions"]]
            for name in self.names
        }
        self.files = {
            name: site.api(f"/datasets/{name}@latest/files?limit=20")["files"]
            for name in self.names
        }

    def put(self, draw: Callable[[Any], Any], case: Case[Any], *, only_path: bool = False) -> None:
        """Names, versions and paths that are there, mostly, for what a case takes."""
        name = draw(st.sampled_from(self.names))
        labels = [*self.versions[name], "latest", "draft"]
        path = draw(st.sampled_from([one["path"] for one in self.files[name]] or ["none"]))
        digests = [
            f"{word}:{value}" for one in self.files[name] for word, value in one["digests"].items()
        ]
        values = {
            "name": [name],
            "version": ["latest"] if "path" in case.query else labels,
            "path": [path],
            "under": [path.rpartition("/")[0]],
            "checksum": digests or ["0" * 64],
            "a": [f"{name}@{label}" for label in labels],
            "b": [f"{name}@{label}" for label in labels],
            "mirror": ["demo"],
            "dataset": [name],
            "kind": ["tombstone", "incident"],
            "q": ["demo", "hippocampal", "nwb", "yaml"],
            "limit": [1, 2],
        }
        parts = [case.path_parameters] if only_path else [case.path_parameters, case.query]
        for part in parts:
            for key in sorted(set(part) & set(values)):
                if draw(st.integers(0, 9)):
                    part[key] = draw(st.sampled_from(values[key]))
            if draw(st.integers(0, 4)):
                part.pop("after", None)


@pytest.fixture(scope="module")
def known(site: Running) -> Known:
    return Known(site)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The catalogue of a store of volumes."""
    folder = tmp_path_factory.mktemp("layers")
    with DemoBuckets(folder / "buckets", layers=True) as buckets:
        mirror = folder / "mirrors" / "demo-precomputed.toml"
        mirror.parent.mkdir()
        mirror.write_text((buckets.mirrors / mirror.name).read_text())
        place = Place(mirror.parent, folder / "store")
        place.sync()
        with running(place.store) as found:
            yield found


@pytest.mark.parametrize("path", [one for one in _PATHS if not one.endswith("/volume")])
def test_an_address_answers_as_it_is_described(
    site: Running, described: Any, known: Known, path: str
) -> None:
    _compare(site, described[path]["GET"], known)


def test_a_volume_is_told_as_it_is_described(layers: Running, described: Any) -> None:
    _compare(layers, described["/datasets/{name}@{version}/volume"]["GET"], Known(layers))


def _compare(site: Running, operation: Any, known: Known) -> None:
    """Asks an operation for what is there and for what is not, and looks at the replies."""
    seen: Counter[int] = Counter()
    with requests.Session() as session:

        @_bounded
        @given(st.data())
        def ask(data: Any) -> None:
            case = data.draw(operation.as_strategy())
            known.put(data.draw, case)
            reply = case.call(base_url=f"{site.address}/api/v1", session=session)
            seen[reply.status_code] += 1
            case.validate_response(reply, checks=_CHECKS)
            if reply.status_code == 200:
                case.headers["If-None-Match"] = reply.headers["etag"][0]
                again = case.call(base_url=f"{site.address}/api/v1", session=session)
                assert again.status_code == 304
                case.validate_response(again, checks=_CHECKS)

        ask()
    assert seen[200], seen


@pytest.mark.parametrize("path", [one.path for one in OPERATIONS if one.parameters])
def test_an_address_refuses_what_it_does_not_take(
    site: Running, described: Any, known: Known, path: str
) -> None:
    operation = described[path]["GET"]
    seen: Counter[int] = Counter()
    with requests.Session() as session:

        @_bounded
        @given(st.data())
        def ask(data: Any) -> None:
            case = data.draw(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            told = case.meta.components.get(ParameterLocation.PATH)
            if told is not None and told.mode == GenerationMode.POSITIVE:
                known.put(data.draw, case, only_path=True)
            reply = case.call(base_url=f"{site.address}/api/v1", session=session)
            seen[reply.status_code] += 1
            case.validate_response(reply, checks=[*_CHECKS, negative_data_rejection])

        ask()
    assert seen[400] or seen[404], seen


def test_the_description_tells_of_every_address_once(site: Running) -> None:
    told = site.api("/openapi.json")
    assert sorted(told["paths"]) == sorted(set(_PATHS))
    names = [one["get"]["operationId"] for one in told["paths"].values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"/|(/[^/]+)+", one) for one in told["paths"])
    assert site.api("") == site.api("/")
    assert site.api("")["description"] == f"{site.address}/api/v1/openapi.json"
    assert set(site.api("")["addresses"]) == set(names) - {"start"}


_DOCS = (Path(__file__).parents[2] / "docs" / "api-http.md").read_text()
_EXAMPLES = re.findall(r"^\| `(/api/v1[^`]*)` \|", _DOCS, flags=re.MULTILINE)


@pytest.mark.parametrize("address", _EXAMPLES)
def test_an_example_of_the_docs_is_answered(site: Running, layers: Running, address: str) -> None:
    asked = layers if "demo-precomputed" in address else site
    assert asked.get(address).status_code == 200


def test_the_docs_have_an_example_of_every_address() -> None:
    patterns = [one.pattern for one in OPERATIONS]
    answered = {
        next((one for one in patterns if re.match(one, address.partition("?")[0])), None)
        for address in _EXAMPLES
    }
    assert answered == set(patterns)


def test_the_loop_of_the_docs_gives_all_rows(site: Running) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", _DOCS, flags=re.DOTALL)
    known: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8270", site.address), known)
    assert known["files"] == site.api("/datasets/demo:000001@draft/files")["files"]
    assert len(known["files"]) > 2
