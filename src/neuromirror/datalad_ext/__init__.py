"""DataLad commands for mirrored versions: a thin layer over neuromirror.lab.

DataLad finds them by the entry point ``neuromirror`` of the group ``datalad.extensions``, and
imports this module at each start. The modules of the commands are imported when they are used.
"""

command_suite = (
    "Exact versions of neuroscience archives, for papers and labs",
    [
        (
            f"neuromirror.datalad_ext.{verb}",
            f"Mirror{verb.title()}",
            f"mirror-{verb}",
            f"mirror_{verb}",
        )
        for verb in ("pin", "get", "verify", "cite")
    ],
)
"""The heading of the commands in ``datalad --help``, and the module, class, and names in shell and
Python of each command.
"""

__all__ = ["command_suite"]
