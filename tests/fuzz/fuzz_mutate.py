"""Mutations that know formats: changed JSON stays JSON, changed frames are packed again."""

import gzip
import json
import re
import zlib
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import zstandard
from fuzz_core import FOLDER, MAX_INPUT_BYTES

Mutator = Callable[[bytes, Random], bytes]

_TOKENS: list[str] = json.loads((FOLDER / "tokens.json").read_text("utf-8"))
"""Texts that parsers tend to trip over."""
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 10**400),
    *(0.5, -0.0, 1e308, -1e308, 1e-320, float("inf"), float("nan"), [], {}, [[]], [None], {"": 0}),
    *([{}], [0, 0, 0], [1, 2], {"a": {"a": {"a": 1}}}, [[[[[[[[[[1]]]]]]]]]]),
]
_DEEP = [b"[" * 3000 + b"]" * 3000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b"[" * 30000]
_TOKEN = re.compile(rb"[A-Za-z0-9_]+|\s+|[^A-Za-z0-9_\s]")


def raw(data: bytes, random: Random) -> bytes:
    """Change some bytes, without regard to any format."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(made) + 1)
        end = min(len(made), at + random.choice((1, 1, 2, 4, 8, 64, 1024)))
        action = random.randrange(8)
        if action == 0 and at < len(made):
            made[at] ^= 1 << random.randrange(8)
        elif action == 1:
            del made[at:end]
        elif action == 2:
            made[at:at] = random.randbytes(random.choice((1, 2, 4, 8)))
        elif action == 3:
            made[at:at] = made[at:end] * random.choice((1, 2, 16, 256))
        elif action == 4:
            made[at:end] = random.choice(_TOKENS).encode("utf-8", "surrogatepass")
        elif action == 5:
            width = random.choice((1, 2, 4, 8))
            number = random.choice((0, 1, -1, 1 << (8 * width - 1), (1 << (8 * width)) - 1, 255))
            order = random.choice(("little", "big"))
            made[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
        elif action == 6:
            del made[at:]
        elif at < len(made):
            made[at] = random.randrange(256)
    return bytes(made[:MAX_INPUT_BYTES])


def text(data: bytes, random: Random) -> bytes:
    """Change whole tokens of a text."""
    tokens = _TOKEN.findall(data) or [b""]
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(tokens))
        action = random.randrange(6)
        if action <= 1:
            tokens[at] = random.choice(_TOKENS).encode("utf-8", "surrogatepass")
        elif action == 2:
            tokens[at] = random.choice(tokens)
        elif action == 3:
            tokens[at] = b""
        elif action == 4:
            end = at + random.choice((1, 3, 9, 27))
            tokens[at:at] = tokens[at:end] * random.choice((1, 2, 30))
        else:
            end = at + random.choice((1, 3, 9, 27))
            del tokens[at:end]
            tokens = tokens or [b""]
    return b"".join(tokens)[:MAX_INPUT_BYTES]


def json_value(data: bytes, random: Random) -> bytes:
    """Change a value somewhere in a JSON document."""
    if random.random() < 0.02:
        return random.choice(_DEEP)
    try:
        root = [json.loads(data)]
        for _ in range(random.choice((1, 1, 2, 3))):
            _change(root, random)
        dumped = json.dumps(root[0], ensure_ascii=random.random() < 0.5)
    except (ValueError, RecursionError):
        # not JSON, or a change has made a document that json cannot write: nested in itself
        return raw(data, random)
    made = dumped.encode("utf-8", "surrogatepass")
    if random.random() < 0.03:
        made = made.replace(b"null", random.choice(_DEEP), 1)
    return made[:MAX_INPUT_BYTES]


def _change(root: list[Any], random: Random) -> None:
    positions: list[tuple[Any, Any]] = [(root, 0)]
    stack: list[Any] = [root[0]]
    while stack and len(positions) < 5000:
        node = stack.pop()
        inner: Any = list(node) if isinstance(node, dict) else ()
        inner = range(len(node)) if isinstance(node, list) else inner
        positions += [(node, key) for key in inner]
        stack += [node[key] for key in inner]
    node, key = random.choice(positions)
    action = random.randrange(7)
    if action == 0:
        node[key] = random.choice(_TOKENS)
    elif action == 1:
        node[key] = deepcopy(random.choice(_VALUES))
    elif action == 2:
        other, position = random.choice(positions)
        node[key] = json.loads(json.dumps(other[position]))
    elif action == 3 and node is not root:
        del node[key]
    elif action == 4 and isinstance(node, dict):
        node[random.choice(_TOKENS)] = node.pop(key)
    elif action == 5 and isinstance(node[key], str):
        changed = text(node[key].encode("utf-8", "surrogatepass"), random)
        node[key] = changed.decode("utf-8", "surrogateescape")
    elif action == 6 and isinstance(node, list):
        node.insert(random.randrange(len(node) + 1), node[key])
    else:
        node[key] = [node[key]]


def json_lines(data: bytes, random: Random) -> bytes:
    """Change, leave out, repeat or swap lines, of which each is JSON."""
    lines = data.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    action = random.randrange(8)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, lines[other])
    elif action == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif action == 3:
        lines[at] = raw(lines[at], random)
    else:
        lines[at] = json_value(lines[at], random)
    return b"\n".join(lines)[:MAX_INPUT_BYTES]


def _packed(
    unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], inner: Mutator
) -> Mutator:
    def mutate(data: bytes, random: Random) -> bytes:
        if random.random() < 0.15:
            return raw(data, random)
        try:
            content = unpack(data)
        except (zstandard.ZstdError, zlib.error, EOFError, OSError):
            return raw(data, random)
        return pack(inner(content, random))[:MAX_INPUT_BYTES]

    return mutate


def _unzstd(data: bytes) -> bytes:
    made: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return made[: MAX_INPUT_BYTES * 4]


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, MAX_INPUT_BYTES * 4)


def _after(count: int, inner: Mutator) -> Mutator:
    """Keep the first bytes, which choose options of the target, apart from the rest."""

    def mutate(data: bytes, random: Random) -> bytes:
        head, rest = data[:count], data[count:]
        if random.random() < 0.1:
            return random.randbytes(count) + rest
        return head + inner(rest, random)

    return mutate


_KINDS: dict[str, Mutator] = {
    "bytes": raw,
    "text": text,
    "json": json_value,
    "json-lines": json_lines,
    "zstd": _packed(_unzstd, zstandard.ZstdCompressor().compress, json_lines),
    "zlib": _packed(_inflate, zlib.compress, raw),
    "gzip": _packed(_inflate, lambda data: gzip.compress(data, mtime=0), json_value),
    "1+bytes": _after(1, raw),
    "1+text": _after(1, text),
    "1+json": _after(1, json_value),
}


def mutate(kind: str, data: bytes, random: Random) -> bytes:
    """Return a changed copy of an input of this kind, of at most ``LARGEST`` bytes."""
    inner = _KINDS[kind]
    if random.random() < 0.15:
        inner = random.choice((raw, text))
    return inner(data, random)[:MAX_INPUT_BYTES]
