"""Configuration files in TOML: their names, their content, and the messages about them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from neuromirror.model import ConfigurationError

_T = TypeVar("_T")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_MAX_BYTES: Final = 1 << 20


def check_file_name(path: Path, kind: str, reserved: Collection[str] = ()) -> str:
    """Return the name of a configuration file without ``.toml``.

    Parameters
    ----------
    path
        The path of the file.
    kind
        The kind of the file, such as ``mirror``, for the message.
    reserved
        Names that are not allowed.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ConfigurationError
        The name is not allowed.
    """
    name = path.stem
    if _NAME.match(name) and name not in reserved:
        return name
    rule = "lower-case letters, digits and single hyphens"
    if reserved:
        rule += f", and not {' or '.join(sorted(reserved))}"
    raise ConfigurationError(
        f"{path}: '{name}' is not a valid name of a {kind}; rename the file: {rule}"
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a configuration file.

    Parameters
    ----------
    path
        The path of the file.

    Returns
    -------
    dict[str, Any]
        The content.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or is not TOML.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would block
        raise ConfigurationError(f"{path}: cannot be read: not a regular file; remove it")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigurationError(f"{path}: larger than 1 MiB; not a configuration file")
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # ValueError: also UTF-8, too many digits
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def load_toml(path: Path, validate: Callable[[Any], _T]) -> _T:
    """Return the settings in a configuration file.

    Parameters
    ----------
    path
        The path of the file.
    validate
        Returns the settings for the content; the ``model_validate`` of a pydantic model.

    Returns
    -------
    _T
        The settings.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or is invalid; the message names the file and each field.
    """
    content = read_toml(path)
    try:
        return validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_describe_errors(error)}") from error


def _describe_errors(error: ValidationError) -> str:
    messages = []
    for details in error.errors(include_url=False):
        field = ".".join(str(key) for key in details["loc"])
        message = details["msg"].removeprefix("Value error, ")
        if details["type"] == "extra_forbidden":
            messages.append(f"unknown setting '{field}'")
        else:  # rules about several fields have no field
            messages.append(f"'{field}': {message}" if field else message)
    return "; ".join(messages)
