"""Imports what commands need, before processes are forked that run them."""

import gc
import importlib

from neuromirror.cli import main
from neuromirror.web.rendering import template_environment

for _module in (
    "apscheduler.schedulers.background",
    "neuromirror.crawl",
    "neuromirror.lab",
    "neuromirror.net.guarded_connections",
    "neuromirror.service.servers",
    "neuromirror.service.logs",
    "neuromirror.service.metrics",
    "neuromirror.service.serve",
    "neuromirror.sources.dandi.source",
    "neuromirror.web.serve",
    "markdown_it",
    "requests",
    "tqdm",
    "uvicorn",
):
    importlib.import_module(_module)
_commands = list(main.commands.values())
for _name in template_environment().list_templates():
    template_environment().get_template(_name)
# Commands do not copy the pages of these modules to collect garbage
gc.freeze()
