"""Arrays as the service reads and writes them: element types, text, and answers."""

import struct
from typing import Any, Dict, List, Tuple

import numpy as np

from ._door import ScoreError

#: NumPy's types by ONNX's numbers. Text is an object array.
DTYPES: Dict[int, np.dtype] = {
    number: np.dtype(name)
    for number, name in {
        1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
        10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    }.items()
}  # fmt: skip
STRING = 8
#: What NumPy has no type for: the name of the type that other packages add to it, and what its bits travel as.
BITS: Dict[int, Tuple[str, np.dtype]] = {
    16: ("bfloat16", np.dtype("uint16")),
    17: ("float8_e4m3fn", np.dtype("uint8")),
    19: ("float8_e5m2", np.dtype("uint8")),
}

_VALUE = struct.Struct("<BBBxI")
_LENGTH = struct.Struct("<I")
_TENSOR, _SEQUENCE, _MAP = 1, 2, 3


def as_array(name: str, value: Any, code: int, kind: str) -> np.ndarray:
    """A feed as an array of the type that the model takes, in one piece and in this machine's byte order.

    Raises ScoreError for an array of another type: what onnxruntime would not convert is not converted here.
    """
    if code == STRING:
        array = np.asarray(value, dtype=None if isinstance(value, np.ndarray) else object)
        if array.dtype.kind not in "OUS":
            raise _wrong(name, kind, array.dtype)
        return array
    if code in BITS:
        array = np.asarray(value)
        own, bits = BITS[code]
        if array.dtype.name != own and array.dtype != bits:
            raise _wrong(name, kind, array.dtype)
        return np.ascontiguousarray(array).view(bits).reshape(array.shape)
    dtype = DTYPES.get(code)
    if dtype is None:
        raise ScoreError(f"input '{name}': {kind} cannot be given from Python", "unsupported")
    if not isinstance(value, (np.ndarray, np.generic)):
        # Lists and numbers have no type of their own: they take the model's.
        try:
            return np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise ScoreError(f"input '{name}': expected {kind}: {error}", "bad_input") from None
    array = np.asarray(value)
    if array.dtype.newbyteorder("=") != dtype:
        raise _wrong(name, kind, array.dtype)
    return array


def _wrong(name: str, kind: str, got: np.dtype) -> ScoreError:
    wanted = kind[len("tensor(") : -1]
    text = f"input '{name}': expected {kind}, got an array of {got.name}; convert it to {wanted} first"
    return ScoreError(text, "bad_input")


def text_bytes(name: str, array: np.ndarray) -> bytes:
    """The elements of a text array, each its length and as many bytes of UTF-8."""
    parts: List[bytes] = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            try:
                element = element.encode()
            except UnicodeEncodeError as error:
                raise ScoreError(f"input '{name}': text that is not Unicode: {error}", "bad_input") from None
        elif not isinstance(element, bytes):
            what = type(element).__name__
            raise ScoreError(f"input '{name}': expected text, got an element of type {what}", "bad_input")
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def values_of(answer: np.ndarray, count: int) -> List[Any]:
    """The values of an answer, which are views of it; `answer` holds bytes."""
    at = 0
    values = []
    for _ in range(count):
        value, at = _value(answer, at)
        values.append(value)
    return values


def _value(answer: np.ndarray, at: int) -> Tuple[Any, int]:
    kind, code, rank, count = _VALUE.unpack_from(answer, at)
    at += _VALUE.size
    if kind == _TENSOR:
        offset, length, *shape = struct.unpack_from(f"<{2 + rank}Q", answer, at)
        return _tensor(answer[offset : offset + length], code, shape), at + 8 * (2 + rank)
    if kind == _SEQUENCE:
        items = []
        for _ in range(count):
            item, at = _value(answer, at)
            items.append(item)
        return items, at
    if kind == _MAP:
        keys, at = _value(answer, at)
        values, at = _value(answer, at)
        return dict(zip(keys.tolist(), values.tolist())), at
    raise ScoreError(f"the service answered with a value of kind {kind}")


def _tensor(content: np.ndarray, code: int, shape: List[int]) -> np.ndarray:
    if code == STRING:
        raw, at, texts = content.tobytes(), 0, []
        while at < len(raw):
            (length,) = _LENGTH.unpack_from(raw, at)
            at += _LENGTH.size
            texts.append(raw[at : at + length].decode())
            at += length
        array = np.empty(len(texts), dtype=object)
        array[:] = texts
        return array.reshape(shape)
    return content.view(BITS[code][1] if code in BITS else DTYPES[code]).reshape(shape)
