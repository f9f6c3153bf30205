"""Frames to and from the host.

Every frame is `u32 length of what follows`, `u8 kind`, rest; all integers are little-endian. Requests are
handed out as views into one buffer that the next frame overwrites: who keeps bytes copies them. A script may
fork, close descriptors and start programs: the socket therefore sits on a high descriptor that nothing
inherits.
"""

import fcntl
import json
import os
import resource
import socket
import struct
from typing import Any, Iterator, NamedTuple, Optional, Union

REQUEST = 1
READY, FAILED, ANSWER = 1, 2, 3

# What became of an answer.
RUN_FAILED = 1  # the script failed: x-ms-run-function-failed is True
HAS_EXEC_MS = 2  # the time that run() took is valid
WORKER_ENDS = 4  # the script called sys.exit: this worker ends and has to be replaced
TIMED_OUT = 8  # the scoring timeout struck
NO_RUN_FAILED = 16  # the answer goes without the header x-ms-run-function-failed

_LENGTH = struct.Struct("<I")
# length, kind, id, timeout in ms, length of the head
_REQUEST = struct.Struct("<IBQII")
# length, kind, id, status, flags, exec ms, length of the head
_ANSWER = struct.Struct("<IBQHBdI")

_BUFFER_BYTES = 256 << 10
# Answers up to so many bytes are copied behind their header: cheaper than a list of buffers.
_JOINED_BYTES = 64 << 10
_FRAME_BYTES = (1 << 32) - 1

Bytes = Union[bytes, memoryview]


class Request(NamedTuple):
    """One request; `head` and `body` are valid until the next one is taken."""

    id: int
    timeout_ms: int  # 0: none
    head: Bytes
    body: Bytes


class ProtocolError(Exception):
    """The host sent what is no frame."""


class Channel:
    """The worker's end of the socket pair."""

    def __init__(self, fd: int):
        self._socket = socket.socket(fileno=high_copy(fd))
        os.close(fd)
        self._socket.setblocking(True)
        self._is_child = False
        # A child that the script forks must not hold the connection open, and must never answer on it.
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        self._is_child = True
        self._socket.close()

    def close(self) -> None:
        """Nothing is answered any more: the host need not wait for threads that keep the process."""
        self._socket.close()

    def requests(self) -> Iterator[Request]:
        """The requests, in order, until the host closes its end."""
        receive, length_at, header_at = self._socket.recv_into, _LENGTH.unpack_from, _REQUEST.unpack_from
        buffer = bytearray(_BUFFER_BYTES)
        view = memoryview(buffer)
        begin = end = 0
        while True:
            while end - begin >= _REQUEST.size:
                length, kind, request_id, timeout_ms, head_bytes = header_at(buffer, begin)
                head = begin + _REQUEST.size
                after = begin + _LENGTH.size + length
                if kind != REQUEST or head + head_bytes > after:
                    raise ProtocolError(f"kind {kind}, {length} bytes, head of {head_bytes}")
                if after > end:
                    break
                body = head + head_bytes
                yield Request(
                    request_id, timeout_ms, view[head:body] if head_bytes else b"", view[body:after]
                )
                begin = after
            have = end - begin
            if have == 0:
                begin = end = 0
            elif have >= _LENGTH.size and length_at(buffer, begin)[0] + _LENGTH.size > _BUFFER_BYTES:
                request = self._large(view[begin:end], length_at(buffer, begin)[0])
                if request is None:
                    return
                yield request
                request = None
                begin = end = 0
            elif end == _BUFFER_BYTES or begin > _BUFFER_BYTES // 2:
                view[:have] = bytes(view[begin:end])
                begin, end = 0, have
            received = receive(view[end:])
            if received == 0:
                return
            end += received

    def _large(self, first: memoryview, length: int) -> Optional[Request]:
        """The frame that begins with `first` and does not fit into the buffer; none when the host closes."""
        frame = bytearray(_LENGTH.size + length)
        view = memoryview(frame)
        end = len(first)
        view[:end] = first
        while end < len(frame):
            received = self._socket.recv_into(view[end:])
            if received == 0:
                return None
            end += received
        _, kind, request_id, timeout_ms, head_bytes = _REQUEST.unpack_from(frame)
        body = _REQUEST.size + head_bytes
        if kind != REQUEST or body > len(frame):
            raise ProtocolError(f"kind {kind}, {length} bytes, head of {head_bytes}")
        return Request(request_id, timeout_ms, view[_REQUEST.size : body] if head_bytes else b"", view[body:])

    def answer(
        self, request_id: int, status: int, flags: int, exec_ms: float, body: bytes, head: bytes = b""
    ) -> None:
        """Sends an answer. An empty head stands for JSON.

        Raises ValueError for an answer that no frame holds, and OSError when the host is gone.
        """
        length = _ANSWER.size - _LENGTH.size + len(head) + len(body)
        if length > _FRAME_BYTES:
            raise ValueError(f"an answer of {len(body)} bytes is larger than a frame, which holds 4 GiB")
        header = _ANSWER.pack(length, ANSWER, request_id, status, flags, exec_ms, len(head))
        self._send(header + head, body)

    def ready(self, about: Any) -> None:
        """Says that init() has returned."""
        self._message(READY, about)

    def failed(self, stage: str, message: str, traceback: str) -> None:
        """Says why there is nothing to serve. A host that is gone need not know."""
        try:
            self._message(FAILED, {"stage": stage, "message": message, "traceback": traceback})
        except OSError:
            pass

    def _message(self, kind: int, about: Any) -> None:
        body = json.dumps(about).encode()
        self._send(_LENGTH.pack(1 + len(body)) + bytes((kind,)), body)

    def _send(self, header: bytes, body: bytes) -> None:
        try:
            if len(body) <= _JOINED_BYTES:
                self._socket.sendall(header + body)
                return
            sent = self._socket.sendmsg((header, body))
            if sent < len(header):
                self._socket.sendall(header[sent:])
                sent = len(header)
            self._socket.sendall(memoryview(body)[sent - len(header) :])
        except OSError:
            if self._is_child:
                # run() forked, and this is the child coming back from it: the answer is the parent's to give.
                os._exit(0)
            raise


def high_copy(fd: int) -> int:
    """A copy of the descriptor that is closed on exec and sits high: scripts close low ones by range."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 900 if open_files == resource.RLIM_INFINITY or open_files > 1000 else open_files // 2
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, wanted)
