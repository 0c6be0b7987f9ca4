"""Shapes that several threads make for the first time at the same time."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import threading, time
import msgspec._utils
from neuromirror.index.shapes import Answer

analyse = msgspec._utils._get_class_mro_and_typevar_mappings

def analyse_slowly(kind):
    time.sleep(0.2)  # the other threads run
    return analyse(kind)

msgspec._utils._get_class_mro_and_typevar_mappings = analyse_slowly

class Inner(Answer, frozen=True):
    value: int

class Outer(Answer, frozen=True):
    inner: Inner

def make_shape(number):
    time.sleep(0.05 * number)
    made.append(Outer.of(inner={"value": number}).plain())

made = []
threads = [threading.Thread(target=make_shape, args=(number,)) for number in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert sorted(one["inner"]["value"] for one in made) == [*range(8)]
"""


def test_threads_make_the_first_shapes_of_a_kind_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
