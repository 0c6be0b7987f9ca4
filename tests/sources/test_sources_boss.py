import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from werkzeug.wrappers import Response

from neuromirror.model import ConfigurationError
from neuromirror.net import AccessDeniedError, NotFoundError, ServerError, Session
from neuromirror.sources import DatasetNotFoundError, MalformedIdError, UnexpectedReplyError
from neuromirror.sources.boss import BossChannelNotPublicError, WrongTokenError
from neuromirror.sources.boss.client import BossClient
from neuromirror_demo.boss import ACTIVITY, CELLS, PRIVATE, SKETCH, TISSUE, DemoBoss
from support.boss_sources import (
    TOKEN,
    RewritingProxy,
    documents_of,
    listing_of,
    make_source,
    read_level,
)
from support.visit_context import EMPTY_CONTEXT

OPEN = sorted([ACTIVITY, CELLS, SKETCH, TISSUE])


@pytest.fixture(scope="module")
def shared_boss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBoss]:
    """A BOSS for read-only tests."""
    with DemoBoss(tmp_path_factory.mktemp("boss")) as running:
        yield running


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


# --- discovery


def test_every_public_channel_is_a_dataset(shared_boss):
    source = make_source(shared_boss.api)
    hints = list(source.datasets())
    assert [hint.dataset.local_id for hint in hints] == OPEN
    assert {(hint.fingerprint, hint.unavailable) for hint in hints} == {(None, None)}
    assert hints[0].dataset.source_uri == f"boss://{shared_boss.host}/{OPEN[0]}"
    assert source.uri == f"boss://{shared_boss.host}"
    assert source.hint(hints[0].dataset) == hints[0]


def real_intern(boss: DemoBoss, token: str = "public") -> Any:
    from intern.remote.boss import BossRemote

    return BossRemote({"protocol": "http", "host": boss.host, "token": token})


@pytest.mark.parametrize("method", ["collections", "collection", "frame", "metadata"])
def test_a_missing_intern_is_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for name in ("intern.remote.boss", "intern.resource.boss.resource"):
        monkeypatch.setitem(sys.modules, name, None)
    client = BossClient(Session(), "https://boss.invalid", None)
    arguments = {"collections": (), "metadata": (["c"],)}.get(method, ("c",))
    with pytest.raises(ConfigurationError, match="pip install"):
        getattr(client, method)(*arguments)


def test_lists_equal_those_of_intern(shared_boss):
    remote = real_intern(shared_boss)
    listed = [
        f"{collection}/{experiment}/{channel}"
        for collection in remote.list_collections()
        for experiment in remote.list_experiments(collection)
        for channel in remote.list_channels(collection, experiment)
    ]
    source = make_source(shared_boss.api)
    assert sorted(listed) == [hint.dataset.local_id for hint in source.datasets()]


@pytest.mark.parametrize("path", OPEN)
def test_records_equal_those_of_intern(shared_boss, path):
    from intern.resource.boss.resource import (
        ChannelResource,
        CollectionResource,
        CoordinateFrameResource,
        ExperimentResource,
    )

    names = path.split("/")
    remote, client = real_intern(shared_boss), make_source(shared_boss.api)._client
    experiment = client.experiment(*names[:2])
    resources = (
        CollectionResource(names[0]),
        ExperimentResource(names[1], names[0]),
        ChannelResource(names[2], *names[:2]),
    )
    frame = CoordinateFrameResource(experiment["coord_frame"])
    found = (client.collection(names[0]), experiment, client.channel(*names))
    for resource, ours in zip(resources, found, strict=True):
        assert ours == remote.get_project(resource).raw
    assert client.frame(experiment["coord_frame"]) == remote.get_project(frame).raw
    for depth, resource in enumerate(resources, 1):
        # intern does not encode keys, and the server accepts "citation " as one
        keys = remote.list_metadata(resource)
        ours = client.metadata(names[:depth])
        assert sorted(ours) == sorted(keys)
        plain = [key for key in keys if "&" not in key]
        assert {key: ours[key] for key in plain} == remote.get_metadata(resource, plain)


def test_metadata_keys_with_special_characters_are_read(shared_boss):
    client = make_source(shared_boss.api)._client
    assert client.metadata(["demo_cortex", "sections"]) == {
        "citation & doi": "Doe 2024, 10.0000/demo?a=1"
    }


def test_only_included_channels_are_requested(boss):
    source = make_source(boss.api, include=["demo_cortex/sec*/em"])
    assert [hint.dataset.local_id for hint in source.datasets()] == [TISSUE]
    assert boss.count_requests("demo_activity") == 0
    other = source.dataset(CELLS)
    assert source.hint(other).unavailable
    boss.clear_requests()
    assert list(make_source(boss.api, include=["demo_cortex/other/*"]).datasets()) == []
    assert boss.requests == ["GET /v1/collection/", "GET /v1/collection/demo_cortex/experiment/"]
    everywhere = make_source(boss.api, include=["*/em"], exclude=["demo_cortex/*"])
    assert list(everywhere.datasets()) == []


def test_a_refused_list_is_reported_and_the_others_are_listed(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss)
    refusal = b'{"status": 403, "code": 3001, "message": "Missing read permissions"}'
    closed = Response(refusal, 403, content_type="application/json")
    around.replacements = {
        "collection/demo_activity/experiment/$": closed,
        "experiment/sections/channel/$": closed,
    }
    hints = list(make_source(around.api).datasets())
    assert [hint.dataset.local_id for hint in hints] == [
        "==demo_activity",
        "==demo_cortex/sections",
    ]
    for hint in hints:
        assert "HTTP 403" in hint.unavailable


# --- names


def test_collections_and_experiments_are_superdatasets(shared_boss):
    source = make_source(shared_boss.api)
    assert source.superdataset("demo_cortex").source_uri == f"boss://{shared_boss.host}/demo_cortex"
    inner = source.superdataset("demo_cortex/sections")
    assert (inner.local_id, inner.mirror) == ("demo_cortex/sections", "bossdb")
    assert inner.source_uri == f"boss://{shared_boss.host}/demo_cortex/sections"
    assert source.superdataset(TISSUE) is None
    assert source.superdataset("a//") is None


@pytest.mark.parametrize(
    "name", ["", "a", "a/b", "a/b/c/d", "a//c", "a/b/=2E=2E", "a/b/c d", "a/b/=zz", "a/b/=FF"]
)
def test_an_id_without_a_channel_is_refused(shared_boss, name):
    with pytest.raises(MalformedIdError, match="collection/experiment/channel"):
        make_source(shared_boss.api).dataset(name)


def test_a_name_with_special_characters_is_requested_unchanged(shared_boss, httpserver):
    """No BOSS returns such names today, but other or future versions may."""
    around = RewritingProxy(httpserver, shared_boss)
    odd = "50% a/b"

    def listed(kind: str, *names: str) -> Response:
        quoted = ", ".join(f'"{name}"' for name in names)
        return Response(f'{{"{kind}": [{quoted}]}}', content_type="application/json")

    around.replacements = {
        "/v1/collection/$": listed("collections", odd),
        "/v1/collection/50%25%20a%2Fb/experiment/$": listed("experiments", "e"),
        "/v1/collection/50%25%20a%2Fb/experiment/e/channel/$": listed(
            "channels", "ch?#", "n" * 250
        ),
    }
    source = make_source(around.api, include=["50=25=20a=2Fb/*"])
    hints = list(source.datasets())
    assert hints[0].dataset.local_id == "50=25=20a=2Fb/e/ch=3F=23"
    assert hints[0].dataset.source_uri.endswith("/50%25%20a%2Fb/e/ch%3F%23")
    assert "too long" in hints[1].unavailable
    assert f"{odd}/e/{'n' * 250}" in hints[1].unavailable
    assert source.dataset(hints[0].dataset.local_id) == hints[0].dataset


def test_names_that_begin_with_a_hyphen_or_period_may_be_written_as_they_are(shared_boss):
    source = make_source(shared_boss.api)
    assert source.dataset("-c/.e/-x") == source.dataset("=2Dc/=2Ee/=2Dx")
    located = source.locate(f"{shared_boss.api}/v1/cutout/-c/.e/-x/0/0:1/0:1/0:1/")
    assert located.local_id == source.dataset("-c/.e/-x").local_id


# --- addresses


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/latest", "/v1/"])
def test_the_version_may_be_in_the_address(boss, ending):
    source = make_source(f"{boss.api}{ending}")
    assert len(list(source.datasets())) == len(OPEN)
    assert source.dataset(TISSUE).source_uri == f"boss://{boss.host}/{TISSUE}"
    api_version = "latest" if "latest" in ending else "v1"
    assert boss.count_requests(f"GET /{api_version}/") == len(boss.requests) > 0


def test_a_service_below_a_path_gets_its_requests_below_that_path(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss, "nd/boss")
    source = make_source(f"{around.api}/v1")
    host = httpserver.url_for("").removeprefix("http://").rstrip("/")
    assert source.dataset(SKETCH).source_uri == f"boss://{host}/nd/boss/{SKETCH}"
    listing = listing_of(source, SKETCH)
    level = read_level(source, listing, 0, (70, 260, 300), "uint64")
    assert (level == shared_boss.voxels(SKETCH)).all()


# --- intern's transport


def test_intern_sends_requests_through_our_session(shared_boss, httpserver, monkeypatch):
    monkeypatch.setenv(TOKEN, shared_boss.token)
    around = RewritingProxy(httpserver, shared_boss)
    source = make_source(around.api, token_env=TOKEN, restricted="mirror")
    assert PRIVATE in [hint.dataset.local_id for hint in source.datasets()]
    for headers in around.request_headers:
        assert headers["User-Agent"].startswith("neuromirror/")
        assert headers["Authorization"] == f"token {shared_boss.token}"


def test_requests_without_a_token_use_the_public_one(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss)
    list(make_source(around.api).datasets())
    assert {headers["Authorization"] for headers in around.request_headers} == {"Token public"}


@pytest.mark.parametrize(
    "body",
    [
        *('{"channels": "em"}', "[]", "{}", '{"channels": ["em", "em"]}', '{"channels": [""]}'),
        *('{"channels": [".."]}', '{"channels": ["\\ud800"]}', '{"channels": [1]}'),
    ],
)
def test_a_malformed_list_is_an_error(shared_boss, httpserver, body):
    around = RewritingProxy(httpserver, shared_boss)
    around.replacements["/channel/$"] = Response(body, content_type="application/json")
    with pytest.raises(UnexpectedReplyError, match="demo_activity/calcium"):
        list(make_source(around.api).datasets())


# --- errors


def test_a_server_that_stays_broken_is_an_error(boss):
    boss.fault("status", status=500)
    with pytest.raises(ServerError) as caught:
        list(make_source(boss.api).datasets())
    assert not isinstance(caught.value, WrongTokenError)


def test_a_wrong_token_is_named_by_its_variable_and_never_shown(shared_boss, monkeypatch):
    monkeypatch.setenv(TOKEN, "0123456789abcdef-wrong")
    source = make_source(shared_boss.api, token_env=TOKEN)
    with pytest.raises(AccessDeniedError, match=TOKEN) as caught:
        list(source.datasets())
    assert "wrong" not in str(caught.value)


def test_a_500_with_the_token_only_means_a_wrong_token(shared_boss, httpserver, monkeypatch):
    monkeypatch.setenv(TOKEN, "0123456789abcdef-wrong")
    seen = []

    def answer(request):
        seen.append(request.path)
        if "wrong" in request.headers["Authorization"]:
            return Response("<h1>Server Error (500)</h1>", 500, content_type="text/html")
        return Response('{"collections": []}', content_type="application/json")

    httpserver.expect_request("/v1/collection/").respond_with_handler(answer)
    source = make_source(httpserver.url_for(""), token_env=TOKEN)
    with pytest.raises(WrongTokenError, match=TOKEN):
        list(source.datasets())
    assert len(seen) == 3


def test_an_error_names_the_token_variable_that_is_not_set(shared_boss, httpserver, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    around = RewritingProxy(httpserver, shared_boss)
    source = make_source(around.api, token_env=TOKEN)
    with pytest.raises(AccessDeniedError, match=TOKEN):
        source.hint(source.dataset(PRIVATE))


# --- restricted channels


def test_restricted_channels_are_skipped(shared_boss, monkeypatch):
    monkeypatch.setenv(TOKEN, shared_boss.token)
    source = make_source(shared_boss.api, token_env=TOKEN)
    hints = {hint.dataset.local_id: hint.unavailable for hint in source.datasets()}
    assert sorted(hints) == sorted([*OPEN, PRIVATE])
    assert 'restricted = "mirror"' in hints.pop(PRIVATE)
    assert set(hints.values()) == {None}
    assert 'restricted = "mirror"' in source.hint(source.dataset(PRIVATE)).unavailable
    with pytest.raises(BossChannelNotPublicError, match="restricted"):
        listing_of(source, PRIVATE)


def test_restricted_channels_are_mirrored_if_the_options_say_so(shared_boss, monkeypatch):
    monkeypatch.setenv(TOKEN, shared_boss.token)
    source = make_source(shared_boss.api, token_env=TOKEN, restricted="mirror")
    hints = {hint.dataset.local_id: hint.unavailable for hint in source.datasets()}
    assert hints[PRIVATE] is None
    level = read_level(source, listing_of(source, PRIVATE), 0, (16, 64, 64), "uint8")
    assert (level == shared_boss.voxels(PRIVATE)).all()


@pytest.mark.parametrize("restricted", ["skip", "mirror"])
def test_restricted_metadata_around_a_public_channel_is_left_out(boss, monkeypatch, restricted):
    monkeypatch.setenv(TOKEN, boss.token)
    boss.set_metadata("demo_cortex", "notes", "for us alone")
    boss.set_public("demo_cortex", False)
    source = make_source(boss.api, token_env=TOKEN, restricted=restricted)
    assert source.hint(source.dataset(TISSUE)).unavailable is None
    documents = documents_of(listing_of(source, TISSUE))
    is_included = restricted == "mirror"
    assert (".boss/collection.json" in documents) is is_included
    assert (b"for us alone" in documents[".boss/metadata.json"]) is is_included


def test_a_channel_in_a_restricted_experiment_is_left_out(boss, monkeypatch):
    monkeypatch.setenv(TOKEN, boss.token)
    boss.set_public("demo_cortex/sections", False)
    source = make_source(boss.api, token_env=TOKEN)
    hints = {hint.dataset.local_id: hint.unavailable for hint in source.datasets()}
    assert [name for name, why in hints.items() if why is None] == [ACTIVITY]


# --- removed channels


@pytest.mark.parametrize("how", ["soft_delete", "purge"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_deleted_channel_is_not_found(boss, how, depth):
    source = make_source(boss.api)
    dataset = source.dataset(ACTIVITY)
    names = ACTIVITY.split("/")
    # upstream deletes from the inside out
    for inner in range(3, depth - 1, -1):
        getattr(boss, how)("/".join(names[:inner]))
    assert ACTIVITY not in [hint.dataset.local_id for hint in source.datasets()]
    with pytest.raises(DatasetNotFoundError, match=f"bossdb:{ACTIVITY}"):
        source.hint(dataset)
    with pytest.raises(DatasetNotFoundError):
        listing_of(source, ACTIVITY)
    with pytest.raises(DatasetNotFoundError):
        source.estimate(dataset)


def test_a_404_from_a_proxy_does_not_remove_a_channel(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss)
    around.replacements["/channel/em$"] = Response("<p>no route", 404, content_type="text/html")
    source = make_source(around.api)
    with pytest.raises(NotFoundError, match="HTTP 404"):
        source.hint(source.dataset(TISSUE))


def test_a_version_of_another_name_is_refused(shared_boss):
    source = make_source(shared_boss.api)
    (version,) = source.versions(source.dataset(TISSUE))
    assert (version.upstream, version.time, version.claimed_totals) == ("current", None, None)
    other = replace(version, upstream="draft")
    with pytest.raises(MalformedIdError, match="no version 'draft'"):
        source.listing(other, EMPTY_CONTEXT)
