"""Private buckets and restricted channels, mirrored privately and got with credentials."""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl.plan import refused_note
from neuromirror.index import Schedule
from neuromirror.net import CredentialsError
from neuromirror.service.metrics import Metrics
from neuromirror.sources.api_tokens import InternToken
from neuromirror.store import Store
from neuromirror.store.withdrawn_datasets import withdrawn_folder
from neuromirror_demo.boss import ACTIVITY, PRIVATE, DemoBoss
from support.embargo_harness import contents
from support.foreign_pushes import run_checked, run_in
from support.private_buckets import (
    DATA,
    FILE,
    FOLDER,
    NAME,
    PrivateBucket,
    make_private_bucket,
    run_here,
    watched_processes,
)
from support.signed_buckets import (
    PROFILE,
    SignedBuckets,
    signing_server,
    write_profile,
    write_sso_profile,
)


@pytest.fixture(scope="module")
def server() -> Iterator[SignedBuckets]:
    with signing_server() as running:
        yield running


@pytest.fixture
def lab(server: SignedBuckets, isolated_home: Path, tmp_path: Path) -> Iterator[PrivateBucket]:
    yield make_private_bucket(server, isolated_home, tmp_path / "lab")
    server.rule(payer=[], regions={}, expired=False)


# --- mirrored privately


def test_a_bucket_is_mirrored_into_the_private_store(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.server.rule()
    (result,) = lab.sync()
    requests = bucket_requests(lab)
    assert requests
    assert all(f"Credential={lab.keys.access}/" in request["authorization"] for request in requests)
    assert (result["dataset"], result["status"], result["visit"]) == (NAME, "ok", "full")
    files = {file["path"]: file for file in lab.files()}
    assert set(files) == {FILE, "sub/b c+.bin"}
    assert files[FILE]["evidence"] == "md5"
    assert files[FILE]["size"] == len(DATA)
    start = f"s3://{lab.bucket}/{FOLDER}/{FILE}?versionId="
    assert [url.startswith(start) for url in files[FILE]["urls"]] == [True]
    (unchanged,) = lab.sync()
    assert unchanged["status"] == "notneeded"
    lab.run_on_private_store("fsck")
    lab.assert_nothing_public()
    lab.assert_no_secret(lab.folder)


def test_layers_in_a_bucket_are_private_too(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    info = b'{"@type": "neuroglancer_multiscale_volume", "scales": [], "data_type": "uint8"}'
    lab.server.put(lab.bucket, f"{FOLDER}/info", info)
    lab.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"', source="precomputed")
    (result,) = lab.sync(NAME)
    assert (result["dataset"], result["status"]) == (NAME, "ok")
    lab.assert_nothing_public()


def test_private_false_mirrors_a_bucket_into_the_public_store(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    more = f'profile = "{PROFILE}"', "private = false", "requester_pays = true"
    lab.server.rule(payer=[lab.bucket])
    lab.write_mirror_file('credentials = "aws"', *more)
    (result,) = lab.sync()
    assert result["status"] == "ok"
    assert not lab.private.exists()
    lab.assert_no_secret()


def test_a_bucket_that_was_made_public_moves(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.sync()
    lab.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"', "private = false")
    (result,) = lab.sync()
    assert (result["dataset"], result["status"]) == (NAME, "ok")
    assert FILE in lab.run("files", NAME)
    lab.run("fsck")


def test_a_public_bucket_that_was_made_private_is_an_incident(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"', "private = false")
    lab.sync()
    lab.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"')
    results = lab.sync(code=1)
    assert [result["status"] for result in results if result["dataset"] == NAME] == ["error"]
    assert FILE in lab.run("files", NAME)


# --- refused objects, encrypted objects


def test_refused_objects_are_mirrored_by_size_and_counted(lab: PrivateBucket) -> None:
    lab.keys = lab.server.new_user(f"{lab.bucket}/{FOLDER}/{FILE}")
    write_profile(lab.home, lab.keys)
    (result,) = lab.sync()
    assert (result["status"], result["refused_count"]) == ("ok", 1)
    files = {file["path"]: file for file in lab.files()}
    assert files[FILE]["evidence"] == "size"
    assert files[FILE]["size"] == len(DATA)
    assert files["sub/b c+.bin"]["evidence"] == "md5"
    note = refused_note(1)
    shown = json.loads(lab.run_on_private_store("--json", "show", NAME))
    assert note in shown["last_visit"]["message"]
    assert note in lab.run_on_private_store("show", NAME)
    lab.assert_no_secret()


def test_the_etag_of_an_encrypted_object_is_no_md5(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.server.put(lab.bucket, f"{FOLDER}/kms.bin", b"encrypted", ServerSideEncryption="aws:kms")
    lab.sync()
    assert {file["path"]: file["evidence"] for file in lab.files()} == {
        FILE: "md5",
        "sub/b c+.bin": "md5",
        "kms.bin": "size",
    }


# --- credentials that cannot be used


def causes(results: list[dict[str, object]]) -> list[str]:
    return [str(result["cause"]) for result in results if result["status"] == "error"]


def test_without_credentials_nothing_is_requested(lab: PrivateBucket) -> None:
    lab.write_mirror_file('credentials = "aws"')
    lab.server.rule()
    lab.run("sync", code=2)
    assert lab.server.requests() == []
    assert not lab.public.exists()
    assert not lab.private.exists()


def test_an_unknown_profile_is_named(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys, name="another")
    assert PROFILE in lab.run("sync", code=2)
    assert not lab.private.exists()


def test_the_wrong_profile_is_refused_and_named(lab: PrivateBucket) -> None:
    lab.keys = lab.server.new_user(f"{lab.bucket}/*", lab.bucket)
    write_profile(lab.home, type(lab.keys)("AKIAUNKNOWNUNKNOWN00", lab.keys.secret))
    (cause,) = causes(lab.sync(code=1))
    assert "HTTP 403" in cause
    assert PROFILE in cause
    lab.assert_nothing_public()
    lab.assert_no_secret(lab.folder)


def test_an_expired_session_token_fails_and_keeps_everything(lab: PrivateBucket) -> None:
    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys)
    lab.sync()
    before = lab.files()
    lab.server.rule(expired=True)
    (cause,) = causes(lab.sync("--deep", code=1))
    assert "ExpiredToken" in cause
    assert lab.files() == before
    lab.server.rule(expired=False)
    assert [one["status"] for one in lab.sync("--deep")] == ["notneeded"]
    lab.assert_nothing_public()
    lab.assert_no_secret(lab.folder)


def test_a_token_that_expires_during_a_listing_refuses_no_object(
    lab: PrivateBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A HEAD reply has no error code: an expired token must not look like refused objects."""
    from neuromirror.sources.s3.object_claims import ClaimResolver

    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys)
    request_claims = ClaimResolver.request_claims

    def expire_first(self, row, version_id):
        lab.server.rule(expired=True)
        return request_claims(self, row, version_id)

    monkeypatch.setattr(ClaimResolver, "request_claims", expire_first)
    (cause,) = causes(lab.sync(code=1))
    assert "ExpiredToken" in cause
    monkeypatch.undo()


def test_requester_pays_needs_the_setting(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.server.rule(payer=[lab.bucket])
    (cause,) = causes(lab.sync(code=1))
    assert "requester_pays" in cause
    more = 'credentials = "aws"', f'profile = "{PROFILE}"', "requester_pays = true"
    lab.write_mirror_file(*more)
    (result,) = lab.sync()
    assert (result["dataset"], result["status"]) == (NAME, "ok")
    assert {file["evidence"] for file in lab.files()} == {"md5"}
    lab.assert_nothing_public()


def test_the_right_region_is_named(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.server.rule(regions={lab.bucket: "eu-west-1"})
    (cause,) = causes(lab.sync(code=1))
    assert "eu-west-1" in cause
    more = 'credentials = "aws"', f'profile = "{PROFILE}"', 'region = "eu-west-1"'
    lab.write_mirror_file(*more)
    (result,) = lab.sync()
    assert result["status"] == "ok"


def test_an_expired_sso_session_is_named(lab: PrivateBucket) -> None:
    write_sso_profile(lab.home, "2020-01-01T00:00:00Z")
    printed = lab.run("sync", code=2)
    assert f"aws sso login --profile {PROFILE}" in printed
    assert "canaryssotoken" not in printed
    assert not lab.private.exists()


def test_a_credential_process_is_run(lab: PrivateBucket) -> None:
    program = lab.home / "process.py"
    keys = {"Version": 1, "AccessKeyId": lab.keys.access, "SecretAccessKey": lab.keys.secret}
    program.write_text(f"import json\nprint(json.dumps({keys!r}))\n")
    write_profile(lab.home, None, f"credential_process = {sys.executable} {program}")
    (result,) = lab.sync()
    assert result["status"] == "ok"
    lab.assert_no_secret(lab.folder)


def test_what_a_credential_process_prints_is_not_shown(lab: PrivateBucket) -> None:
    program = lab.home / "process.py"
    program.write_text(f"import sys\nsys.exit('cannot use {lab.keys.secret}')\n")
    write_profile(lab.home, None, f"credential_process = {sys.executable} {program}")
    assert PROFILE in lab.run("sync", code=2)
    lab.assert_no_secret(lab.folder)


def test_a_malformed_file_of_credentials_is_not_shown(lab: PrivateBucket) -> None:
    write_profile(lab.home)
    (lab.home / ".aws" / "credentials").write_text(f"{lab.keys.secret}\n")
    lab.run("sync", code=2)
    lab.assert_no_secret()


def test_no_log_has_a_signature_or_a_token(
    lab: PrivateBucket, caplog: pytest.LogCaptureFixture
) -> None:
    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys)
    botocore = logging.getLogger("botocore")
    before = botocore.level
    botocore.setLevel(logging.NOTSET)
    try:
        with caplog.at_level(logging.DEBUG):
            lab.sync()
    finally:
        botocore.setLevel(before)
    assert caplog.records
    lab.assert_no_secret(printed=(caplog.text,))


# --- content in clones

ENVIRONMENT = {"AWS_PROFILE": PROFILE, "AWS_EC2_METADATA_DISABLED": "true"}
# without repetitions by datalad, which wait for seconds
ANONYMOUS = {"AWS_EC2_METADATA_DISABLED": "true", "DATALAD_ANNEX_RETRY": "0"}


def lab_with_session_keys(
    server: SignedBuckets, home: Path, folder: Path, **options: bool
) -> PrivateBucket:
    """Return a bucket that was mirrored; the profile names the endpoint."""
    lab = make_private_bucket(server, home, folder, **options)
    lab.keys = server.session_keys()
    write_profile(lab.home, lab.keys, f"endpoint_url = {server.endpoint}")
    lab.sync()
    return lab


@pytest.fixture(scope="module")
def cloned_lab(
    server: SignedBuckets, module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> PrivateBucket:
    """A mirrored bucket, and ``clone``: a clone of the private dataset."""
    lab = lab_with_session_keys(server, module_home, tmp_path_factory.mktemp("cloned") / "lab")
    alias = lab.private / "alias" / NAME.replace(":", "--")
    run_checked(lab.folder, "git", "clone", "-q", str(alias), "clone")
    run_checked(lab.folder / "clone", "git", "annex", "init", "-q")
    return lab


@pytest.fixture
def synced_lab(cloned_lab: PrivateBucket, isolated_home: Path) -> Iterator[PrivateBucket]:
    """The same for one test, which changes nothing of the store, in a HOME of its own."""
    lab = replace(cloned_lab, home=isolated_home, output=[])
    write_profile(lab.home, lab.keys, f"endpoint_url = {lab.server.endpoint}")
    yield lab
    lab.server.rule(payer=[], regions={}, expired=False)


@pytest.fixture
def clone(synced_lab: PrivateBucket, tmp_path: Path) -> Path:
    """A copy of the clone."""
    return copytree(synced_lab.folder / "clone", tmp_path / "clone", symlinks=True)


def annex(clone: Path, *command: str, environment: dict[str, str] = ENVIRONMENT) -> int:
    """Run git-annex; return its exit code."""
    return run_in(clone, "git", "annex", *command, environment=environment).returncode


def test_content_is_got_and_verified_with_the_credentials(
    synced_lab: PrivateBucket, clone: Path
) -> None:
    """Also the content of an object that was overwritten since, by its version."""
    synced_lab.server.put(synced_lab.bucket, f"{FOLDER}/{FILE}", b"other bytes of this")
    outputs = [run_in(clone, "git", "annex", "get", FILE, environment=ANONYMOUS)]
    assert outputs[0].returncode != 0
    assert not (clone / FILE).exists()
    with watched_processes(synced_lab.keys.secret, synced_lab.keys.token) as shown:
        for command in (("datalad", "get"), ("git", "annex", "fsck"), ("git", "annex", "drop")):
            outputs.append(run_in(clone, *command, ".", environment=ENVIRONMENT))
            assert outputs[-1].returncode == 0, outputs[-1].stdout
            is_here = "drop" not in command
            assert (clone / FILE).exists() is is_here
            assert not is_here or (clone / FILE).read_bytes() == DATA
    assert shown == []
    synced_lab.assert_no_secret(clone, printed=tuple(output.stdout for output in outputs))


def got_files(clone: Path, **environment: str) -> list[dict[str, object]]:
    """Run ``neuromirror get``; return its records of files."""
    done = run_here(clone, "--json", "get", environment=environment)
    lines = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    found = [one for one in lines if "path" in one]
    assert found, done.stdout
    return found


def bucket_requests(lab: PrivateBucket) -> list[dict[str, str]]:
    return [request for request in lab.server.requests() if lab.bucket in request["path"]]


def test_get_signs_the_requests_itself(synced_lab: PrivateBucket, clone: Path) -> None:
    synced_lab.server.rule()
    with watched_processes(synced_lab.keys.secret, synced_lab.keys.token) as shown:
        records = got_files(clone, AWS_PROFILE=PROFILE)
    assert shown == []
    assert {record["status"] for record in records} == {"ok"}
    assert {record["checked"] for record in records} == {"checked"}
    assert all(str(record["url"]).startswith(f"s3://{synced_lab.bucket}/") for record in records)
    requests = bucket_requests(synced_lab)
    assert len(requests) == len(records)
    assert all(f"Credential={synced_lab.keys.access}/" in one["authorization"] for one in requests)
    assert annex(clone, "fsck") == 0
    assert "[here]" in run_checked(clone, "git", "annex", "whereis", FILE)
    synced_lab.assert_no_secret(clone, printed=(json.dumps(records),))


def test_get_without_credentials_sends_nothing_and_names_the_bucket(
    synced_lab: PrivateBucket, clone: Path
) -> None:
    setting = f"neuromirror.{synced_lab.bucket}.endpoint"
    run_checked(clone, "git", "config", "--global", setting, synced_lab.server.endpoint)
    synced_lab.server.rule()
    records = got_files(clone)
    assert {(one["status"], one["host"]) for one in records} == {("error", synced_lab.bucket)}
    assert bucket_requests(synced_lab) == []
    wrong = got_files(clone, AWS_ACCESS_KEY_ID="AKIAUNKNOWNUNKNOWN00", AWS_SECRET_ACCESS_KEY="no")
    assert {one["status"] for one in wrong} == {"error"}
    assert not (clone / FILE).exists()


def test_get_names_an_object_that_these_credentials_may_not_read(
    synced_lab: PrivateBucket, clone: Path
) -> None:
    keys = synced_lab.server.new_user(f"{synced_lab.bucket}/{FOLDER}/{FILE}")
    rmtree(synced_lab.home / ".aws")
    write_profile(synced_lab.home, keys, f"endpoint_url = {synced_lab.server.endpoint}")
    records = {str(one["path"]): one for one in got_files(clone, AWS_PROFILE=PROFILE)}
    refused = records.pop(FILE)
    assert refused["status"] == "error"
    assert "403" in str(refused["message"])
    assert {record["status"] for record in records.values()} == {"ok"}
    assert not (clone / FILE).exists()
    synced_lab.assert_no_secret(clone, printed=(json.dumps(refused),))


def test_get_reports_a_server_that_cannot_be_reached(
    synced_lab: PrivateBucket, clone: Path, no_waits: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    rmtree(synced_lab.home / ".aws")
    write_profile(synced_lab.home, synced_lab.keys, f"endpoint_url = {endpoint}")
    records = got_files(clone, AWS_PROFILE=PROFILE)
    assert {record["status"] for record in records} == {"error"}
    assert not (clone / FILE).exists()
    synced_lab.assert_no_secret(clone, printed=(json.dumps(records),))


def test_get_signs_nothing_where_the_special_remote_is_not_enabled(
    synced_lab: PrivateBucket, clone: Path
) -> None:
    """The URL of a dataset from anybody is requested only where its owner enabled the remote."""
    run_checked(clone, "git", "config", "remote.neuromirror.annex-ignore", "true")
    synced_lab.server.rule()
    records = got_files(clone, AWS_PROFILE=PROFILE)
    assert {record["status"] for record in records} <= {"error", "impossible"}
    assert bucket_requests(synced_lab) == []


def register_wrong_bytes(lab: PrivateBucket, clone: Path) -> None:
    """Replace the URL of ``FILE`` by that of another object."""
    key = run_checked(clone, "git", "annex", "lookupkey", FILE).strip()
    wrong = f"s3://{lab.bucket}/{FOLDER}/sub/b%20c%2B.bin"
    (url,) = {file["path"]: file["urls"] for file in lab.files()}[FILE]
    run_checked(clone, "git", "annex", "registerurl", "--remote=neuromirror", key, wrong)
    run_checked(clone, "git", "annex", "unregisterurl", "--remote=neuromirror", key, url)


def test_get_names_a_bucket_that_charges_and_wrong_bytes(
    synced_lab: PrivateBucket, clone: Path
) -> None:
    synced_lab.server.rule(payer=[synced_lab.bucket])
    setting = f"neuromirror.{synced_lab.bucket}.requester-pays"
    assert all(f"{setting} true" in str(one["message"]) for one in got_files(clone, **ENVIRONMENT))
    refused = run_in(clone, "git", "annex", "get", FILE, environment=ENVIRONMENT)
    assert refused.returncode != 0
    assert f"{setting} true" in refused.stdout
    run_checked(clone, "git", "config", "--global", setting, "true")
    assert {one["status"] for one in got_files(clone, **ENVIRONMENT)} == {"ok"}
    assert annex(clone, "drop", "--force", FILE) == 0
    register_wrong_bytes(synced_lab, clone)
    statuses = {one["path"]: one["status"] for one in got_files(clone, **ENVIRONMENT)}
    assert statuses == {FILE: "error", "sub/b c+.bin": "notneeded"}
    assert annex(clone, "get", FILE) != 0
    assert not (clone / FILE).exists()


def test_clone_get_and_verify_of_a_bucket_that_charges_leave_no_secret(
    lab: PrivateBucket, tmp_path: Path
) -> None:
    """The stores, the clone, the plain files, HOME with its caches and all processes."""
    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys, f"endpoint_url = {lab.server.endpoint}")
    lab.server.rule(payer=[lab.bucket])
    lab.write_mirror_file('credentials = "aws"', f'profile = "{PROFILE}"', "requester_pays = true")
    lab.sync()
    command = ("--store", str(lab.private))
    printed = []
    with watched_processes(lab.keys.secret, lab.keys.token) as shown:
        refused = run_here(tmp_path, *command, "get", NAME, "--into", "none", environment={})
        assert refused.returncode == 1
        assert lab.bucket in refused.stdout
        assert not list((tmp_path / "none").rglob("*.txt"))
        setting = f"neuromirror.{lab.bucket}.requester-pays"
        run_checked(tmp_path, "git", "config", "--global", setting, "true")
        for arguments in (
            ("clone", NAME, "clone", "--get", "**"),
            ("verify", "clone"),
            ("get", NAME, "--into", "plain"),
            ("get", NAME, "--into", "plain"),
        ):
            done = run_here(tmp_path, *command, *arguments, environment=ENVIRONMENT)
            assert done.returncode == 0, done.stdout
            printed.append(done.stdout)
    assert shown == []
    for folder in ("clone", "plain"):
        assert (tmp_path / folder / FILE).read_bytes() == DATA
    (lab.home / ".aws" / "credentials").unlink(missing_ok=True)
    (lab.home / ".aws" / "config").unlink(missing_ok=True)
    lab.assert_no_secret(tmp_path, lab.home, printed=(refused.stdout, *printed))


def test_clones_request_a_bucket_as_the_mirror_file_states(
    lab: PrivateBucket, tmp_path: Path
) -> None:
    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys)
    lab.server.rule(payer=[lab.bucket], regions={lab.bucket: "eu-west-1"})
    lab.write_mirror_file(
        *('credentials = "aws"', f'profile = "{PROFILE}"'),
        *('region = "eu-west-1"', "requester_pays = true"),
    )
    lab.sync()
    # neither AWS_PROFILE nor a setting of git, also not for addresses of this machine
    environment = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_COMMITTER_{name}": "test@example.invalid" for name in ("NAME", "EMAIL")},
        **{f"GIT_AUTHOR_{name}": "test@example.invalid" for name in ("NAME", "EMAIL")},
    }
    given = {**environment, "NEUROMIRROR_MIRRORS": str(lab.folder / "mirrors")}
    command = ("--store", str(lab.private))
    for arguments in (("get", NAME, "--into", "plain"), ("clone", NAME, "clone", "--get", FILE)):
        done = run_here(tmp_path, *command, *arguments, environment=given)
        assert done.returncode == 0, done.stdout
    for folder in ("clone", "plain"):
        assert (tmp_path / folder / FILE).read_bytes() == DATA
    # the clone has no settings: others could have written them
    assert annex(tmp_path / "clone", "get", ".", environment=environment) == 1
    lab.assert_no_secret(tmp_path, lab.folder)


def test_the_last_copy_of_an_object_overwritten_in_an_unversioned_bucket_stays(
    server: SignedBuckets, isolated_home: Path, tmp_path: Path
) -> None:
    lab = lab_with_session_keys(server, isolated_home, tmp_path / "lab", versioned=False)
    clone = tmp_path / "clone"
    repository = lab.private / "alias" / NAME.replace(":", "--")
    run_checked(tmp_path, "git", "clone", "-q", str(repository), str(clone))
    assert {one["status"] for one in got_files(clone, **ENVIRONMENT)} == {"ok"}
    lab.server.put(lab.bucket, f"{FOLDER}/{FILE}", b"x" * len(DATA))
    assert annex(clone, "drop", ".") == 1
    assert (clone / FILE).read_bytes() == DATA
    assert not (clone / "sub" / "b c+.bin").exists()


# --- the service


@pytest.mark.parametrize("expired", [False, True])
def test_a_service_publishes_nothing_of_a_private_bucket(lab: PrivateBucket, expired: bool) -> None:
    """The public store with its schedule, the log, the catalogue and the metrics are searched."""
    lab.keys = lab.server.session_keys()
    write_profile(lab.home, lab.keys)
    lab.server.rule(expired=expired)
    log = lab.run("serve", "--once", "--executor", "threads", code=int(expired))
    lab.server.rule(expired=False)
    # the run was a real one: the private store has the dataset, or the public one the failure
    assert lab.private.exists()
    if not expired:
        assert FILE in {file["path"] for file in lab.files()}
    store = Store.open(lab.public)
    assert store.schedule_path.exists()
    printed = [lab.run("status", code=int(expired)), lab.run("events"), lab.run("list")]
    with Schedule.open(store.schedule_path) as schedule:
        page = Metrics(store, store.index_path, schedule, ("lab",)).page().decode()
    assert 'mirror="lab"' in page
    lab.assert_nothing_public()
    lab.assert_no_secret(lab.folder, printed=(page,))
    # the operator's own log may name the dataset, and nothing that is in it
    for text in (page, *printed):
        assert [one for one in (lab.bucket, FOLDER, FILE, lab.keys.access) if one in text] == []
    assert [one for one in (FILE, lab.keys.access) if one in log] == []


# --- withdrawn, held and released


def test_a_private_dataset_is_not_withdrawn(lab: PrivateBucket) -> None:
    write_profile(lab.home, lab.keys)
    lab.sync()
    before = lab.files()
    for options in (["--reason", "withdrawn by its owner"], ["--undo"]):
        lab.run_on_private_store("takedown", NAME, *options, code=2)
        lab.run("takedown", NAME, *options, code=2)
    assert lab.files() == before
    assert not withdrawn_folder(Store(lab.private)).exists()
    lab.run_on_private_store("fsck")
    lab.assert_nothing_public()


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@pytest.fixture
def folder(boss: DemoBoss, tmp_path: Path) -> Path:
    """A folder with a mirror file for a public and a restricted channel."""
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    lines = ['source = "boss"', "[options]", f'api = "{boss.api}"', 'restricted = "private"']
    lines += [f'include = ["{ACTIVITY}", "{PRIVATE}"]', "block = [128, 128, 32]"]
    (mirrors / "bossdb.toml").write_text("\n".join(lines) + "\n")
    return tmp_path


def host_of(boss: DemoBoss) -> str:
    return boss.api.partition("://")[2]


def write_intern_file(home: Path, boss: DemoBoss) -> None:
    (home / ".intern").mkdir()
    section = f"protocol = http\nhost = {host_of(boss)}\ntoken = {boss.token}\n"
    (home / ".intern" / "intern.cfg").write_text(f"[Default]\n{section}")


def sync(folder: Path, code: int = 0) -> str:
    environment = {
        "NEUROMIRROR_MIRRORS": str(folder / "mirrors"),
        "NEUROMIRROR_STORE": str(folder / "public"),
        "NEUROMIRROR_PRIVATE_STORE": str(folder / "private"),
    }
    done = CliRunner().invoke(main, ["sync"], env=environment, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout + done.stderr


def clone_of(folder: Path, store: str, channel: str) -> Path:
    clone = folder / f"clone-{store}"
    alias = f"bossdb--{channel.replace('/', '--')}"
    run_checked(folder, "git", "clone", "-q", str(folder / store / "alias" / alias), str(clone))
    return clone


def blocks_of(clone: Path) -> list[str]:
    found = run_checked(clone, "git", "annex", "find", "--not", "--in=here").splitlines()
    assert found
    return found[:2]


def test_a_restricted_channel_is_mirrored_privately_cloned_got_and_verified(
    boss: DemoBoss, folder: Path, isolated_home: Path
) -> None:
    """By git-annex and by neuromirror; the token is found nowhere afterwards."""
    write_intern_file(isolated_home, boss)
    printed = sync(folder)
    assert (folder / "private" / "alias" / f"bossdb--{PRIVATE.replace('/', '--')}").exists()
    public = b"\n".join(contents(folder / "public"))
    assert PRIVATE.encode() not in public
    assert ACTIVITY.encode() in public
    clone = clone_of(folder, "private", PRIVATE)
    (block,) = blocks_of(clone)
    with watched_processes(boss.token) as shown:
        done = [run_in(clone, "git", "annex", "get", block)]
        for command in (
            ("clone", f"bossdb:{PRIVATE}", "ours", "--get", block),
            ("verify", "--allow-missing", "ours"),
        ):
            private = "--store", str(folder / "private")
            done.append(run_here(folder, *private, *command, environment={}))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert shown == []
    assert (folder / "ours" / block).exists()
    run_checked(clone, "git", "annex", "drop", "--force", block)
    (isolated_home / ".intern" / "intern.cfg").unlink()
    refused = [
        run_in(clone, "git", "annex", "get", block),
        run_here(clone, "get", block, environment={}),
    ]
    assert [one.returncode for one in refused] == [1, 1], refused
    for kept in (folder, isolated_home):
        assert boss.token.encode() not in b"\n".join(contents(kept)), kept
    assert boss.token not in "".join([printed, *(one.stdout for one in (*done, *refused))])


def test_without_a_token_nothing_is_requested(boss: DemoBoss, folder: Path) -> None:
    assert "intern.cfg" in sync(folder, code=2)
    assert not (folder / "public").exists()


def test_public_channels_do_not_depend_on_the_file(
    boss: DemoBoss, folder: Path, isolated_home: Path
) -> None:
    (isolated_home / ".intern").mkdir()
    file = isolated_home / ".intern" / "intern.cfg"
    file.write_text("canary of a malformed file\n")
    printed = sync(folder, code=2)
    assert "canary" not in printed
    mirror = folder / "mirrors" / "bossdb.toml"
    mirror.write_text(mirror.read_text().replace('restricted = "private"\n', ""))
    sync(folder)
    clone = clone_of(folder, "public", ACTIVITY)
    first, second = blocks_of(clone)
    assert run_in(clone, "git", "annex", "get", first).returncode == 0
    # a token that has expired
    file.write_text(f"[Default]\nprotocol = http\nhost = {host_of(boss)}\ntoken = {'0' * 40}\n")
    assert run_in(clone, "git", "annex", "get", second).returncode == 0


@pytest.mark.parametrize(
    "text", ["no section\n", "[Default]\nhost = h\nhost = h\n", "[Default\n", "\xff"]
)
def test_a_malformed_file_is_one_kind_of_error(isolated_home: Path, text: str) -> None:
    (isolated_home / ".intern").mkdir()
    (isolated_home / ".intern" / "intern.cfg").write_bytes(text.encode("latin-1"))
    token = InternToken("h", "A_TOKEN")
    with pytest.raises(CredentialsError) as caught:
        token.read()
    assert caught.value.cause_name
    assert token.known() == ""


def test_a_missing_home_is_an_error_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(CredentialsError) as caught:
        InternToken("h", "A_TOKEN").read()
    assert caught.value.cause_name == "RuntimeError"
    monkeypatch.setenv("A_TOKEN", "given")
    assert InternToken("h", "A_TOKEN").read() == "given"


def test_a_token_for_another_host_is_not_used(
    isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (isolated_home / ".intern").mkdir()
    text = "[Project Service]\nhost = api.bossdb.io\ntoken = canary%token\n"
    (isolated_home / ".intern" / "intern.cfg").write_text(text)
    assert InternToken("api.bossdb.io", "A_TOKEN").read() == "canary%token"
    assert InternToken("api.bossdb.example", "A_TOKEN").read() == ""
    monkeypatch.setenv("INTERN_HOST", "other.example")
    monkeypatch.setenv("INTERN_TOKEN", "other")
    assert InternToken("other.example", "A_TOKEN").read() == "other"
    assert InternToken("third.example", "A_TOKEN").read() == ""
