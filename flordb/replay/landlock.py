"""Landlock (Linux 5.13 or newer): the kernel refuses this process, and those that it starts, to
write outside of some folders. Unlike `flordb.replay.namespace` it is allowed nearly everywhere,
also in containers; but it only refuses, it makes no private copies. See landlock(7).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_SYS_CREATE, _SYS_ADD, _SYS_RESTRICT = 444, 445, 446
_GET_VERSION, _RULE_PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_CHANGE_FOLDERS = sum(1 << bit for bit in range(4, 13))  # remove and make, of each kind
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3


def restrict(writable: Iterable[str]) -> bool:
    """From now on refuse writes outside these files and folders. False: there is no Landlock here.

    Raises OSError where it has, and it does not work.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = _version(libc)
    if version < 1:
        return False
    access = _WRITE_FILE | _CHANGE_FOLDERS
    access |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = ctypes.c_uint64(access)
    size = ctypes.c_size_t(ctypes.sizeof(handled))
    create = ctypes.c_long(_SYS_CREATE)
    rules = libc.syscall(create, ctypes.byref(handled), size, ctypes.c_uint32(0))
    _check(rules, "landlock_create_ruleset")
    try:
        for path in writable:
            _allow(libc, rules, path, access)
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        result = libc.syscall(ctypes.c_long(_SYS_RESTRICT), rules, ctypes.c_uint32(0))
        _check(result, "landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _version(libc: ctypes.CDLL) -> int:
    if not hasattr(libc, "prctl"):
        return 0  # not Linux
    create, flags = ctypes.c_long(_SYS_CREATE), ctypes.c_uint32(_GET_VERSION)
    version: int = libc.syscall(create, None, ctypes.c_size_t(0), flags)
    return version


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _allow(libc: ctypes.CDLL, rules: int, path: str, access: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it does not exist, so nothing is written in it
    if not os.path.isdir(path):
        access &= _WRITE_FILE | _TRUNCATE
    rule = _PathBeneath(access, folder)
    add, kind = ctypes.c_long(_SYS_ADD), ctypes.c_int(_RULE_PATH_BENEATH)
    result = libc.syscall(add, rules, kind, ctypes.byref(rule), ctypes.c_uint32(0))
    os.close(folder)
    _check(result, f"landlock_add_rule {path}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
