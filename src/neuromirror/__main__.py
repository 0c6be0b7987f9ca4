"""``python -m neuromirror``: the command line."""

from neuromirror.cli import main

main(prog_name="neuromirror")
