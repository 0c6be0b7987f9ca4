"""Random states with documents in folders, subdatasets, and files in the manifest only."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.model import (
    DatasetFacts,
    Document,
    FileRecord,
    InlineComponent,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
)
from support.mint_oracle import DOCUMENTS, FIRST_TIME, QUOTED_PATHS, header, placed_files, record

SUBDATASETS = [b"a", b"a/b", b"a/img.zarr", b"a.b", b"img.zarr", b"b/a-b/c.zarr", *QUOTED_PATHS]
FILES = [
    *(b"a", b"a/b", b"a/b/c.nwb", b"a/img.zarr/0", b"a/img.zarr.nwb", b"a.nwb", b"a/.gitmodules"),
    *(b".gitmodules", b"img.zarr", b"img.zarr/.zgroup", b"img.zarr-x/y", b"meta/big.dat", b"b/x"),
    *(b"meta/my notes.json", b"a/doc.json", b"b", b"meta/deep/er", b"meta/deep/f", b"b/a-b/c"),
]
IN_ZARR = [
    *(b".zgroup", b"zarr.json", b".zattrs", b"0/.zarray", b"0/0/0", b"0/1/0", b"0/.zarray/x"),
    *(b"c/0/0/0", b"c/0/0/1", b"c/zarr.json", b"x/.git/0", b"x/.zmetadata", b"zarr.json/x"),
]


@dataclass(frozen=True)
class DatasetState:
    """A state, by numbers of contents; files whose path clashes with a subdataset are dropped."""

    files: Mapping[bytes, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    documents: dict[bytes, int] = field(default_factory=dict)
    subdatasets: dict[bytes, int] = field(default_factory=dict)
    form: str = "files"
    facts: int = 0
    inline: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def listed_files(self) -> list[SnapshotEntry]:
        """Files and subdatasets, sorted."""
        records = {
            name: record(name, content, urls or ((0,) if content % 4 == 3 else ()))
            for name, (content, urls) in self.files.items()
        }
        found = [subdataset(path, number) for path, number in self.subdatasets.items()]
        taken = _disjoint([one.git_path for one in found])
        found = [one for one in found if one.git_path in taken]
        for one in placed_files(records):
            if _is_disjoint(one.git_path, taken):
                found.append(one)
        return sorted(found, key=lambda one: one.git_path)

    def header(self, number: int) -> SnapshotHeader:
        """The header of the state with this number."""
        files = {file.git_path for file in self.listed_files}
        taken = [path for path in _disjoint(list(self.documents)) if _is_disjoint(path, files)]
        head = header(number)
        attributes = tuple(("subject", f"{one}") for one in range(self.facts))
        return replace(
            head,
            form=self.form,
            inline=tuple(
                InlineComponent(path, f"s3://zarr/{n}/", f"{n:032}-{n}--{9 * n}", n, 9 * n)
                for path, n in sorted(self.inline.items())
            ),
            # unsorted: the writers must sort them
            documents=tuple(
                Document(path, b'{"n": %d}\n' % self.documents[path]) for path in taken[::-1]
            ),
            facts=DatasetFacts(
                title=head.facts.title,
                license=head.facts.license,
                attributes=attributes,
                inputs=("raw_1", "raw_2")[: self.facts],
            ),
        )


def subdataset(path: bytes, number: int) -> SnapshotEntry:
    """A subdataset in the state with this number."""
    state = hashlib.sha256(b"%d" % number).hexdigest()
    known = Subdataset(
        dataset_id=str(uuid.uuid5(uuid.NAMESPACE_URL, path.decode())),
        local_id=f"000001/{path.decode()}",
        commit=state[:40],
        # two commits may have the same state
        state=f"sha256:{hashlib.sha256(b'%d' % (number // 2)).hexdigest()}",
        files=number + 100,
        bytes=number * 1000,
    )
    return SnapshotEntry(path, "", FileRecord(path, None, modified=FIRST_TIME), known)


def _disjoint(paths: list[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for path in sorted(paths):
        if _is_disjoint(path, kept):
            kept.append(path)
    return kept


def _is_disjoint(path: bytes, others: object) -> bool:
    return not any(
        path == other or path.startswith(other + b"/") or other.startswith(path + b"/")
        for other in others  # type: ignore[attr-defined]
    )


def _file_maps(names: list[bytes]) -> st.SearchStrategy[dict[bytes, tuple[int, tuple[int, ...]]]]:
    locations = st.lists(st.integers(0, 3), unique=True, max_size=2).map(tuple)
    return st.dictionaries(
        st.sampled_from(names), st.tuples(st.integers(0, 7), locations), max_size=10
    )


git_states = st.builds(
    DatasetState,
    files=_file_maps(FILES),
    documents=st.dictionaries(st.sampled_from(sorted(DOCUMENTS)), st.integers(0, 2)),
    subdatasets=st.dictionaries(st.sampled_from(SUBDATASETS), st.integers(0, 4), max_size=4),
    facts=st.integers(0, 2),
    inline=st.dictionaries(
        st.sampled_from([b"a.zarr", b"a/z.zarr", b"b\xff.zarr"]), st.integers(1, 3)
    ),
)
manifest_states = st.builds(
    DatasetState,
    files=_file_maps(IN_ZARR),
    documents=st.dictionaries(st.sampled_from([b"a/doc.json", b"dandiset.yaml"]), st.just(1)),
    form=st.just("manifest"),
)
histories = st.lists(git_states, min_size=1, max_size=4) | st.lists(
    manifest_states, min_size=1, max_size=4
)
