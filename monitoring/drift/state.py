"""State as bytes: a JSON head and raw little-endian arrays. Nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.runtime.errors import InvalidArgument

_MAGIC: Final = b"TDS1"
_MAX_BYTES: Final = 256 * 1024 * 1024
_KINDS: Final = frozenset({"<f8", "<f4", "<i8", "|u1"})


def pack(kind: str, fields: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Packs a state of `kind`: plain fields (anything JSON holds) and numeric numpy arrays."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    layout = {name: [array.dtype.str, list(array.shape)] for name, array in plain.items()}
    head = json.dumps({"kind": kind, "fields": dict(fields), "arrays": layout}, separators=(",", ":")).encode()
    return b"".join((_MAGIC, struct.pack("<I", len(head)), head, *(array.tobytes() for array in plain.values())))


def unpack(kind: str, data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Unpacks what `pack` made; the arrays are writable copies.

    Raises:
        InvalidArgument: the bytes are not a state of `kind`, or are cut or damaged.
    """
    try:
        head, arrays = _parse(data)
    except (ValueError, KeyError, TypeError, struct.error, UnicodeDecodeError, AttributeError) as error:
        raise InvalidArgument("state", f"the bytes are not a state of {kind}") from error
    if head["kind"] != kind:
        raise InvalidArgument("state", f"the bytes are a state of {str(head['kind'])[:64]!r}, not of {kind!r}")
    return head["fields"], arrays


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if data[:4] != _MAGIC or len(data) > _MAX_BYTES:
        raise ValueError(f"a state begins with {_MAGIC!r} and has at most {_MAX_BYTES} bytes")
    (size,) = struct.unpack_from("<I", data, 4)
    head: dict[str, Any] = json.loads(data[8 : 8 + size])
    offset = 8 + size
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in head["arrays"].items():
        if dtype not in _KINDS or any(extent < 0 for extent in shape):
            raise ValueError(f"an array has one of the kinds {sorted(_KINDS)}")
        count = int(np.prod(shape, dtype=np.int64))
        end = offset + count * np.dtype(dtype).itemsize
        if end > len(data):
            raise ValueError("cut")
        arrays[name] = np.frombuffer(data[offset:end], dtype=dtype).reshape(shape).copy()
        offset = end
    if offset != len(data) or not isinstance(head["fields"], dict) or "kind" not in head:
        raise ValueError("damaged")
    return head, arrays


@contextlib.contextmanager
def checked(kind: str) -> Iterator[None]:
    """Turns what goes wrong while a state is restored into one clear error.

    Raises:
        InvalidArgument: a field is missing, of the wrong type or out of its range.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidArgument("state", f"the bytes are not a state of {kind}") from error


def shaped(array: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Gives `array` when it has the shape and kind of `like`.

    Raises:
        ValueError: it has another one.
    """
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(f"an array has the shape {array.shape}, not {like.shape}")
    return array
