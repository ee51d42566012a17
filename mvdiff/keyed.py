"""Keyed randomness: random numbers that depend only on named keys.

All randomness of a sample (its yaw, timestep, noise, dropout) comes from generators keyed by `(purpose, seed, epoch,
sample_index[, view])`. The number of ranks and workers, the batch split and resuming therefore do not change a sample's
numbers, and adding a purpose does not shift those of another.
"""

import hashlib
import operator

import torch


def keyed_int(*keys: int | str) -> int:
    """Hash keys to a 63-bit integer that is the same on every machine (own derivation).

    Args:
        *keys: Strings and integers, by convention (purpose, seed, epoch, sample_index[, view]). `1` and `"1"` are
            different keys, as are `("ab", "c")` and `("a", "bc")`.

    Returns:
        An integer in [0, 2**63).

    Raises:
        TypeError: A key is not a string or integer.

    Example:
        >>> keyed_int("yaw", 0, 3, 17) == keyed_int("yaw", 0, 3, 17) != keyed_int("yaw", 0, 3, 18)
        True
    """
    return _hash_64(keys) >> 1


def keyed_generator(*keys: int | str) -> torch.Generator:
    """Return a new CPU generator seeded with the 64-bit hash of the keys (own derivation).

    Equal keys give equal numbers on every machine, rank and worker.

    Args:
        *keys: See `keyed_int`.

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
        raise TypeError(f"a randomness key must be a string or an integer; got {key!r}.")
    else:
        tag, text = b"i", str(operator.index(key)).encode()
    return tag + str(len(text)).encode() + b":" + text
