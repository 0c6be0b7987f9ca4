"""Embargoed dandisets with the API key that the ``dandi`` client has."""

import os
import sys
from pathlib import Path

import keyring
import pytest

from neuromirror.net import CredentialsError
from neuromirror.sources import dandi_client
from neuromirror.sources.dandi_client import INSTANCES, DandiKey
from support.embargo_harness import NAME, EmbargoHarness, contents, refs_or_none
from support.forked_commands import ForkedCommand
from support.keyrings import (
    INSTANCE,
    SERVICE,
    EmptyKeyring,
    LockedKeyring,
    keyring_environment,
    store_in_keyring,
)

VARIABLE = "CANARY_INSTANCE_API_KEY"


@pytest.fixture
def keyed(embargo: EmbargoHarness) -> EmbargoHarness:
    """A mirror file that names the instance, and no variable."""
    lines = ['source = "dandi"', "[options]", f'api = "{embargo.demo.api_url}"']
    lines += [f'instance = "{INSTANCE}"', 'embargoed = "private"']
    (embargo.demo.mirrors / "demo.toml").write_text("\n".join(lines) + "\n")
    return embargo


def sync(embargo: EmbargoHarness, code: int = 0, **more: str) -> str:
    """Sync in a process of its own, because a process chooses its keyring once."""
    environment = {**os.environ, **embargo.environment(""), **more}
    environment["NEUROMIRROR_PRIVATE_STORE"] = str(embargo.private)
    with ForkedCommand(["sync"], environment=environment) as process:
        printed = "".join(process.communicate())
    embargo.output.append(printed)
    assert process.returncode == code, printed
    return printed


def test_the_key_is_read_from_the_keyring_entry_of_dandi(
    keyed: EmbargoHarness, isolated_home: Path
) -> None:
    chosen = store_in_keyring(isolated_home, keyed.demo.token)
    printed = sync(keyed, **chosen)
    assert keyed.embargoed_line(printed).startswith(f"ok {NAME} embargoed")
    assert keyed.commits(keyed.private)
    keyed.assert_no_canary_outside()
    assert keyed.demo.token.encode() not in b"\n".join(contents(keyed.private))


def test_the_variable_of_dandi_is_preferred_to_the_keyring(
    keyed: EmbargoHarness, isolated_home: Path
) -> None:
    chosen = store_in_keyring(isolated_home, "0" * 40)
    sync(keyed, **chosen, **{VARIABLE: keyed.demo.token})
    assert keyed.commits(keyed.private)
    keyed.assert_no_canary_outside()


def test_without_an_entry_the_variable_is_named(keyed: EmbargoHarness, isolated_home: Path) -> None:
    printed = sync(keyed, code=2, **keyring_environment(isolated_home))
    assert printed.count(VARIABLE) == 1
    assert not keyed.public.exists()
    assert not keyed.private.exists()


def test_a_locked_keyring_is_one_message(keyed: EmbargoHarness) -> None:
    chosen = {"PYTHON_KEYRING_BACKEND": "support.keyrings.LockedKeyring"}
    printed = sync(keyed, code=2, **chosen)
    assert printed.count(SERVICE) == 1
    assert printed.count(VARIABLE) == 1
    assert "canary detail" not in printed
    assert not keyed.private.exists()


def test_an_expired_key_is_refused_and_named(keyed: EmbargoHarness) -> None:
    printed = sync(keyed, code=1, **{VARIABLE: "0" * 40})
    assert VARIABLE in printed
    assert "0" * 40 not in printed
    assert refs_or_none(keyed.private) == {}


@pytest.fixture
def use_keyring(monkeypatch: pytest.MonkeyPatch):
    before = keyring.get_keyring()

    def use(backend: type[LockedKeyring]) -> type[LockedKeyring]:
        monkeypatch.setattr(backend, "questions", 0)
        keyring.set_keyring(backend())
        return backend

    yield use
    keyring.set_keyring(before)


def test_absence_is_looked_up_once(use_keyring) -> None:
    requested = use_keyring(EmptyKeyring)
    key = DandiKey(INSTANCE)
    assert [key.read(), key.read(), key.known()] == ["", "", ""]
    assert requested.questions == 1
    assert VARIABLE in key.label


def test_a_locked_keyring_raises_and_a_variable_needs_none(
    use_keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = use_keyring(LockedKeyring)
    key = DandiKey(INSTANCE)
    with pytest.raises(CredentialsError) as caught:
        key.read()
    assert (caught.value.identity, caught.value.cause_name) == (SERVICE, "KeyringLocked")
    assert requested.questions == 1
    monkeypatch.setenv(VARIABLE, "from the variable")
    assert key.read() == "from the variable"
    assert requested.questions == 1


def test_the_instances_are_those_of_dandi() -> None:
    from dandi.consts import known_instances

    public = {one for one in known_instances.values() if one.api.startswith("https://")}
    assert {(one.name, one.api, one.gui) for one in public} == set(dandi_client.PUBLIC)
    assert sorted(INSTANCES.values()) == sorted(one.name for one in public)


def test_a_local_archive_is_known_if_dandi_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    api = "http://localhost:8000/api"
    known = dandi_client.archive_at(api)
    assert known == ("dandi-api-local-docker-tests", api, "http://localhost:8085")
    monkeypatch.setitem(sys.modules, "dandi.consts", None)
    assert dandi_client.archive_at(api) is None
    assert dandi_client.archive_at("https://api.dandiarchive.org/api") is not None
