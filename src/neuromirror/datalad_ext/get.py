"""``datalad mirror-get``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from datalad.distribution.dataset import datasetmethod
from datalad.interface.base import Interface, build_doc, eval_results
from datalad.interface.common_opts import recursion_flag
from datalad.support.constraints import EnsureNone, EnsureStr
from datalad.support.param import Parameter

from neuromirror.datalad_ext.common import (
    DATASET,
    JOBS,
    ResultRecord,
    as_tuple,
    failure_result,
    outcome_result,
    require_installed,
    resolve_datalad_path,
)
from neuromirror.model import NeuromirrorError


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
        "path": Parameter(
            args=("path",),
            metavar="PATH",
            nargs="*",
            doc="""files and folders to get. By default the whole dataset""",
            constraints=EnsureStr() | EnsureNone(),
        ),
        "recursive": recursion_flag,
        "jobs": JOBS,
        "trust_config": Parameter(
            args=("--trust-config",),
            action="store_true",
            doc="""accept the repository's own git configuration and hooks, which may run
            programs""",
        ),
    }
    _examples_: ClassVar[list[dict[str, str]]] = [
        {
            "text": "Get a folder and all subdatasets in it",
            "code_py": "mirror_get('sub-01', recursive=True)",
            "code_cmd": "datalad mirror-get -r sub-01",
        },
    ]

    @staticmethod
    @datasetmethod(name="mirror_get")  # type: ignore[untyped-decorator]
    @eval_results  # type: ignore[untyped-decorator]
    def __call__(
        path: Any = None,
        *,
        dataset: Any = None,
        recursive: bool = False,
        jobs: int | None = None,
        trust_config: bool = False,
    ) -> Iterator[ResultRecord]:
        """Yield a result for each file."""
        from neuromirror.transfer import JOBS as AT_ONCE
        from neuromirror.transfer import get

        refds = require_installed(dataset, "get content")
        top = Path(refds.path)
        paths = [resolve_datalad_path(one, dataset) for one in as_tuple(path)] or None
        try:
            found = get(
                top, paths, recursive=recursive, jobs=jobs or AT_ONCE, trust_config=trust_config
            )
            for outcome in found:
                yield outcome_result(outcome, "mirror_get", top / outcome.path, "file", refds.path)
        except NeuromirrorError as error:
            yield failure_result("mirror_get", top, "dataset", refds.path, error)
