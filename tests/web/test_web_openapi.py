"""The API is as its OpenAPI description says: schemathesis asks it all kinds of things."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
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

from neuromirror.web.api.datasets import OPERATIONS
from support.running_catalogue import RunningCatalogue

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

_PATHS = [operation.path for operation in OPERATIONS]

# the same examples on every run, none kept on disk: so that failures are reproducible
_bounded = settings(
    max_examples=6,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def openapi_schema(site: RunningCatalogue) -> Any:
    """The OpenAPI document with additional properties forbidden."""
    document = site.api("/openapi.json")
    for schema in document["components"]["schemas"].values():
        schema["additionalProperties"] = False
    return schemathesis.openapi.from_dict(document)


class KnownValues:
    """Existing values for the parameters of the API."""

    def __init__(self, site: RunningCatalogue) -> None:
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
        path = draw(st.sampled_from([file["path"] for file in self.files[name]] or ["none"]))
        digests = [
            f"{algorithm}:{value}"
            for file in self.files[name]
            for algorithm, value in file["digests"].items()
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
def known_values(site: RunningCatalogue) -> KnownValues:
    return KnownValues(site)


@pytest.mark.parametrize("path", [one for one in _PATHS if not one.endswith("/volume")])
def test_each_operation_returns_its_documented_schema(
    site: RunningCatalogue, openapi_schema: Any, known_values: KnownValues, path: str
) -> None:
    _compare(site, openapi_schema[path]["GET"], known_values)


def test_volume_response_matches_its_schema(
    volume_site: RunningCatalogue, openapi_schema: Any
) -> None:
    _compare(
        volume_site,
        openapi_schema["/datasets/{name}@{version}/volume"]["GET"],
        KnownValues(volume_site),
    )


def _compare(site: RunningCatalogue, operation: Any, known: KnownValues) -> None:
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
                repeated = case.call(base_url=f"{site.address}/api/v1", session=session)
                assert repeated.status_code == 304
                case.validate_response(repeated, checks=_CHECKS)

        ask()
    assert seen[200], seen


@pytest.mark.parametrize("path", [one.path for one in OPERATIONS if one.parameters])
def test_each_operation_refuses_undocumented_parameters(
    site: RunningCatalogue, openapi_schema: Any, known_values: KnownValues, path: str
) -> None:
    operation = openapi_schema[path]["GET"]
    seen: Counter[int] = Counter()
    with requests.Session() as session:

        @_bounded
        @given(st.data())
        def ask(data: Any) -> None:
            case = data.draw(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            component = case.meta.components.get(ParameterLocation.PATH)
            if component is not None and component.mode == GenerationMode.POSITIVE:
                known_values.put(data.draw, case, only_path=True)
            reply = case.call(base_url=f"{site.address}/api/v1", session=session)
            seen[reply.status_code] += 1
            case.validate_response(reply, checks=[*_CHECKS, negative_data_rejection])

        ask()
    assert seen[400] or seen[404], seen


def test_openapi_document_lists_every_path_once(site: RunningCatalogue) -> None:
    document = site.api("/openapi.json")
    assert sorted(document["paths"]) == sorted(set(_PATHS))
    names = [one["get"]["operationId"] for one in document["paths"].values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"/|(/[^/]+)+", one) for one in document["paths"])
    assert site.api("") == site.api("/")
    assert site.api("")["description"] == f"{site.address}/api/v1/openapi.json"
    assert set(site.api("")["addresses"]) == set(names) - {"root"}


_DOCS = (Path(__file__).parents[2] / "docs" / "reference" / "api-http.md").read_text()
_EXAMPLES = re.findall(r"^\| `(/api/v1[^`]*)` \|", _DOCS, flags=re.MULTILINE)


@pytest.mark.parametrize("address", _EXAMPLES)
def test_an_example_of_the_docs_is_answered(
    site: RunningCatalogue, volume_site: RunningCatalogue, address: str
) -> None:
    catalogue = volume_site if "demo-precomputed" in address else site
    assert catalogue.get(address).status_code == 200


def test_the_docs_have_an_example_of_every_address() -> None:
    patterns = [operation.route().path_regex for operation in OPERATIONS]
    answered = {
        next((pattern for pattern in patterns if pattern.match(address.partition("?")[0])), None)
        for address in _EXAMPLES
    }
    assert answered == set(patterns)


def test_the_loop_of_the_docs_gives_all_rows(site: RunningCatalogue) -> None:
    examples = re.findall(r"```python\n(.*?)```", _DOCS, flags=re.DOTALL)
    assert any("while " in code for code in examples)
    for code in examples:
        known: dict[str, Any] = {}
        exec(code.replace("http://127.0.0.1:8270", site.address), known)
        assert known["files"] == site.api("/datasets/demo:000001@draft/files")["files"]
        assert len(known["files"]) > 2
