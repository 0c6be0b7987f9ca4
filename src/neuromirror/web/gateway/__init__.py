"""The gateway: the files of a version over plain HTTP, at ``/at/<dataset>@<version>/<path>``."""
