"""The commands ``mirror-get``, ``mirror-pin``, ``mirror-verify`` and ``mirror-cite`` of DataLad."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datalad.distribution.dataset import EnsureDataset, datasetmethod, require_dataset, resolve_path
from datalad.interface.base import Interface, build_doc, eval_results
from datalad.interface.common_opts import recursion_flag
from datalad.interface.results import get_status_dict
from datalad.interface.utils import generic_result_renderer
from datalad.support.constraints import EnsureChoice, EnsureInt, EnsureNone, EnsureStr
from datalad.support.param import Parameter
from datalad.ui import ui
from msgspec.structs import replace

from neuromirror.model import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.lab import Finding, Outcome
    from neuromirror.lab.cite import CitedState

LOCK = "datasets.lock"

ResultRecord = dict[str, Any]
"""A DataLad result: action, status, path, type, refds, message, and further fields."""

DATASET = Parameter(
    args=("-d", "--dataset"),
    doc="the dataset. By default the one that contains the current directory",
    constraints=EnsureDataset() | EnsureNone(),
)


def path_option(*names: str, doc: str) -> Parameter:
    """Return an option that takes a path; by default None."""
    return Parameter(args=names, metavar="PATH", doc=doc, constraints=EnsureStr() | EnsureNone())


def flag(name: str, doc: str) -> Parameter:
    """Return an option without a value."""
    return Parameter(args=(name,), action="store_true", doc=doc)


def repeatable(name: str, metavar: str, doc: str) -> Parameter:
    """Return an option that can be given several times."""
    return Parameter(args=(name,), metavar=metavar, action="append", doc=doc)


def many(name: str, metavar: str, doc: str) -> Parameter:
    """Return an argument with any number of values."""
    constraints = EnsureStr() | EnsureNone()
    return Parameter(args=(name,), metavar=metavar, nargs="*", doc=doc, constraints=constraints)


def _example(text: str, python: str, command: str) -> list[dict[str, str]]:
    return [{"text": text, "code_py": python, "code_cmd": command}]


STORE = path_option(
    "--store",
    doc="the mirror store, created by 'neuromirror sync'. By default the environment "
    "variable NEUROMIRROR_STORE, or 'store' in the current directory",
)
JOBS = Parameter(
    args=("-J", "--jobs"),
    metavar="NJOBS",
    doc="number of concurrent files. By default 32 for mirror-get; for mirror-verify one "
    "per processor, or 8 with --what remote or full",
    constraints=EnsureInt() | EnsureNone(),
)


def outcome_result(
    outcome: Outcome, action: str, path: Path, kind: str, refds: str | None
) -> ResultRecord:
    """Convert an outcome of a command to a result record of DataLad.

    Parameters
    ----------
    outcome
        The outcome.
    action
        The name of the DataLad command.
    path
        The path that was processed.
    kind
        The type of the path, ``file`` or ``dataset``.
    refds
        The path of the dataset argument; None without one.
    """
    more = {
        "mirror_dataset": outcome.dataset,
        "mirror_version": outcome.version,
        "key": outcome.key,
        "bytesize": outcome.size,
        "evidence": None if outcome.evidence is None else outcome.evidence.value,
        "checked": outcome.checked,
        "url": outcome.url,
        "latest": outcome.latest,
    }
    known = {name: value for name, value in more.items() if value is not None}
    message = outcome.message or None
    result = {"action": action, "status": outcome.status, "type": kind, "message": message}
    status_dict: ResultRecord = get_status_dict(path=str(path), refds=refds, **result, **known)
    return status_dict


def failure_result(
    action: str, path: Path, kind: str, refds: str | None, error: Exception
) -> ResultRecord:
    """Return the DataLad result record for a command that failed as a whole with ``error``.

    The other parameters are those of :func:`outcome_result`.
    """
    status_dict: ResultRecord = get_status_dict(
        action=action, status="error", path=str(path), type=kind, message=str(error), refds=refds
    )
    return status_dict


def require_installed(dataset: Any, purpose: str) -> Any:
    """Return the installed dataset; raises DataLad's NoDatasetFound, and RepositoryRefusedError.

    A refused repository has no result: its settings may name programs that DataLad runs for one.
    """
    from neuromirror.transfer.repository_check import check_repository, is_repository

    found = require_dataset(dataset, check_installed=False, purpose=purpose)
    if is_repository(Path(found.path)):
        check_repository(Path(found.path))
    return require_dataset(found, check_installed=True, purpose=purpose)


def resolve_datalad_path(path: str | os.PathLike[str], dataset: Any) -> Path:
    """Resolve a path as DataLad does: relative to a Dataset object, or the current directory."""
    return Path(resolve_path(path, dataset))


def lock_path(lock: str | None, dataset: Any) -> Path:
    """Return the lock file: the given one, or that of the dataset or current directory."""
    if lock is not None:
        return resolve_datalad_path(lock, dataset)
    return Path(require_installed(dataset, "find its lock").path if dataset else Path.cwd()) / LOCK


def reference_path(dataset: Any) -> str | None:
    """Return the path of the dataset argument, None without one."""
    return None if dataset is None else str(require_installed(dataset, "report on it").path)


def as_tuple(values: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the values of a parameter that may be single, multiple or missing."""
    if values is None:
        return ()
    return (values,) if isinstance(values, str) else tuple(map(str, values))


def split_version(name: str) -> tuple[str, str]:
    """Split ``<dataset>@<label>`` into dataset and label; the default label is ``latest``."""
    dataset, _, label = name.partition("@")
    return dataset, label or "latest"


@build_doc
class MirrorGet(Interface):  # type: ignore[misc]
    """Get the content of many files over parallel connections

    A faster 'datalad get' for many small files: files with a web URL are downloaded 32 at a time,
    hashed while they arrive, stored where git-annex stores them, and recorded in git-annex. If a
    URL returns wrong bytes or fails, the next one is tried. Files without a web URL, and those that
    the dataset's settings leave to git-annex, are got by git-annex.

    Works in any dataset, not only in those that neuromirror mirrored.
    """

    _params_: ClassVar[dict[str, Any]] = {
        "dataset": DATASET,
        "path": many("path", "PATH", "files and folders to get. By default the whole dataset"),
        "recursive": recursion_flag,
        "jobs": JOBS,
    }
    _examples_: ClassVar[list[dict[str, str]]] = _example(
        "Get a folder and all subdatasets in it",
        "mirror_get('sub-01', recursive=True)",
        "datalad mirror-get -r sub-01",
    )

    @staticmethod
    @datasetmethod(name="mirror_get")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        path: Any = None, *, dataset: Any = None, recursive: bool = False, jobs: int | None = None
    ) -> Iterator[ResultRecord]:
        """Yield a result for each file."""
        from neuromirror.transfer import JOBS as AT_ONCE
        from neuromirror.transfer import get

        refds = require_installed(dataset, "get content")
        top = Path(refds.path)
        paths = [resolve_datalad_path(one, dataset) for one in as_tuple(path)] or None
        try:
            found = get(top, paths, recursive=recursive, jobs=jobs or AT_ONCE)
            for outcome in found:
                yield outcome_result(outcome, "mirror_get", top / outcome.path, "file", refds.path)
        except NeuromirrorError as error:
            yield failure_result("mirror_get", top, "dataset", refds.path, error)


@build_doc
class MirrorPin(Interface):  # type: ignore[misc]
    """Write exact versions of mirrored datasets to a lock file

    The lock file, 'datasets.lock', lists the commits of the datasets that a project uses. The
    folder 'datasets.lock.d' beside it holds the manifests to restore them from, and git bundles on
    request. Save both in the project's repository:
    'datalad save -m "pin" datasets.lock datasets.lock.d'. Later, 'neuromirror restore' gets exactly
    these bytes again, even if the mirror no longer exists.

    If a dataset is already pinned, its pin is replaced.
    """

    _params_: ClassVar[dict[str, Any]] = {
        "version": many(
            "version",
            "VERSION",
            """versions to pin, such as dandi:000027@0.210831.2033. The default label is the
            latest version. The folder of a clone pins the version that is checked out""",
        ),
        "dataset": DATASET,
        "lock": path_option(
            "--lock",
            doc="the lock file, created if it does not exist. By default datasets.lock in the "
            "dataset given by --dataset, or in the current directory",
        ),
        "glob": repeatable(
            "--glob",
            "GLOB",
            """pin only matching paths: sub-01, sub-*/anat, **/*.nwb. Can be given several
            times""",
        ),
        "bundle": flag(
            "--bundle",
            """write git bundles beside the lock file, from which the datasets can be cloned""",
        ),
        "clone": repeatable(
            "--clone",
            "URL",
            """where the datasets can be cloned from: a store (ria+https://...), or a URL with
            {alias} or {id} in it. Can be given several times""",
        ),
        "remove": repeatable(
            "--remove",
            "NAME",
            """remove the pin of a dataset (dandi:000027). Can be given several times""",
        ),
        "store": STORE,
    }
    _examples_: ClassVar[list[dict[str, str]]] = _example(
        "Pin two versions in the current dataset, with bundles",
        "mirror_pin(['dandi:000027', 'aind:ecephys_1'], dataset='.', bundle=True)",
        "datalad mirror-pin -d . --bundle dandi:000027 aind:ecephys_1",
    )

    @staticmethod
    @datasetmethod(name="mirror_pin")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        version: Any = None,
        *,
        dataset: Any = None,
        lock: str | None = None,
        glob: Any = None,
        bundle: bool = False,
        clone: Any = None,
        remove: Any = None,
        store: str | None = None,
    ) -> Iterator[ResultRecord]:
        """Yield a result for each version."""
        from neuromirror.index import open_index
        from neuromirror.lab import PinRequest, pin
        from neuromirror.lab.pin import pin_request_for_clone

        path, refds = lock_path(lock, dataset), reference_path(dataset)
        globs, clones = as_tuple(glob) or None, as_tuple(clone) or None
        try:
            with open_index(store) as (opened, index):
                requests = []
                for one in as_tuple(version):
                    folder = resolve_datalad_path(one, dataset)
                    if folder.is_dir():
                        request = pin_request_for_clone(folder, index)
                    else:
                        request = PinRequest(*split_version(one))
                    requests.append(
                        replace(request, paths=globs, clones=clones, bundle=bundle or None)
                    )
                for outcome in pin(path, requests, opened, index, remove=as_tuple(remove)):
                    yield outcome_result(outcome, "mirror_pin", path, "file", refds)
        except NeuromirrorError as error:
            yield failure_result("mirror_pin", path, "file", refds, error)


_FILE_KINDS = ("file", "document", "url", "manifest", "lock")


@build_doc
class MirrorVerify(Interface):  # type: ignore[misc]
    """Compare content with a dataset's commit, or with a lock file

    By default, local files are hashed with the algorithms that their keys name, and commit, trees
    and the state digest of mirrored datasets are recomputed. With '--what remote' the servers of
    all URLs are asked for size and checksum, and nothing is downloaded. With '--what full' files
    are downloaded, hashed and discarded.

    Each result has a field 'checked': 'checked' if the bytes were hashed here, 'claimed' if a
    server states the checksum.
    """

    _params_: ClassVar[dict[str, Any]] = {
        "dataset": DATASET,
        "lock": path_option(
            "--lock", doc="a lock file written by mirror-pin, whose datasets are verified"
        ),
        "within": path_option(
            "--within",
            doc="where the datasets of the lock file were restored. By default its folder",
        ),
        "what": Parameter(
            args=("--what",),
            doc="what to verify: local content, the servers' statements on all URLs, or "
            "downloaded content",
            constraints=EnsureChoice("local", "remote", "full"),
        ),
        "allow_missing": flag("--allow-missing", "accept missing content"),
        "jobs": JOBS,
    }
    _examples_: ClassVar[list[dict[str, str]]] = _example(
        "Check that the archives still have the pinned files",
        "mirror_verify(lock='datasets.lock', what='remote')",
        "datalad mirror-verify --lock datasets.lock --what remote",
    )

    @staticmethod
    @datasetmethod(name="mirror_verify")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        *,
        dataset: Any = None,
        lock: str | None = None,
        within: str | None = None,
        what: Any = "local",
        allow_missing: bool = False,
        jobs: int | None = None,
    ) -> Iterator[ResultRecord]:
        """Yield a result for each finding."""
        from neuromirror.lab import load_lock, verify
        from neuromirror.sources.volumes.urls import token_from_environment

        action = "mirror_verify"
        folders: dict[str | None, Path] = {}
        if lock is None:
            found = require_installed(dataset, "verify it")
            target, refds = Path(found.path), found.path
        else:
            target, refds = resolve_datalad_path(lock, dataset), reference_path(dataset)
        inside = None if within is None else resolve_datalad_path(within, dataset)
        try:
            if lock is not None:
                above = inside or target.parent
                folders = {
                    pin.name: above / pin.dataset.alias for pin in load_lock(target).datasets
                }
            for finding in verify(
                target,
                what,
                within=inside,
                allow_missing=allow_missing,
                jobs=jobs,
                token=token_from_environment,
            ):
                folder = folders.get(finding.dataset, target)
                yield _finding_result(finding, folder, refds)
        except NeuromirrorError as error:
            yield failure_result(
                action, target, "dataset" if lock is None else "file", refds, error
            )


def _finding_result(finding: Finding, folder: Path, refds: str | None) -> ResultRecord:
    kind = "file" if finding.kind in _FILE_KINDS and finding.path != "." else "dataset"
    result = outcome_result(finding, "mirror_verify", folder / finding.path, kind, refds)
    result["kind"] = finding.kind
    if finding.health is not None:
        result["health"] = finding.health.value
    return result


# as in lab.cite.FORMATS, which takes time to import
_FORMATS = ("text", "bibtex", "csl", "cff", "datacite", "ro-crate", "croissant")


@build_doc
class MirrorCite(Interface):  # type: ignore[misc]
    """Cite versions: authors, title, DOI, and the exact state

    Cites a dataset that neuromirror mirrored, all pins of a lock file, or versions in a store.
    Authors, license and dates come from the archive's own documents in the version's git tree;
    fields that they do not specify are left out, and no archive is contacted.
    """

    result_renderer = "tailored"
    _params_: ClassVar[dict[str, Any]] = {
        "version": many(
            "version",
            "VERSION",
            """versions in the store, such as dandi:000027@0.210831.2033. By default, and
            without --lock, the dataset is cited""",
        ),
        "dataset": DATASET,
        "lock": path_option(
            "--lock", doc="a lock file written by mirror-pin, whose pins are all cited in one file"
        ),
        "format": Parameter(
            args=("--format",),
            doc="a paragraph (text), or a machine-readable format",
            constraints=EnsureChoice(*_FORMATS),
        ),
        "output": path_option(
            *("-o", "--output"),
            doc="a file, or a folder to write the file to. By default the citation is printed",
        ),
        "store": STORE,
    }
    _examples_: ClassVar[list[dict[str, str]]] = _example(
        "Cite the current dataset as BibTeX",
        "mirror_cite(format='bibtex')",
        "datalad mirror-cite --format bibtex",
    )

    @staticmethod
    @datasetmethod(name="mirror_cite")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        version: Any = None,
        *,
        dataset: Any = None,
        lock: str | None = None,
        format: Any = "text",
        output: str | None = None,
        store: str | None = None,
    ) -> Iterator[ResultRecord]:
        """Yield one result; without ``output`` its ``citation`` is the text."""
        from neuromirror.lab import CitationCollection, cite, read_work, write_citation

        refds = reference_path(dataset)
        names = as_tuple(version)
        file = None if lock is None else resolve_datalad_path(lock, dataset)
        if file is None and not names:
            refds = str(require_installed(dataset, "cite it").path)
        cited = file or Path(refds or Path.cwd())
        result = {"action": "mirror_cite", "status": "ok", "refds": refds, "format": format}
        try:
            with ExitStack() as stack:
                works = tuple(map(read_work, _states(names, file, cited, store, stack)))
                collection = CitationCollection(works)
                if file is not None:
                    collection = replace(collection, title=f"Datasets pinned in {file.name}")
                result["swhids"] = [work.swhid for work in works]
                if output is None:
                    result["citation"] = "".join(cite(collection, format))
                else:
                    cited = write_citation(
                        collection, format, resolve_datalad_path(output, dataset)
                    )
        except NeuromirrorError as error:
            yield failure_result("mirror_cite", cited, _kind(cited), refds, error)
            return
        yield get_status_dict(path=str(cited), type=_kind(cited), **result)

    @staticmethod
    def custom_result_renderer(res: ResultRecord, **_: Any) -> None:
        """Print the citation, or any other result as DataLad does."""
        if "citation" in res:
            ui.message(res["citation"].removesuffix("\n"))
        else:
            generic_result_renderer(res)


def _kind(path: Path) -> str:
    return "file" if path.is_file() else "dataset"


def _states(
    names: tuple[str, ...], lock: Path | None, folder: Path, store: str | None, stack: ExitStack
) -> list[CitedState]:
    """Return the states to cite: versions in the store, the pins of a lock file, or the dataset."""
    from neuromirror.index import open_index
    from neuromirror.lab import load_lock, state_of_clone, state_of_version, states_of_lock
    from neuromirror.store import NotAStoreError, open_store

    found: list[CitedState] = []
    if lock is not None:
        pinned = load_lock(lock)
        try:
            opened = open_store(store)
        except NotAStoreError:
            opened = None
        found += states_of_lock(pinned, opened, stack)
    if names:
        opened, index = stack.enter_context(open_index(store))
        found += [
            state_of_version(opened, index.versions.resolve(*split_version(name))) for name in names
        ]
    return found or [state_of_clone(folder)]
