"""Keyed randomness: random numbers that depend on named keys and on nothing else.

Whatever is random about a sample (its yaw, timestep, noise, dropout) is drawn from a generator keyed by
`(purpose, seed, epoch, sample_index[, view])`. So neither the number of ranks and workers, nor the batch split, nor
a resumed run changes what a sample sees, and adding a purpose never shifts another one's numbers.
"""

import hashlib
import operator

import torch


def keyed_int(*keys: int | str) -> int:
    """Hash keys to a 63-bit integer, the same on every machine (own derivation).

    Args:
        *keys: Strings and integers, by convention (purpose, seed, epoch, sample_index[, view]). `1` and `"1"`
            are different keys, and so are `("ab", "c")` and `("a", "bc")`.

    Returns:
        An integer in [0, 2**63).

    Raises:
        TypeError: A key is neither a string nor an integer.

    Example:
        >>> keyed_int("yaw", 0, 3, 17) == keyed_int("yaw", 0, 3, 17) != keyed_int("yaw", 0, 3, 18)
        True
    """
    return _hash_64(keys) >> 1


def keyed_generator(*keys: int | str) -> torch.Generator:
    """Return a fresh CPU generator whose seed is the 64-bit hash of the keys (own derivation).

    Args:
        *keys: As for `keyed_int`.

    Returns:
        A CPU generator; the same keys give the same numbers on every machine, rank and worker.

    Example:
        >>> yaw = torch.randint(360, (), generator=keyed_generator("yaw", 0, 3, 17))
        >>> yaw == torch.randint(360, (), generator=keyed_generator("yaw", 0, 3, 17))
        tensor(True)
    """
    return torch.Generator(device="cpu").manual_seed(_hash_64(keys))


def _hash_64(keys: tuple[int | str, ...]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(_encoded(key))
    return int.from_bytes(digest.digest(), "big")


def _encoded(key: int | str) -> bytes:
    """Encode a key with its type and length, so that different key lists never share an encoding."""
    if isinstance(key, str):
        tag, text = b"s", key.encode()
    elif isinstance(key, bool) or not hasattr(key, "__index__"):
        raise TypeError(f"a key of keyed randomness must be a string or an integer; got {key!r}. Convert it first.")
    else:
        tag, text = b"i", str(operator.index(key)).encode()
    return tag + str(len(text)).encode() + b":" + text
