"""``datalad mirror-cite``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datalad.distribution.dataset import datasetmethod
from datalad.interface.base import Interface, build_doc, eval_results
from datalad.interface.results import get_status_dict
from datalad.interface.utils import generic_result_renderer
from datalad.support.constraints import EnsureChoice, EnsureNone, EnsureStr
from datalad.support.param import Parameter
from datalad.ui import ui
from msgspec.structs import replace

from neuromirror.datalad_ext.common import (
    DATASET,
    STORE,
    ResultRecord,
    as_tuple,
    failure_result,
    open_index,
    open_store,
    path_option,
    reference_path,
    require_installed,
    resolve_datalad_path,
    split_version,
)
from neuromirror.model import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.lab.cite import CitedState

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
        "version": Parameter(
            args=("version",),
            metavar="VERSION",
            nargs="*",
            doc="""versions in the store, such as dandi:000027@0.210831.2033. By default, and
            without --lock, the dataset is cited""",
            constraints=EnsureStr() | EnsureNone(),
        ),
        "dataset": DATASET,
        "lock": path_option(
            "--lock",
            doc="""a lock file written by mirror-pin, whose pins are all cited in one file""",
        ),
        "format": Parameter(
            args=("--format",),
            doc="""a paragraph (text), or a machine-readable format""",
            constraints=EnsureChoice(*_FORMATS),
        ),
        "output": path_option(
            *("-o", "--output"),
            doc="""a file, or a folder to write the file to. By default the citation is printed""",
        ),
        "store": STORE,
    }
    _examples_: ClassVar[list[dict[str, str]]] = [
        {
            "text": "Cite the current dataset as BibTeX",
            "code_py": "mirror_cite(format='bibtex')",
            "code_cmd": "datalad mirror-cite --format bibtex",
        },
    ]

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
    from neuromirror.lab import load_lock, state_of_clone, state_of_version, states_of_lock
    from neuromirror.store import NotAStoreError

    found: list[CitedState] = []
    if lock is not None:
        pinned = load_lock(lock)
        try:
            opened = open_store(store)
        except NotAStoreError:
            opened = None
        found += states_of_lock(pinned, opened, stack)
    if names:
        opened = open_store(store)
        index = stack.enter_context(open_index(opened))
        found += [state_of_version(opened, index.resolve(*split_version(one))) for one in names]
    return found or [state_of_clone(folder)]
