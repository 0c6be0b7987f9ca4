"""Writing, reading and rejecting lock files."""

import difflib
import json
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from neuromirror.annex import VaultKind
from neuromirror.lab.clone_urls import refuse_clone_url
from neuromirror.lab.globs import Globs
from neuromirror.lab.lockfile import (
    Lock,
    LockInconsistentError,
    LockUnusableError,
    Pin,
    PinnedEvidence,
    PinnedVault,
    ResolvedVersion,
    dump_lock,
    load_lock,
    parse_lock,
)
from neuromirror.model import ConfigurationError, Evidence, Retention

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "lock.schema.json"
PATH = Path("paper/datasets.lock")
ENDINGS = (("1", "jsonl.zst"), ("2", "bundle"))
UUID = "6b2c1d1e-5f0a-4c57-9f3e-0d9a3c1b7e42"


def make_pin(name: str = "dandi:000027", commit: str = "a", **changes: Any) -> Pin:
    source = f"https://api.example.org/{name}/"
    values: dict[str, Any] = {
        "name": name,
        "requested": "latest",
        "resolved": ResolvedVersion("0.210831.2033", "10.48324/dandi.000027/0.210831.2033"),
        "dataset_id": str(uuid.uuid5(uuid.NAMESPACE_URL, source)),
        "source": source,
        "commit": commit * 40,
        "annex_commit": "b" * 40,
        "tree": "c" * 40,
        "swhid": f"swh:1:rev:{commit * 40}",
        "state": f"sha256:{'d' * 64}",
        "metadata": f"sha256:{'e' * 64}",
        "manifest": f"datasets.lock.d/x/{commit * 40}.jsonl.zst",
        "bundle": f"datasets.lock.d/x/{commit * 40}.bundle",
        "block_digests": f"datasets.lock.d/x/{commit * 64}.block-digests",
        "sha256": (f"{'1' * 64}  {commit * 40}.jsonl.zst", f"{'2' * 64}  {commit * 40}.bundle"),
        "clone": ("https://mirror.example.org/x", "ria+https://mirror.example.org/#id"),
        "copies": (
            PinnedVault("nas", UUID, VaultKind.DIRECTORY, "https://lab.example.org/vault"),
            PinnedVault("cold", UUID.replace("6", "7"), VaultKind.S3, "s3://bucket/lab/"),
        ),
        "files": 3,
        "bytes": 123,
        "paths": ("sub-01", "**/*.nwb"),
        "evidence": {Evidence.MD5: PinnedEvidence(1, 0), Evidence.SHA256: PinnedEvidence(0, 2)},
        "durability": Retention.PUBLISHED,
    }
    return Pin(**{**values, **changes})


def text_of(*pins: Pin, before: str = "") -> str:
    return dump_lock(Lock(PATH, pins), before.encode()).decode()


def read(text: str) -> tuple[Pin, ...]:
    return parse_lock(PATH, text.encode()).datasets


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator.check_schema(found)
    return found


# --- writing


def test_a_written_lock_has_the_given_values() -> None:
    plain = make_pin(
        "aind:a/b", "f", clone=(), paths=(), bundle=None, resolved=ResolvedVersion("2024")
    )
    pins = (make_pin(), plain)
    assert read(text_of(*pins)) == pins
    assert read(text_of()) == ()


def test_odd_characters_come_back() -> None:
    odd = 'a "quoted" \\ back, a tab-less \u00e9\u4e2d, # no comment, ] and }'
    pin = make_pin(
        requested=odd, resolved=ResolvedVersion(odd), paths=("a#b", 'c"d', "[[dataset]]x")
    )
    assert read(text_of(pin)) == (pin,)


def test_the_schema_describes_what_is_written(schema: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema)
    for pins in (
        (),
        (make_pin(), make_pin("aind:x", clone=(), paths=(), bundle=None, metadata="")),
    ):
        validator.validate(tomllib.loads(text_of(*pins)))


def test_the_schema_knows_the_keys_that_the_reader_knows(schema: dict[str, Any]) -> None:
    table = tomllib.loads(text_of(make_pin()))
    (pinned,) = table["dataset"]
    dataset = schema["$defs"]["dataset"]
    assert list(dataset["properties"]) == list(pinned)
    for key in pinned:
        less = text_of(make_pin()).replace(f"\n{key} = ", f"\nun{key} = ")
        with pytest.raises(LockUnusableError, match=f"'un{key}'"):
            read(less)
    assert set(dataset["required"]) == {
        key for key in pinned if fails(lambda key=key: read(without_key(text_of(make_pin()), key)))
    }


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except LockUnusableError as error:
        # evidence is optional without files, as are empty fields
        return not isinstance(error, LockInconsistentError)
    return False


def without_key(text: str, key: str) -> str:
    lines = text.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{key} = "))
    end = start + 1
    if lines[start].rstrip() == f"{key} = [":
        end = lines.index("]\n", start) + 1
    return "".join(lines[:start] + lines[end:])


def test_changing_one_pin_changes_only_its_lines() -> None:
    first, second, third = make_pin("dandi:1"), make_pin("dandi:2", "f"), make_pin("dandi:3")
    before = text_of(first, second, third)
    newer = make_pin("dandi:2", "9", resolved=ResolvedVersion("0.3"), files=3)
    after = text_of(first, newer, third, before=before)
    changed = [
        line[2:]
        for line in difflib.ndiff(before.splitlines(), after.splitlines())
        if line[0] in "+-"
    ]
    assert {line.partition(" = ")[0] for line in changed} == {
        *("resolved", "commit", "swhid", "manifest", "bundle", "block-digests"),
        *(f'    "{one * 64}  {name * 40}.{end}",' for name in "f9" for one, end in ENDINGS),
    }
    assert len(changed) == 16
    assert after == text_of(first, newer, third)


def test_comments_stay_where_people_wrote_them() -> None:
    first, second, third = make_pin("dandi:1"), make_pin("dandi:2", "f"), make_pin("dandi:3")
    written = text_of(first, second, third)
    commented = (
        "# our study\n"
        + written.replace('commit = "ffff', '# checked by Ann # twice\ncommit = "ffff', 1)
        .replace("files = 3\n", "files = 3 # three of them\n")
        .replace('[[dataset]]\nname = "dandi:2"', '# the second one\n[[dataset]]\nname = "dandi:2"')
        + "# the end\n"
    )
    assert read(commented) == (first, second, third)
    # an unchanged lock file is not rewritten
    assert text_of(first, second, third, before=commented) == commented
    newer = make_pin("dandi:2", "9", files=3)
    after = text_of(first, newer, third, before=commented)
    assert read(after) == (first, newer, third)
    old, new = commented.splitlines(), after.splitlines()
    kept = [line for line in old if "#" in line]
    assert [line.replace("  #", " #") for line in new if "#" in line] == kept
    start = new.index("# checked by Ann # twice")
    assert new[start + 1].startswith('commit = "9999')
    without = text_of(first, third, before=after)
    assert read(without) == (first, third)
    assert "the second one" not in without
    assert "our study" in without


@pytest.mark.parametrize(
    "written",
    [
        # a list on one line, which TOML allows too
        "lock-version = 2\ndataset = [{%s}]\n",
        # a text that looks like the start of a table
        "lock-version = 2\n[[dataset]]\n%s\n[[dataset]]\n%s",
    ],
    ids=["inline", "lines in a text"],
)
def test_another_layout_is_not_corrupted(written: str) -> None:
    first = make_pin("dandi:1", copies=())
    second = make_pin("dandi:2", "f", paths=("a", "b"), copies=())
    tables = [lines_of(first), lines_of(second)]
    if "{" in written:
        text = written % ", ".join(tables[0])
        pins: tuple[Pin, ...] = (first,)
    else:
        trick = 'paths = ["""\n[[dataset]]\n""", "b"]'
        tables[1] = [line for line in tables[1] if not line.startswith("paths")] + [trick]
        text = written % ("\n".join(tables[0]), "\n".join(tables[1]))
        pins = (first, make_pin("dandi:2", "f", paths=("[[dataset]]\n", "b"), copies=()))
    assert read(text) == pins
    newer = make_pin("dandi:1", "9", clone=(), paths=())
    after = (newer, *pins[1:], make_pin("dandi:7"))
    assert read(text_of(*after, before=text)) == after


def lines_of(pin: Pin) -> list[str]:
    table = tomllib.loads(text_of(pin))["dataset"][0]
    del table["resolved"], table["evidence"]
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return [
        *plain,
        f"resolved = {{version = {json.dumps(pin.resolved.version)}, "
        f"doi = {json.dumps(pin.resolved.doi)}}}",
        "evidence = {md5 = {checked = 1}, sha256 = {claimed = 2}}",
    ]


def test_the_example_in_the_docs_is_a_lock(schema: dict[str, Any]) -> None:
    page = SCHEMA.with_name("lock.md").read_text("utf-8")
    text = page.partition("```toml\n")[2].partition("```")[0]
    (pin,) = read(text)
    Draft202012Validator(schema).validate(tomllib.loads(text))
    # in the layout of the tool
    assert text_of(pin).partition("lock-version")[2] == text.partition("lock-version")[2]


# --- rejecting


def test_a_lock_of_a_newer_format_is_refused() -> None:
    text = text_of(make_pin()).replace("lock-version = 2", 'lock-version = 3\nnew-thing = "x"')
    with pytest.raises(LockUnusableError, match=r"lock-version 3"):
        read(text)
    # before unknown fields are parsed
    with pytest.raises(LockUnusableError):
        read("lock-version = 7\ndataset = 3\n")


def test_a_lock_without_the_sha256_of_its_manifests_is_refused() -> None:
    with pytest.raises(LockUnusableError, match=r"lock-version 1, .*neuromirror pin"):
        read(text_of(make_pin()).replace("lock-version = 2", "lock-version = 1"))


def test_a_lock_that_is_missing_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path / "no.lock", tmp_path, tmp_path / "no" / "no.lock"):
        with pytest.raises(LockUnusableError, match="neuromirror pin"):
            load_lock(path)


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("files = 3", "files = ", LockUnusableError, "not valid TOML"),
        ("lock-version = 2", "", LockUnusableError, "no lock-version"),
        ("files = 3", "files = 3\nfile = 3", LockUnusableError, "'file' of dataset dandi:0"),
        ("files = 3", "files = -3", LockUnusableError, "in files of dataset dandi:0"),
        ("files = 3", 'files = "3"', LockUnusableError, "in files"),
        ("[[dataset]]", "[[dataset]]\n[[dataset]]", LockUnusableError, "'name' of dataset 1"),
        (f'commit = "{"a" * 40}', f'commit = "{"a" * 39}', LockUnusableError, "in commit"),
        (f'commit = "{"a" * 40}', f'commit = "{"f" * 40}', LockInconsistentError, "swhid"),
        ("org/dandi:000027/", "org/dandi:000028/", LockInconsistentError, "dataset-id"),
        ("claimed = 2", "claimed = 1", LockInconsistentError, "evidence"),
        ('"published"', '"for ever"', LockUnusableError, "in durability"),
        ('"datasets.lock.d/x/a', '"/etc/a', LockUnusableError, "not a path below"),
        ('"datasets.lock.d/x/a', '"x/../../a', LockUnusableError, "not a path below"),
        ('"datasets.lock.d/x/a', '"datasets.lock.d/y/a', LockInconsistentError, "its commit"),
        (f"{'1' * 64}  ", f"{'1' * 40}  ", LockUnusableError, "in sha256"),
        (f"{'1' * 64}  ", f"{'A' * 64}  ", LockUnusableError, "in sha256"),
        (f"{'1' * 64}  ", f"{'1' * 128}  ", LockUnusableError, "in sha256"),
        (f"{'1' * 64}  ", f"{'1' * 64}  ../", LockUnusableError, "in sha256"),
        (f"{'1' * 64}  {'a' * 40}", f"{'1' * 64}  {'f' * 40}", LockInconsistentError, "no sha256"),
        (f'{"a" * 40}.bundle"', f'{"a" * 40}.jsonl.zst"', LockInconsistentError, "no sha256"),
        ('"https://mirror', '"ext::sh -c https://mirror', LockUnusableError, "clone URL"),
        ('"https://mirror', '"file:///mirror', LockUnusableError, "clone URL"),
        ('"https://mirror', '"--upload-pack=x://mirror', LockUnusableError, "clone URL"),
        ('"https://mirror', '"https://me:secret@mirror', LockUnusableError, "clone URL"),
        ('"sub-01"', '"../sub-01"', LockUnusableError, "glob"),
        ('"https://lab.', '"file:///lab.', LockUnusableError, "URL of a vault"),
        ('"https://lab.', '"ext::sh -c https://lab.', LockUnusableError, "URL of a vault"),
        ('"https://lab.', '"https://me:secret@lab.', LockUnusableError, "URL of a vault"),
        ('"https://lab.example.org/v', '"s3://lab/v', LockUnusableError, "URL of a vault"),
        ("/vault", "/../vault", LockUnusableError, "URL of a vault"),
        ("/vault", "/vault?secret", LockUnusableError, "URL of a vault"),
        ("s3://bucket/lab/", "s3://a/../lab?secret#", LockUnusableError, "URL of a vault"),
        ('name = "nas"', 'name = "--nas"', LockUnusableError, "name of a vault"),
        (f'uuid = "{UUID}"', f'uuid = "{UUID}-"', LockUnusableError, "UUID"),
        ('kind = "directory"', 'kind = "external"', LockUnusableError, "kind"),
        ('kind = "directory"', 'kind = "directory", type = "x"', LockUnusableError, "type"),
        ('"dandi:000027"', '"dandi"', LockUnusableError, "in name"),
        ('"dandi:000027"', '"../dandi:000027"', LockUnusableError, "in name"),
    ],
)
def test_an_invalid_lock_names_what_is_wrong(old: str, new: str, kind: type, message: str) -> None:
    text = text_of(make_pin())
    assert old in text
    with pytest.raises(LockUnusableError) as caught:
        read(text.replace(old, new, 1))
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert str(PATH) in str(caught.value)
    assert "me:secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_pin_has_a_limited_number_of_vaults() -> None:
    vaults = [PinnedVault(f"v{n}", UUID, VaultKind.DIRECTORY, "https://x.example/") for n in (1,)]
    assert read(text_of(make_pin(copies=tuple(vaults * 16))))
    with pytest.raises(LockUnusableError):
        read(text_of(make_pin(copies=tuple(vaults * 17))))


def test_a_dataset_cannot_be_pinned_twice() -> None:
    with pytest.raises(LockInconsistentError, match="dandi:000027 twice"):
        read(text_of(make_pin()) + text_of(make_pin(commit="f")).partition("lock-version = 2\n")[2])


# --- globs


@pytest.mark.parametrize("glob", ["", "/", "/a", "a//b", "./a", "a/..", "[z-a]"])
def test_an_invalid_glob_is_refused(glob: str) -> None:
    with pytest.raises(ConfigurationError):
        Globs((glob,))


# --- untrusted lock files

HEAD = "lock-version = 2\n"


@pytest.mark.parametrize(
    "text",
    [
        "lock-version = 0\n",
        "lock-version = -3\n",
        "lock-version = true\n",
        "lock-version = 2.0\n",
        "lock-version = inf\n",
        f"lock-version = {'9' * 5000}\n",
        f"lock-version = 0x{'f' * 5000}\n",
        "lock-version = 2\nlock-version = 2\n",
        f"{HEAD}x = {'[' * 100_000}\n",
        f"{HEAD}x = {'[' * 70}{']' * 70}\n",
        f"{HEAD}x = {'{a=' * 100_000}\n",
        f"{HEAD}{'a.' * 8_000_000}b = 1\n",
        f"{HEAD}{chr(34) * 2}{'.a' * 1_000_000} = 1\n",
        f"{HEAD}x = {{{'a . ' * 1_000_000}b = 1}}\n",
        f"{HEAD}[{'a.' * 1_000_000}b]\n",
        f"{HEAD}# {'x' * (1 << 24)}\n",
        f"{HEAD}dataset = 3\n",
        f"{HEAD}dataset = [3]\n",
        f"{HEAD}dataset = 1979-05-27\n",
        f"{HEAD}dataset = {{name = 3}}\n",
        f"{HEAD}[[dataset]]\nname = nan\n",
        f'{HEAD}"\\ud800" = 1\n',
        f"{HEAD}[[dataset]]\n\x00\n",
        f'{HEAD}"\\u001b[2J" = 1\n',
        f"{HEAD}{chr(34) * 3}" * 100_000,
        f"{HEAD}x = {chr(34)}{chr(92) + chr(34)}" * 100_000,
    ],
    ids=lambda text: text[:40].encode("unicode_escape").decode(),
)
def test_no_text_is_more_than_a_lock_that_cannot_be_used(text: str) -> None:
    with pytest.raises(LockUnusableError) as caught:
        parse_lock(PATH, text.encode("utf-8", "surrogatepass"))
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text_are_no_lock() -> None:
    for content in (b"\xff\xfe", HEAD.encode() + b'[[dataset]]\nname = "\xff"\n', b"\xed\xa0\x80"):
        with pytest.raises(LockUnusableError):
            parse_lock(PATH, content)


def test_dots_in_strings_and_comments_are_no_long_keys() -> None:
    dots = "a." * 100 + "b"
    text = text_of(make_pin(paths=(dots, "c"))) + f"# {dots} = 1\n# 'x\n"
    assert read(text)[0].paths == (dots, "c")


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xa9fea9fe", "[fd00:ec2::254]", "metadata.google.internal"]
)
@pytest.mark.parametrize("scheme", ["http", "ria+https", "ssh"])
def test_a_clone_url_does_not_lead_to_a_metadata_service(scheme: str, host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the clone URL"):
        refuse_clone_url(f"{scheme}://{host}/alias/x")


@pytest.mark.parametrize(
    "url",
    [
        "https://mirror.example.org/x?token=sesame",
        "https://mirror.example.org/x?",
        "https://mirror.example.org/x?a=b",
        "ria+https://mirror.example.org/?token=sesame#id",
        "https://sesame@mirror.example.org/x",
        "https://me:sesame@mirror.example.org/x",
        "ssh://me:sesame@mirror.example.org/x",
        "https://mirror.example.org/x\nsesame",
        "-c core.sshCommand=sesame https://mirror.example.org/x",
    ],
)
def test_a_clone_url_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(LockUnusableError) as caught:
        read(text_of(make_pin(clone=(url,))))
    assert "\n" not in str(caught.value)
    if "-c " not in url and "\n" not in url:
        assert "sesame" not in str(caught.value)


def test_many_pins_are_read_in_one_pass() -> None:
    # 10,000 names compared with each other would be 100 million comparisons
    text = text_of(make_pin())
    table = text.partition("lock-version = 2\n")[2]
    source = "https://api.example.org/dandi:000027/"
    pins = [table.replace('"dandi:000027"', f'"dandi:{number}"') for number in range(300)]
    assert source in text
    assert len(read(HEAD + "".join(pins))) == 300


@pytest.mark.parametrize("key", ["files", "bytes"])
@pytest.mark.parametrize("number", ["0x" + "f" * 100, "9223372036854775808", "1e3", "nan"])
def test_a_count_is_a_number_that_programs_can_keep(key: str, number: str) -> None:
    old = {"files": "files = 3", "bytes": "bytes = 123"}[key]
    with pytest.raises(LockUnusableError):
        read(text_of(make_pin()).replace(old, f"{key} = {number}"))


def test_a_comment_is_found_in_one_pass() -> None:
    before = text_of(make_pin()).replace("files = 3\n", f"files = 3 {'#' * 200_000}\n")
    after = dump_lock(Lock(PATH, (make_pin(files=3, bytes=124),)), before.encode()).decode()
    assert "#" * 200_000 in after
    assert read(after)[0].bytes == 124
