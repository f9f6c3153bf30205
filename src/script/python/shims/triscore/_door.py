"""The socket to the service's process: one message out, one back, in order.

The messages are those of triscore's `script::door::wire`, whose documentation says what is in them.
"""

import array
import json
import os
import socket
import struct
import threading
from typing import Any, Dict, Optional, Tuple

DONE, FAILED, TOO_SMALL, HERE, IN_PLACE = range(5)
OPEN, ARENA, RELEASE, RUN, FETCH = range(1, 6)

MAX_MESSAGE_BYTES = 128 << 10
_HEAD = struct.Struct("<B3xI")
_DESCRIPTOR = "TRISCORE_DOOR_FD"


class ScoreError(RuntimeError):
    """A model could not be opened or scored; `kind` is the name of triscore's kind of error."""

    def __init__(self, message: str, kind: str = "internal"):
        super().__init__(message)
        self.kind = kind


class Door:
    """This process's end. Calls are made one at a time, whichever thread makes them."""

    def __init__(self, descriptor: int):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=descriptor)
        self._socket.set_inheritable(False)
        self._buffer = bytearray(MAX_MESSAGE_BYTES + 1)
        self._view = memoryview(self._buffer)
        self._number = 0
        self._pid = os.getpid()
        #: Held over a whole call, with the memory that belongs to it.
        self.lock = threading.RLock()

    def ask(self, kind: int, rest: bytes, file: Optional[int] = None) -> Tuple[int, memoryview]:
        """Sends a message; the status of its reply, and the rest of it, which is there until the next call."""
        if os.getpid() != self._pid:
            raise ScoreError(
                "a process that the worker has forked cannot score: start it anew (multiprocessing's 'spawn'), "
                "or score in the worker",
                "unsupported",
            )
        if len(rest) + _HEAD.size > MAX_MESSAGE_BYTES:
            raise ScoreError("a call with more inputs and outputs than fit into one message", "unsupported")
        self._number = (self._number + 1) & 0xFFFFFFFF
        number = self._number
        message = _HEAD.pack(kind, number) + rest
        try:
            if file is None:
                self._socket.send(message)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (file,)))
                self._socket.sendmsg([message], [rights])
            while True:
                length = self._socket.recv_into(self._buffer)
                if length < _HEAD.size:
                    raise ConnectionResetError("the service has closed it")
                status, of = _HEAD.unpack_from(self._buffer)
                # An exception may have come between an earlier call and its reply: that reply is nobody's.
                if of == number:
                    break
        except TimeoutError:
            raise  # not the socket's, which waits for ever: an alarm's, raised in its middle
        except OSError as error:
            raise ScoreError(f"the accelerated door to the service is broken: {error}", "unavailable") from None
        body = self._view[_HEAD.size : length]
        if status == FAILED:
            about: Dict[str, Any] = json.loads(bytes(body))
            raise ScoreError(about["message"], about["kind"])
        return status, body


_door: Optional[Door] = None
_opening = threading.Lock()


def the_door() -> Door:
    """The door of this worker.

    Raises ScoreError in a process that has none.
    """
    global _door
    with _opening:
        if _door is None:
            text = os.environ.get(_DESCRIPTOR)
            if text is None:
                raise ScoreError(
                    "this process is no worker of a triscore service, so there is no device to score on: run the "
                    "script with `triscore serve --ic FILE` or `triscore model deploy`, or import onnxruntime",
                    "unavailable",
                )
            _door = Door(int(text))
        return _door
