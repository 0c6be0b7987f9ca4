"""Finding datasets and files, and comparing versions: ``search``, ``find`` and ``diff``."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from neuromirror.lab.addresses import queries_of_file
from neuromirror.model import USUAL_PART_SIZES
from neuromirror_demo import DemoArchive
from support.command_shell import Shell


def content_of(demo: DemoArchive, dandiset: str, path: str) -> bytes:
    blob = demo.dandisets[dandiset].draft.assets[path].blob
    assert blob is not None
    return blob.data


def test_a_file_is_found_by_its_bytes_whatever_it_is_called(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    # upstream has no sha256 of the second file
    for path in shared_demo.paths("000004"):
        mine = tmp_path / "mine.bin"
        mine.write_bytes(content_of(shared_demo, "000004", path))
        records = synced.records("find", str(mine))
        assert (records[0]["dataset"], records[0]["path"]) == ("demo:000004", path)
        assert records == synced.records("find", records[0]["digest"])


def test_a_name_that_is_a_checksum_is_one_unless_it_is_written_as_a_path(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = next(one for one in synced.records("files", "demo:000002") if one["type"] == "file")
    digest = record["digests"]["sha256"]
    Path(digest).write_bytes(b"in no dataset")
    assert synced.records("find", digest)[0]["path"] == record["path"]
    synced.run("find", f"./{digest}", code=1)


def test_an_argument_that_is_neither_file_nor_checksum_is_reported(
    synced: Shell, tmp_path: Path
) -> None:
    for name in ("nothing.nwb", str(tmp_path)):
        ran = synced.run("find", name, code=2)
        assert "not a checksum" in ran.error_line
        assert name in ran.error_line


def test_an_annexed_file_without_content_is_found_by_its_key(synced: Shell, tmp_path: Path) -> None:
    record = next(one for one in synced.records("files", "demo:000002") if one["type"] == "file")
    link = tmp_path / "a.nwb"
    link.symlink_to(f".git/annex/objects/aa/bb/{record['key']}/{record['key']}")
    pointer = tmp_path / "b.nwb"
    pointer.write_text(f"/annex/objects/{record['key']}\n")
    for name in (link, pointer):
        assert queries_of_file(name) == [record["key"]]
        assert synced.records("find", str(name))[0]["path"] == record["path"]
    lost = tmp_path / "c.nwb"
    lost.symlink_to("nowhere")
    assert "broken link" in synced.run("find", str(lost), code=1).error_line


def test_large_files_have_an_etag_for_each_usual_size_of_parts(tmp_path: Path) -> None:
    mine = tmp_path / "large"
    content = os.urandom(1 << 20) * 17
    mine.write_bytes(content)
    queries = queries_of_file(mine)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" in queries
    assert f"md5:{hashlib.md5(content).hexdigest()}" in queries
    for size in USUAL_PART_SIZES:
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        joined = b"".join(hashlib.md5(part).digest() for part in parts)
        assert f"etag:{hashlib.md5(joined).hexdigest()}-{len(parts)}" in queries
    assert len(queries) == len(set(queries)) == 2 + 6  # no part is filled beyond 17 MiB


def test_sums_are_what_sha256sum_checks(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    for path in shared_demo.paths("000002"):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content_of(shared_demo, "000002", path))
    ran = synced.run("files", "demo:000002@draft", "--format", "sha256sum")
    assert ran.err == ""
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "-"],
        input=ran.out,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked
    assert checked.stdout.count(": OK") == len(shared_demo.paths("000002"))


def test_odd_names_are_those_of_the_clone(shell: Shell, demo: DemoArchive, tmp_path: Path) -> None:
    demo.add_file("000008", "back\\slash\nand späce.txt", b"odd")
    shell.run("sync", "demo:000008")
    ran = shell.run("files", "demo:000008@draft", "--format", "sha256sum")
    (line,) = [one for one in ran.lines if "sp" in one and "back" in one]
    digest, _, name = line.partition("  ")
    assert digest == hashlib.sha256(b"odd").hexdigest()
    source = (shell.store / "alias" / "demo--000008").resolve()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "-b", "draft", str(source), str(clone)], check=True)
    assert (clone / name).is_symlink()
    # the line has no leading backslash, so that sha256sum reads the name as it is
    (tmp_path / name).write_bytes(b"odd")
    done = subprocess.run(
        ["sha256sum", name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{line}\n"


def test_files_without_sha256_are_named_and_the_list_is_incomplete(synced: Shell) -> None:
    ran = synced.run("files", "demo:000004@draft", "--format", "sha256sum", code=1)
    assert len(ran.lines) == 2
    assert "sub-401/sub-401_ses-02_ecephys.nwb" in ran.error_line
    assert "etag" in ran.error_line
    ran = synced.run("files", "demo:000005@draft", "--format", "sha256sum", code=1)
    assert len(ran.err.splitlines()) == 11
    assert " 26 more files " in ran.err
    ran = synced.run("--json", "files", "demo:000004", "--format", "sha256sum", code=2)
    assert "--json" in ran.err


OLD, NEW = "demo:000002@0.240301.1026", "demo:000002@0.240301.1055"


def test_records_are_of_changes_and_the_last_of_all(synced: Shell) -> None:
    *changes, last = synced.records("diff", OLD, NEW)
    assert {change["type"] for change in changes} == {"change"}
    assert changes[0]["old_digest"] != changes[0]["new_digest"]
    assert (last["type"], last["old"], last["new"]) == ("summary", OLD, NEW)
    assert last["files"] == {"changed": 1, "removed": 1, "added": 1, "document": 2}
    assert last["bytes"]["removed"] == changes[1]["old_size"]


def test_changes_of_metadata_are_summarised_and_name_their_fields(synced: Shell) -> None:
    published, draft = NEW, "demo:000002@draft"
    lines = synced.run("diff", draft, published).lines
    (summary,) = (line for line in lines if line.startswith("metadata"))
    assert summary.split(None, 2)[2] == "5 files (retention; list: --metadata)"
    (document,) = (line for line in synced.run("diff", OLD, NEW).lines if ".jsonl" in line)
    changed = "(changed: blobDateModified, identifier of sub-201/sub-201_ses-02_ecephys.nwb)"
    assert document.endswith(changed)
    listed = synced.run("diff", "--metadata", draft, published).lines
    assert [line for line in lines if line != summary] == [
        line for line in listed if not line.startswith("metadata")
    ]
    assert sum(line.endswith(" (retention)") for line in listed) == 5
    changes = synced.records("diff", draft, published)
    assert sum(change.get("kind") == "metadata" for change in changes) == 5


def test_the_exit_code_reports_differences_only_with_the_option(synced: Shell) -> None:
    for code in (0, 1):
        more = ["--exit-code"] * code
        synced.run("diff", *more, OLD, NEW, code=code)
        assert "no difference" in synced.run("diff", *more, OLD, OLD).out


def test_a_clone_is_compared_without_a_store_of_its_own(synced: Shell, tmp_path: Path) -> None:
    folders = []
    for version in (OLD, NEW):
        folder = tmp_path / version.partition("@")[2]
        source = (synced.store / "alias" / "demo--000002").resolve()
        subprocess.run(["git", "clone", "-q", str(source), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "-q", folder.name], check=True)
        folders.append(str(folder))
    assert "no difference" in synced.run("diff", "--exit-code", folders[0], OLD).out
    nowhere = synced.with_changes(store=tmp_path / "nowhere")
    ran = nowhere.run("diff", *folders)
    assert ran.lines[:-1] == synced.run("diff", OLD, NEW).lines[:-1]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("place cells", "demo:000001"),
        ("CA1 mouse track", "demo:000001"),
        ('"sharp-wave ripples"', "demo:000002"),
        ("sleeping", "demo:000002"),
        ("spike sorting benchmark", "demo:000003"),
        ("locomotion", "demo:000004"),
        ("light sheet microscopy", "demo:000005"),
        ("hemisphere zarr", "demo:000005"),
        ("Doe locomotion", "demo:000004"),
    ],
)
def test_a_search_of_the_demo_has_the_expected_first_hit(
    synced: Shell, text: str, first: str
) -> None:
    found = synced.records("search", text)
    assert found[0]["dataset"]["name"] == first
    assert {"action", "status", "matched"} <= found[0].keys()


def test_matches_in_the_metadata_are_reported_with_their_positions(synced: Shell) -> None:
    [found] = synced.records("search", "Roe", "hippocampus", "linear")
    matched = {one["field"]: one for one in found["matched"]}
    for name, text in (("keywords", "hippocampus"), ("people", "Roe"), ("title", "linear")):
        value, spans = matched[name]["value"], matched[name]["spans"]
        assert text in [value[start:end] for start, end in spans]


def test_results_are_printed_in_lines(synced: Shell) -> None:
    done = synced.run("search", "hippocampus")
    name, counts, *_ = done.lines
    assert name.startswith("demo:00000")
    assert counts.startswith("    ")
    assert "\\n" not in "".join(done.lines)


def test_facets_select_and_are_counted(synced: Shell) -> None:
    rows = synced.records("search", "--facets")
    counts = {(row["facet"], row["value"]): row["count"] for row in rows}
    mice = synced.records("search", "--species", "mouse")
    assert len(mice) == counts["species", "Mus musculus"] > 0
    published = synced.records("search", "--status", "published", "--sort", "title")
    assert len(published) == counts["status", "published"] > 0
    titles = [row["dataset"]["title"] for row in published]
    assert titles == sorted(titles)
    both = synced.records("search", "--status", "published", "--status", "draft", "--limit", "3")
    assert len(both) == 3


def test_nothing_found_is_an_exit_code_with_counts(synced: Shell) -> None:
    [report] = synced.records("search", "qqqq", "locomotoin", code=1)
    assert report["status"] == "impossible"
    assert report["counts"] == {"qqqq": 0, "locomotoin": 0}
    synced.run("search", "--volume", code=1)
    synced.run("search", '"***', code=2)
    synced.run("search", "--archive", "nowhere", code=2)


def test_a_list_and_a_watch_use_the_same_search(synced: Shell) -> None:
    listed = synced.records("list", "--search", "hippocampal")
    assert {row["dataset"] for row in listed} == {
        row["dataset"]["name"] for row in synced.records("search", "hippocampal")
    }
