"""git's own formats and programs: objects, trees, packs, refs, submodules and bundles.

The package does not depend on git-annex, mirrors or archives.
"""

from neuromirror.git.bundles import create_bundle, create_bundle_of_commits, read_bundle_refs
from neuromirror.git.commit_tree import CommitTree
from neuromirror.git.commits import Commit, parse_commit
from neuromirror.git.errors import (
    GitError,
    InvalidRefNameError,
    ObjectMissingError,
    ObjectsRefusedError,
    with_redirect_advice,
)
from neuromirror.git.fsck import FSCK_OPTIONS, check_objects, check_pack
from neuromirror.git.index_files import write_index_file
from neuromirror.git.objects import BatchObjectReader, ObjectReader, parse_tree
from neuromirror.git.pack_indexes import KnownObjects
from neuromirror.git.packs import BLOB, COMMIT, TREE, Pack, PackWriter
from neuromirror.git.refs import is_ref_name, read_refs, ref_creation_commands
from neuromirror.git.runner import (
    MEMORY_LIMIT,
    PACK_MEMORY_OPTIONS,
    REMOTE_OPTIONS,
    STALL_LIMIT,
    call_git,
    git_environment,
    run_git,
    start_git,
    try_git,
)
from neuromirror.git.submodules import Submodule, gitmodules_content
from neuromirror.git.trees import (
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    TREE_MODE,
    ListedEntry,
    TreeBuilder,
    list_tree,
    write_tree,
)

__all__ = [
    "BLOB",
    "COMMIT",
    "FSCK_OPTIONS",
    "GITLINK_MODE",
    "MEMORY_LIMIT",
    "PACK_MEMORY_OPTIONS",
    "REGULAR_FILE_MODE",
    "REMOTE_OPTIONS",
    "STALL_LIMIT",
    "SYMLINK_MODE",
    "TREE",
    "TREE_MODE",
    "BatchObjectReader",
    "Commit",
    "CommitTree",
    "GitError",
    "InvalidRefNameError",
    "KnownObjects",
    "ListedEntry",
    "ObjectMissingError",
    "ObjectReader",
    "ObjectsRefusedError",
    "Pack",
    "PackWriter",
    "Submodule",
    "TreeBuilder",
    "call_git",
    "check_objects",
    "check_pack",
    "create_bundle",
    "create_bundle_of_commits",
    "git_environment",
    "gitmodules_content",
    "is_ref_name",
    "list_tree",
    "parse_commit",
    "parse_tree",
    "read_bundle_refs",
    "read_refs",
    "ref_creation_commands",
    "run_git",
    "start_git",
    "try_git",
    "with_redirect_advice",
    "write_index_file",
    "write_tree",
]
