"""Which memory has been written since: asked of the kernel, so that no write can be overlooked.

A frozen tensor need not be hashed again if nobody wrote to it. torch's version counters do not know
(writes through ``.data``, NumPy views and extensions leave them as they are), but the page tables
do. Linux 6.7 and later protect chosen pages against writing, lift the protection silently at the
first write (userfaultfd in its asynchronous mode), and tell which pages are still protected
(``PAGEMAP_SCAN``). Where the kernel or a sandbox refuses, `WriteWatch.available` is False and
everything is hashed every time.

What the page tables do not see are other processes that write to shared memory or to a file that is
mapped (neither is watched), and devices that write to pinned memory (callers must not watch that).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from bisect import bisect_right
from typing import Any

_SYSCALL = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_UFFD_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_WRITEPROTECT = 0xC018AA06
_FEATURES = (1 << 13) | (1 << 15)  # WP_UNPOPULATED, WP_ASYNC
_MODE_WP = 2
_PAGEMAP_SCAN = 0xC0606610
_CHECK_WPASYNC = 2
_WRITTEN = 1 << 1


class WriteWatch:
    """Ranges of memory whose pages are protected until somebody writes to them."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGESIZE")
        self._uffd = self._pagemap = -1
        # The kernel writes the first page that it finds here.
        self._found = (ctypes.c_uint64 * 3)()
        self._private: list[tuple[int, int]] = []
        self._control: Any = None
        try:
            self._open()
        except (OSError, KeyError, ValueError):
            self.close()

    def _open(self) -> None:
        if sys.platform != "linux":
            raise OSError("only Linux has userfaultfd")
        import fcntl

        self._control = fcntl.ioctl
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
        libc = ctypes.CDLL(None, use_errno=True)
        self._uffd = libc.syscall(_SYSCALL[platform.machine()], flags)
        if self._uffd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        self._control(self._uffd, _UFFD_API, bytearray(struct.pack("QQQ", 0xAA, _FEATURES, 0)))
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def available(self) -> bool:
        """Whether this machine can tell."""
        return self._pagemap >= 0

    def close(self) -> None:
        """Lift all protection."""
        for descriptor in (self._uffd, self._pagemap):
            if descriptor >= 0:
                os.close(descriptor)
        self._uffd = self._pagemap = -1

    def pages(self, address: int, size: int) -> tuple[int, int]:
        """The whole pages (start, end) in a range; only these can be watched."""
        start = -(-address // self._page) * self._page
        return start, max(start, (address + size) // self._page * self._page)

    def look(self) -> None:
        """Learn anew what memory is private to this process. Before the first `protect` of many."""
        self._private = []

    def protect(self, address: int, size: int) -> bool:
        """Watch the whole pages of a range from now on. Returns False where that is refused."""
        start, end = self.pages(address, size)
        if not self.available or start == end:
            return False
        try:
            if not self._is_private(start, end):
                return False
            register = struct.pack("QQQQ", start, end - start, _MODE_WP, 0)
            self._control(self._uffd, _UFFDIO_REGISTER, register)
            self._set_protected(start, end, True)
        except OSError:
            return False
        return True

    def release(self, address: int, size: int) -> None:
        """Let writes to a range be as fast as they were before `protect`."""
        if not self.available:
            return
        start, end = self.pages(address, size)
        try:
            self._set_protected(start, end, False)
        except OSError:
            return  # the memory was given back to the system meanwhile

    def question(self, address: int, size: int) -> bytearray:
        """What `untouched` asks of the kernel about a range."""
        return bytearray(
            struct.pack(
                "12Q",
                *(96, _CHECK_WPASYNC, *self.pages(address, size), 0),
                *(ctypes.addressof(self._found), 1, 1),
                *(0, _WRITTEN, 0, _WRITTEN),
            )
        )

    def untouched(self, question: bytearray) -> bool:
        """Whether no page of a protected range was written or dropped since.

        The kernel compares one bit a page here, and nothing else. That suffices because private
        memory without a file loses the bit with its content (`madvise`), and because the call fails
        where the range was mapped anew.
        """
        try:
            return bool(self._control(self._pagemap, _PAGEMAP_SCAN, question) == 0)
        except OSError:
            return False  # not the memory that was protected: it was mapped anew

    def _is_private(self, start: int, end: int) -> bool:
        """Whether a range is anonymous memory that no other process can write to."""
        if not self._private:
            self._private = _private_memory()
        at = bisect_right(self._private, (start, sys.maxsize)) - 1
        return at >= 0 and end <= self._private[at][1]

    def _set_protected(self, start: int, end: int, protected: bool) -> None:
        request = struct.pack("QQQ", start, end - start, int(protected))
        self._control(self._uffd, _UFFDIO_WRITEPROTECT, request)


def _private_memory() -> list[tuple[int, int]]:
    """The ranges of private memory without a file, those that adjoin as one."""
    found: list[tuple[int, int]] = []
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            place, permissions, _, _, inode, *_ = line.split(None, 5)
            if permissions[3] != "p" or inode != "0":
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
    return found
