"""Commands of DataLad for what a lab does with mirrored versions, thin over neuromirror.lab.

DataLad finds them by the entry point ``neuromirror`` of the group ``datalad.extensions``, and reads
this module at each of its starts; the commands' own modules it imports as they are used.
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
"""What DataLad shows above the commands; of each its module, class, and names in shell and Python.
"""

__all__ = ["command_suite"]
