"""Keyed hashes that an assignment hangs on; byte for byte as in docs/assignment.md.

Every message starts with one letter for its kind, and every text but the last carries its length, so that no two
different subjects share a message.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

MASK: Final = 2**64 - 1


def utf8(text: str) -> bytes:
    """Encodes a text."""
    # A lone surrogate cannot come over the wire, but it must not cost anybody an answer either.
    return text.encode("utf-8", "surrogatepass")


def framed(text: str) -> bytes:
    """Gives a text with its length before it."""
    octets = utf8(text)
    return len(octets).to_bytes(4, "big") + octets


def salt_key(salt: str) -> bytes:
    """Gives the 64-byte key of an experiment: the unkeyed BLAKE2b-512 of its salt."""
    return blake2b(utf8(salt)).digest()


def keyed(key: bytes, message: bytes) -> int:
    """Gives the 64-bit hash of a message."""
    return int.from_bytes(blake2b(message, digest_size=8, key=key).digest(), "big")


def unit_hash(key: bytes, tenant: str, unit_id: str, decision_id: str) -> int:
    """Gives the 64-bit hash of a unit, or of a decision that has none; the two never share a message."""
    if unit_id:
        return keyed(key, b"u" + framed(tenant) + utf8(unit_id))
    return keyed(key, b"d" + framed(tenant) + utf8(decision_id))


def unit_hashes(key: bytes, tenant: str, unit_ids: Sequence[str], decision_ids: Sequence[str]) -> list[int]:
    """Gives `unit_hash` of many units of one tenant; what all their messages begin with is hashed once."""
    begun_unit = blake2b(b"u" + framed(tenant), digest_size=8, key=key).copy
    begun_decision = blake2b(b"d" + framed(tenant), digest_size=8, key=key).copy
    digests = []
    for unit_id, decision_id in zip(unit_ids, decision_ids, strict=True):
        state = begun_unit() if unit_id else begun_decision()
        state.update((unit_id or decision_id).encode("utf-8", "surrogatepass"))
        digests.append(state.digest())
    return list(struct.unpack(f">{len(digests)}Q", b"".join(digests)))


def block_hash(key: bytes, tenant: str, region: str, block: int) -> int:
    """Gives the 64-bit hash of a switchback block."""
    return keyed(key, b"b" + framed(tenant) + framed(region) + block.to_bytes(8, "big", signed=True))


def start_hash(key: bytes, tenant: str, region: str) -> int:
    """Gives the 64-bit hash that shifts the alternation of a region and tenant."""
    return keyed(key, b"s" + framed(tenant) + utf8(region))


def arm_seed(key: bytes, arm: str) -> int:
    """Gives the 64-bit seed of an arm."""
    return keyed(key, b"a" + utf8(arm))


def mix(value: int) -> int:
    """Scrambles 64 bits one to one: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; Stafford's 13)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)
