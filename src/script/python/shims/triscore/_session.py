"""A model that the service has open, called as onnxruntime's session is."""

import json
import os
import struct
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ._door import FETCH, HERE, IN_PLACE, OPEN, RUN, TOO_SMALL, ScoreError, the_door
from ._memory import ALIGN_BYTES, Memory, Place, unchangeable_file
from ._values import BITS, DTYPES, STRING, as_array, text_bytes, values_of

#: The providers of onnxruntime that stand for triscore's backends.
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}

_memory: Optional[Memory] = None
#: Where inputs are put that do not lie in shared memory already; grows to the largest call.
_staging: Optional[np.ndarray] = None


class NodeArg(NamedTuple):
    """An input or output: its name, its shape (lengths, names, or None), its type as onnxruntime spells it."""

    name: str
    shape: List[Union[int, str, None]]
    type: str


class InferenceSession:
    """A model, on the device of the deployment.

    `path_or_bytes` is the model's file, or what is in it. Options and providers are taken and have no effect: the
    deployment file says what a model runs on, and how.
    """

    def __init__(
        self,
        path_or_bytes: Union[str, bytes, "os.PathLike[str]"],
        sess_options: Any = None,
        providers: Optional[Sequence[Any]] = None,
        provider_options: Any = None,
        **_others: Any,
    ):
        self._door = the_door()
        with self._door.lock:
            if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
                descriptor = unchangeable_file(bytes(path_or_bytes))
                try:
                    _, body = self._door.ask(OPEN, b"", descriptor)
                finally:
                    os.close(descriptor)
            else:
                where = {"path": os.fspath(path_or_bytes), "cwd": os.getcwd()}
                _, body = self._door.ask(OPEN, json.dumps(where).encode())
            about = json.loads(bytes(body))
        self._number: int = about["session"]
        #: The device in words, as `gpu:0 NVIDIA H200`.
        self.device: str = about["device"]
        self._backend: str = about["backend"] or "cpu"
        self._inputs: List[Dict[str, Any]] = about["inputs"]
        self._outputs: List[Dict[str, Any]] = about["outputs"]
        self._input_at = {port["name"]: at for at, port in enumerate(self._inputs)}
        self._output_at = {port["name"]: at for at, port in enumerate(self._outputs)}
        #: What the largest answer took that did not fit into a message.
        self._answer_bytes = 0
        asked = [provider if isinstance(provider, str) else provider[0] for provider in providers or ()]
        if asked and self.get_providers()[0] not in asked:
            warnings.warn(
                f"providers {asked} have no effect: the deployment runs the model on {self.device}", stacklevel=2
            )

    def get_inputs(self) -> List[NodeArg]:
        """The model's inputs."""
        return [_node(port) for port in self._inputs]

    def get_outputs(self) -> List[NodeArg]:
        """The model's outputs."""
        return [_node(port) for port in self._outputs]

    def get_providers(self) -> List[str]:
        """The one that stands for the device."""
        return [_PROVIDERS.get(self._backend, "TriscoreExecutionProvider")]

    def empty(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """An array for that input in memory that the service sees: what is written there crosses without a copy."""
        port = self._inputs[self._index(name, self._input_at, "input")]
        dtype = BITS[port["code"]][1] if port["code"] in BITS else DTYPES.get(port["code"])
        if dtype is None:
            raise ScoreError(f"input '{name}': {port['type']} does not lie in shared memory", "unsupported")
        count = int(np.prod(shape, dtype=np.int64))
        with self._door.lock:
            root = _shared(self._door).lend(max(count * dtype.itemsize, 1))
        return root[: count * dtype.itemsize].view(dtype).reshape(shape)

    def run(
        self, output_names: Optional[Sequence[str]], input_feed: Dict[str, Any], run_options: Any = None
    ) -> List[Any]:
        """The outputs of that name, in that order; all of them for None."""
        if output_names:
            wanted = [self._index(name, self._output_at, "output") for name in output_names]
        else:
            wanted = list(range(len(self._outputs)))
        arrays = []
        for name, value in input_feed.items():
            port = self._inputs[self._index(name, self._input_at, "input")]
            if port["code"] is None:
                raise ScoreError(f"input '{name}': {port['type']} cannot be given from Python", "unsupported")
            arrays.append((name, port["code"], as_array(name, value, port["code"], port["type"])))
        with self._door.lock:
            return self._run(wanted, arrays)

    def _run(self, wanted: List[int], arrays: List[Any]) -> List[Any]:
        memory = _shared(self._door)
        contents = [text_bytes(name, array) if code == STRING else array for name, code, array in arrays]
        places = [None if isinstance(content, bytes) else memory.place_of(content) for content in contents]
        places = _staged(memory, contents, places)
        room = memory.lend(self._answer_bytes) if self._answer_bytes else None
        message = [
            struct.pack("<IQ", self._number, 0),
            struct.pack("<IQQ", *(memory.whole(room) if room is not None else (0, 0, 0))),
            struct.pack(f"<HH{len(wanted)}H", len(wanted), len(arrays), *wanted),
        ]
        for (name, code, array), (arena, offset, length) in zip(arrays, places):
            at, rank = self._input_at[name], array.ndim
            message.append(
                struct.pack(f"<HBBIQQ{rank}Q", at, code, rank, arena, offset, length, *array.shape)
            )
        status, body = self._door.ask(RUN, b"".join(message))
        if status == TOO_SMALL:
            (self._answer_bytes,) = struct.unpack("<Q", body)
            room = memory.lend(self._answer_bytes)
            status, body = self._door.ask(FETCH, struct.pack("<IQQ", *memory.whole(room)))
        if status == HERE:
            return values_of(np.frombuffer(bytearray(body), np.uint8), len(wanted))
        if status != IN_PLACE or room is None:
            raise ScoreError(f"the service answered with status {status}")
        return values_of(room, len(wanted))

    @staticmethod
    def _index(name: str, known: Dict[str, int], what: str) -> int:
        found = known.get(name)
        if found is None:
            there = ", ".join(f"'{other}'" for other in known)
            raise ScoreError(f"the model has no {what} '{name}': it has {there}", "bad_input")
        return found


def _node(port: Dict[str, Any]) -> NodeArg:
    return NodeArg(port["name"], port["dims"] or [], port["type"])


def _shared(door: Any) -> Memory:
    global _memory
    if _memory is None:
        _memory = Memory(door)
    return _memory


def _staged(memory: Memory, contents: List[Any], places: List[Optional[Place]]) -> List[Place]:
    """The places of all contents; those that do not lie in an arena are copied into one."""
    global _staging
    offset, at = 0, []
    for content, place in zip(contents, places):
        at.append(offset)
        if place is None:
            size = len(content) if isinstance(content, bytes) else content.nbytes
            offset += -(-size // ALIGN_BYTES) * ALIGN_BYTES
    if _staging is None or _staging.nbytes < offset:
        _staging = memory.lend(max(offset, 1))
    arena, _, _ = memory.whole(_staging)
    out: List[Place] = []
    for content, place, start in zip(contents, places, at):
        if place is None and isinstance(content, bytes):
            _staging[start : start + len(content)] = np.frombuffer(content, np.uint8)
            place = (arena, start, len(content))
        elif place is None:
            there = _staging[start : start + content.nbytes].view(content.dtype.newbyteorder("="))
            np.copyto(there.reshape(content.shape), content)
            place = (arena, start, content.nbytes)
        out.append(place)
    return out
