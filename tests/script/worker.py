"""A worker that does as its requests say: it speaks the protocol, well or badly."""

import json
import os
import socket
import struct
import sys
import time

sock = socket.socket(fileno=int(os.environ["TRISCORE_WORKER_FD"]))


def frame(kind, rest):
    sock.sendall(struct.pack("<IB", len(rest) + 1, kind) + rest)


def exactly(count):
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def answer(ident, body, flags=2, ms=0.01):
    frame(3, struct.pack("<QHBdI", ident, 200, flags, ms, 0) + body)


init = os.environ.get("TEST_INIT", "")
if init == "hang":
    time.sleep(1000)
if init == "slow":
    time.sleep(1)
if init == "die":
    print("last words", flush=True)
    os._exit(7)
if init == "fail":
    frame(2, json.dumps({"stage": "init", "message": "User's init function failed: no", "traceback": "tb"}).encode())
    sys.exit(3)
frame(1, json.dumps({"pid": os.getpid(), "mode": "string", "needs_head": False, "python": "3", "swagger": {"2": "{}"}}).encode())

while True:
    (length,) = struct.unpack("<I", exactly(4))
    data = exactly(length)
    _, ident, timeout_ms, head_len = struct.unpack_from("<BQII", data)
    body = data[17 + head_len :]
    word, _, rest = body.decode().partition(" ")
    if word == "crash":
        os.kill(os.getpid(), 9)
    elif word == "hang":
        time.sleep(1000)
    elif word == "exit":
        answer(ident, b"bye", flags=6)
        sys.exit(0)
    elif word == "exit-and-stay":
        answer(ident, b"bye", flags=6)
        time.sleep(1000)
    elif word == "close-and-stay":
        sock.shutdown(socket.SHUT_RDWR)
        time.sleep(1000)
    elif word == "pid-slow":
        time.sleep(int(rest) / 1e3)
        answer(ident, str(os.getpid()).encode(), ms=float(rest))
    elif word == "print":
        for _ in range(int(rest)):
            os.write(1, b"x" * 65535 + b"\n")
        answer(ident, b"printed")
    elif word == "sleep":
        time.sleep(int(rest) / 1e3)
        answer(ident, b"slept", ms=float(rest))
    elif word == "big":
        answer(ident, b"b" * int(rest))
    elif word == "garbage":
        sock.sendall(b"\xff" * 64)
    elif word == "head":
        answer(ident, data[17 : 17 + head_len])
    elif word == "pid":
        answer(ident, str(os.getpid()).encode())
    elif word == "grow":
        kept = bytearray(b"k" * int(rest))
        answer(ident, b"grown")
    elif word == "wrong-id":
        answer(ident + 1, b"")
    else:
        answer(ident, body)
