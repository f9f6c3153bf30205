"""Memory that this process and the service's both map.

An arena is a memory file that can never shrink. It is lent to one array, its root; views of the root keep that
alive, and when the last is gone the arena is lent again. So an array that a script keeps stays what it was, and a
script that does the same thing again and again takes no more memory than it did at first.
"""

import collections
import fcntl
import mmap
import os
import struct
import weakref
from typing import Any, Deque, Dict, List, Optional, Tuple

import numpy as np

from ._door import ARENA, RELEASE, Door

ALIGN_BYTES = 64
_SMALLEST_BYTES = 64 << 10
#: Arenas that nobody uses are kept up to so many bytes.
_KEPT_BYTES = 256 << 20
# Python 3.8 does not name them.
_F_ADD_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1033, 2, 4, 8

#: Arena, offset and length, as the messages have them.
Place = Tuple[int, int, int]


class Arena:
    """One memory file, mapped here and there."""

    def __init__(self, number: int, size: int, door: Door):
        self.number, self.size = number, size
        descriptor = memory_file("triscore-arena", size, _F_SEAL_SHRINK | _F_SEAL_GROW)
        try:
            self.memory = mmap.mmap(descriptor, size)
            #: Where it lies in this process.
            self.address = address_of(np.frombuffer(self.memory, np.uint8))
            door.ask(ARENA, struct.pack("<IQ", number, size), descriptor)
        finally:
            os.close(descriptor)


class Memory:
    """The arenas of this process. Used under the door's lock alone."""

    def __init__(self, door: Door):
        self._door = door
        self._next = 0
        self._free: List[Arena] = []
        # Filled whenever an array goes, in whatever thread that happens: no lock may be taken there.
        self._returned: Deque[Arena] = collections.deque()
        #: Each root and its arena, by the address of both.
        self._lent: Dict[int, Tuple["weakref.ref[Any]", Arena]] = {}

    def lend(self, size: int) -> np.ndarray:
        """A root: bytes of an arena of its own, at least so many; what they hold is left from before."""
        self._collect()
        wanted = max(_SMALLEST_BYTES, 1 << max(size - 1, 1).bit_length())
        for at, arena in enumerate(self._free):
            if arena.size == wanted:
                del self._free[at]
                break
        else:
            self._next += 1
            arena = Arena(self._next, wanted, self._door)
        root = np.frombuffer(arena.memory, np.uint8)
        self._lent[arena.address] = (weakref.ref(root), arena)
        weakref.finalize(root, self._returned.append, arena).atexit = False
        return root

    def place_of(self, array: np.ndarray) -> Optional[Place]:
        """Where an array lies, if it lies in an arena in one piece."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        found = self._lent.get(address_of(root))
        if found is None or found[0]() is not root or not (array.flags.c_contiguous and array.dtype.isnative):
            return None
        return (found[1].number, address_of(array) - found[1].address, array.nbytes)

    def whole(self, root: np.ndarray) -> Place:
        """The place of a root."""
        return (self._lent[address_of(root)][1].number, 0, root.nbytes)

    def _collect(self) -> None:
        """Takes back the arenas whose arrays are gone, and lets go of those that are too many."""
        while self._returned:
            arena = self._returned.popleft()
            self._lent.pop(arena.address, None)
            self._free.append(arena)
        while sum(arena.size for arena in self._free) > _KEPT_BYTES:
            arena = self._free.pop(0)
            self._door.ask(RELEASE, struct.pack("<I", arena.number))


def address_of(array: np.ndarray) -> int:
    """Where an array begins."""
    return int(array.__array_interface__["data"][0])


def memory_file(name: str, size: int, seals: int, content: Optional[bytes] = None) -> int:
    """A sealed memory file; its descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if content is None:
            os.ftruncate(descriptor, size)
        else:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, _F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unchangeable_file(content: bytes) -> int:
    """A memory file with that content, sealed against every change; its descriptor."""
    return memory_file("triscore-model", 0, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_WRITE, content)
