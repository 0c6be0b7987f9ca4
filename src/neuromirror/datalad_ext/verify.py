"""``datalad mirror-verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datalad.distribution.dataset import datasetmethod
from datalad.interface.base import Interface, build_doc, eval_results
from datalad.support.constraints import EnsureChoice
from datalad.support.param import Parameter

from neuromirror.datalad_ext.common import (
    DATASET,
    JOBS,
    ResultRecord,
    failure_result,
    outcome_result,
    path_option,
    reference_path,
    require_installed,
    resolve_datalad_path,
)
from neuromirror.model import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.lab import Finding

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
            "--lock", doc="""a lock file written by mirror-pin, whose datasets are verified"""
        ),
        "within": path_option(
            "--within",
            doc="""where the datasets of the lock file were restored. By default its folder""",
        ),
        "what": Parameter(
            args=("--what",),
            doc="""what to verify: local content, the servers' statements on all URLs, or
            downloaded content""",
            constraints=EnsureChoice("local", "remote", "full"),
        ),
        "allow_missing": Parameter(
            args=("--allow-missing",),
            action="store_true",
            doc="""accept missing content""",
        ),
        "jobs": JOBS,
    }
    _examples_: ClassVar[list[dict[str, str]]] = [
        {
            "text": "Check that the archives still have the pinned files",
            "code_py": "mirror_verify(lock='datasets.lock', what='remote')",
            "code_cmd": "datalad mirror-verify --lock datasets.lock --what remote",
        },
    ]

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
        from neuromirror.sources.volumes.tokens import token_from_environment

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
