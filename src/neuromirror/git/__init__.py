"""git's own formats and programs: objects, trees, packs and submodules."""
