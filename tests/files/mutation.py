"""Damage files: single bytes and blocks, words of text, values of JSON; all drawn from a seeded generator."""

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

ODD_VALUES = (
    *(None, True, False, -1, 0, 1, 3.5, 2**31, 2**40, 10**30, -1e30, float("nan"), float("inf"), -float("inf")),
    *("", "x", "1", "\u2028", "/", "..", "a" * 300, "\x00", [], {}, [[]], [None], {"x": None}, [1, 2, 3], [0.5] * 9),
)
ODD_WORDS = ("nan", "inf", "-1", "0", "1e400", "x", "", "9" * 5000, "..", "/", "é", "\u2028", "\0", "\ufeff", "\r")
DEEP = 100_000


def mutant(content: bytes, suffix: str, random_: random.Random) -> bytes:
    """Return a damaged copy of a file's content, as fits its kind."""
    ways = [bytes_changed]
    if suffix in (".json", ".yaml"):
        ways += [json_changed] * 4
    if suffix in (".txt", ".jsonl", ".csv", ".yaml"):
        ways += [words_changed] * 2
    return random_.choice(ways)(content, random_)


def bytes_changed(content: bytes, random_: random.Random) -> bytes:
    """Flip, cut, repeat, blank or overwrite bytes, most often near the start, where headers are."""
    damaged = bytearray(content or b"\0")
    for _ in range(random_.choice((1, 1, 2, 8))):
        near = min(len(damaged), random_.choice((32, 256, len(damaged))))
        at, size = random_.randrange(near), random_.choice((1, 2, 4, 8, 64))
        way = random_.randrange(6)
        if way == 0:
            damaged[at] ^= 1 << random_.randrange(8)
        elif way == 1:
            damaged[at : at + size] = random_.choice((b"\xff", b"\0", b"\x7f")) * size
        elif way == 2:
            del damaged[at : at + size]
        elif way == 3:
            damaged[at:at] = random_.randbytes(size)
        elif way == 4:
            damaged[at:at] = damaged[: size * 16]
        else:
            del damaged[random_.randrange(len(damaged)) :]
        damaged = damaged or bytearray(b"\0")
    return bytes(damaged)


def words_changed(content: bytes, random_: random.Random) -> bytes:
    """Replace, remove or join words of a text."""
    parts = re.split(r"(\s+)", content.decode("utf-8"))
    for _ in range(random_.choice((1, 1, 3))):
        parts[random_.randrange(len(parts))] = random_.choice(ODD_WORDS)
    return "".join(parts).encode("utf-8", "surrogatepass")


def json_changed(content: bytes, random_: random.Random) -> bytes:
    """Swap values for others of any type, remove or add keys, or nest without end."""
    if random_.random() < 0.03:
        opening = random_.choice(("[", '{"a":'))
        return (opening * DEEP).encode()
    root = [json.loads(content)]
    for _ in range(random_.choice((1, 1, 1, 2))):
        holder, key = random_.choice(list(_places(root)))
        way = random_.randrange(5)
        if way == 0 and holder is not root:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder["another"] = holder[key]
        elif way == 2:
            holder[key] = [holder[key], copy.deepcopy(holder[key])]
        else:
            holder[key] = copy.deepcopy(random_.choice(ODD_VALUES))
    text = json.dumps(root[0])
    if random_.random() < 0.1:
        text = re.sub(r"(?<=: )[0-9]+", "9" * 500, text, count=1)
    return text.encode()


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


class Memory:
    """The most memory that a call takes, where Linux tells it."""

    @staticmethod
    def start() -> int:
        """Begin a measurement; return the memory that the process has now, in bytes."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return 0
        return _resident("VmRSS")

    @staticmethod
    def taken(start: int) -> int:
        """Return the most bytes that the process had since `start`, beyond those it had then; 0 if unknown."""
        return _resident("VmHWM") - start if start else 0


def _resident(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
