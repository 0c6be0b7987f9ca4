"""Text from upstream reaches no shell, path, branch, trailer, SQL or git configuration."""

import subprocess
from pathlib import Path

import pytest

from neuromirror.annex import upstream_path
from neuromirror.crawl.plan import describe_error
from neuromirror.model import DatasetFacts, NeuromirrorError
from neuromirror.store import Store
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, files

EVIL = (
    "x\n\nState: sha256:forged\nMirror-Spec: 9\n$(touch pwned) `touch pwned` {{7*7}} %s %(x)s "
    "${HOME}\r\x1b[31m <script>alert(1)</script> '); DROP TABLE datasets; -- \"; .quit\u2028\u202e"
)
REFUSED = [
    *("-x", "--upload-pack=touch pwned", "..", "../up", "a/../b", ".git", "a/.GIT ", ".gitmodules"),
    *("a\nb", "x\n\tupdate = !touch pwned", "a\rb", "a\u2028b", "a\x00b", "", "a//b", "a/"),
    "ext::sh -c touch% pwned",
]
ODD = ["%s%n", 'a"b', "name.lock", "$(touch pwned)", "'; DROP TABLE x"]


def messages(repository: Path) -> list[str]:
    """Return the messages of all commits of a repository."""
    return run_git(repository, "log", "--all", "--format=%B%x00").split("\0")


def trailers(repository: Path, commit: str) -> list[str]:
    """Return the trailers of a commit, as parsed by git."""
    return run_git(repository, "log", "-1", "--format=%(trailers)", commit).strip().splitlines()


def test_a_title_gets_into_no_message_and_forges_no_trailer(harness: ScriptedHarness) -> None:
    facts = DatasetFacts(
        title=EVIL, license=(EVIL,), doi=EVIL, landing_page=EVIL, attributes=(("subject", EVIL),)
    )
    harness.datasets["a"] = ScriptedDataset(
        files("f.txt"), facts=facts, published_versions={"1.0": files("f.txt")}
    )
    harness.datasets["b"] = ScriptedDataset(files("f.txt"))
    assert {one.status for one in harness.sync().values()} == {"ok"}
    repository = harness.repository("box:a")
    assert not [one for one in messages(repository) if "forged" in one or "touch" in one]
    for branch in ("main", "published"):
        found = trailers(repository, branch)
        assert [one.partition(":")[0] for one in found] == [
            *("Mirror-Spec", "Source", "Version", "State", "Files", "Bytes")
        ]
    # the next visit and a rebuilt index read it back
    assert {one.status for one in harness.sync().values()} == {"notneeded"}
    with harness.index() as index:
        assert [one.name for one in index.datasets.select()] == ["box:a", "box:b"]
        assert [hit.name for hit in index.search.all_datasets("alert")] == ["box:a"]
    harness.fsck()


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_git_would_misread_fails_only_that_dataset(
    harness: ScriptedHarness, name: str
) -> None:
    harness.datasets.update(
        {name: ScriptedDataset(files("f.txt")), "good": ScriptedDataset(files("f.txt"))}
    )
    results = harness.sync()
    assert results[f"box:{name}"].status == "error"
    assert repr(name)[1:-1] in results[f"box:{name}"].message
    assert "\n" not in results[f"box:{name}"].message
    assert results["box:good"].status == "ok"
    assert sorted(alias for alias, _ in harness.store.repositories.aliases()) == [
        "box",
        "box--good",
        "neuromirror",
    ]
    harness.fsck()


@pytest.mark.parametrize("name", ["a--b", "a:b", "a-/b", "a/-b--c"])
def test_a_name_with_the_alias_of_another_fails_only_that_dataset(
    harness: ScriptedHarness, name: str
) -> None:
    harness.datasets.update(
        {name: ScriptedDataset(files("f.txt")), "a/b": ScriptedDataset(files("f.txt", "g.txt"))}
    )
    results = harness.sync()
    assert {one: result.status for one, result in results.items()} == {
        f"box:{name}": "error",
        "box:a/b": "ok",
    }
    assert f"box:{name} is not a valid name" in results[f"box:{name}"].message
    assert "box--a--b" in [alias for alias, _ in harness.store.repositories.aliases()]
    harness.fsck()


def test_odd_names_are_folders_of_the_superdataset_and_nothing_more(
    harness: ScriptedHarness, tmp_path: Path
) -> None:
    harness.datasets.update({name: ScriptedDataset(files("f.txt", name)) for name in ODD})
    assert {one.status for one in harness.sync().values()} == {"ok"}
    harness.fsck()
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(harness.repository("box")), "clone")
    paths = run_git(clone, "config", "-f", ".gitmodules", "-z", "--get-regexp", r"\.path$")
    assert sorted(one.partition("\n")[2] for one in paths.split("\0") if one) == sorted(ODD)
    urls = run_git(clone, "config", "-f", ".gitmodules", "-z", "--get-regexp", r"\.url$")
    assert all(one.partition("\n")[2].startswith("../box--") for one in urls.split("\0") if one)
    others = run_git(clone, "config", "-f", ".gitmodules", "--name-only", "--list").splitlines()
    assert {other.rpartition(".")[2] for other in others} == {"path", "url", "datalad-id"}
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "label", ["a\nState: sha256:0", "1.0\x85", "v\u20281", "..", "a..b", "@{u}", "x.lock"]
)
def test_a_version_that_git_cannot_name_is_reported_and_not_minted(
    harness: ScriptedHarness, label: str
) -> None:
    harness.datasets["a"] = ScriptedDataset(
        files("f.txt"), published_versions={label: files("f.txt")}
    )
    result = harness.sync()["box:a"]
    assert (result.status, result.visit) == ("error", "failed")
    assert repr(label)[1:-1] in result.message
    assert not [name for name in harness.refs() if name.startswith("box--a refs/tags")]
    harness.fsck(killed=True)


@pytest.mark.parametrize("label", ["-rf", "--all", "HEAD", "main", "%s", "$(pwned)"])
def test_a_version_may_have_the_name_of_a_git_option(harness: ScriptedHarness, label: str) -> None:
    harness.datasets["a"] = ScriptedDataset(
        files("f.txt"), published_versions={label: files("f.txt")}
    )
    assert harness.sync()["box:a"].status == "ok"
    assert f"box--a refs/tags/{label}" in harness.refs()
    assert harness.sync()["box:a"].status == "notneeded"
    with harness.index() as index:
        assert index.versions.resolve("box:a", label).label == label
    harness.fsck()


def test_files_that_configure_git_and_datalad_are_mirrored_and_do_nothing(
    harness: ScriptedHarness, tmp_path: Path
) -> None:
    names = [
        *(".gitmodules", "sub/.gitmodules", ".gitattributes", "sub/.gitattributes", ".gitignore"),
        *(".datalad/config", ".git/config", ".git/hooks/post-checkout", "GIT~1/config", ".mailmap"),
        *(".lfsconfig", "-rf", "--help", ":(glob)**", "sub/ext::sh -c id"),
    ]
    harness.datasets["a"] = ScriptedDataset(files("plain.txt", *names), exceptions=["odd"])
    assert harness.sync()["box:a"].status == "ok"
    harness.fsck()
    with harness.index() as index:
        version = index.versions.resolve("box:a", "latest")
        listed = [one.path.encode() for one in index.files.of(version)]
        exceptions = index.versions.exceptions(version)
    assert sorted(map(upstream_path, listed)) == sorted(map(str.encode, ["plain.txt", *names]))
    assert len(exceptions) == 1
    done = subprocess.run(
        ["git", "clone", "-q", str(harness.repository("box:a")), "clone"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    clone = tmp_path / "clone"
    assert not (clone / ".gitmodules").exists()
    assert run_git(clone, "submodule", "status") == ""
    assert not (clone / ".git/hooks/post-checkout").exists()
    assert "sub-dataset" not in (clone / ".datalad/config").read_text()
    assert (clone / ".gitattributes").read_text().startswith("*")
    assert run_git(clone, "status", "--porcelain") == ""


def test_the_message_of_a_failure_has_a_bounded_length(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    for error in (NeuromirrorError("x" * 10**6 + "; try again"), ValueError("y" * 10**6)):
        assert len(describe_error(error, store)) < 10_000
    assert describe_error(NeuromirrorError("x" * 10**6 + "; try again"), store).endswith(
        "; try again"
    )
