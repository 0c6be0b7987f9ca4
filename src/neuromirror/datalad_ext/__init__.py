"""DataLad commands for mirrored versions: a thin layer over neuromirror.lab.

DataLad finds them by the entry point ``neuromirror`` of the group ``datalad.extensions``, and
imports this module at each start. The module of the commands is imported when one is used.
"""

command_suite = (
    "Exact versions of neuroscience archives, for papers and labs",
    [
        (
            "neuromirror.datalad_ext.commands",
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
