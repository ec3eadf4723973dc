"""A worker's own view of the file system (Linux): everything is read-only but what it may write,
and the project's root is an overlay, in which each change is a private copy.

The kernel keeps it, so it holds for C libraries and for other programs that a script starts, too.
It needs no privileges where user namespaces are allowed (Linux 5.12 or newer); where they are not,
`enter` raises OSError, and `replay.guard` takes the place of this module. See user_namespaces(7),
mount_setattr(2) and the kernel's documentation of overlayfs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE, _RDONLY = -100, 0x8000, 1
_PR_SET_PDEATHSIG = 1
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Layers:
    """What the overlay at ``root`` consists of: all paths are absolute.

    ``version``: a folder with the version's files, which stand before the root's own; ``upper``:
    an empty folder, or one with files that stand before both, which takes the changes; ``work``:
    an empty folder beside it, for the kernel; ``writable``: folders that stay writable.
    """

    root: str
    version: str
    upper: str
    work: str
    writable: tuple[str, ...]


def enter(layers: Layers) -> None:
    """Give this process, and those that it starts, the view. It must be single-threaded.

    Raises OSError where the kernel does not allow it.
    """
    below = [place for place in _mount_points() if place.startswith(layers.root + "/")]
    held = {place: os.open(place, os.O_PATH | os.O_CLOEXEC) for place in below}
    _unshare()
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _set_read_only("/", recursive=True)
    for folder in layers.writable:
        if os.path.isdir(folder):
            _mount(folder, folder, None, _MS_BIND | _MS_REC)
            _set_writable(folder)
    _overlay(layers.root, (layers.version, layers.root), layers.upper, layers.work)
    for number, (place, source) in enumerate(held.items()):
        _mount_again(place, source, layers, number)
        os.close(source)
    _drop_capabilities()


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def hide(path: Path) -> None:
    """Make a whiteout: where this layer is above another, ``path`` does not exist in the overlay.

    Raises OSError.
    """
    os.mknod(path, stat.S_IFCHR, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare() -> None:
    """Root needs no user namespace, and keeps its access to the files of others without one."""
    libc = _libc()
    if not hasattr(libc, "unshare"):
        raise OSError("this system has no mount namespaces")
    user, group = os.geteuid(), os.getegid()
    if user == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        return
    _check(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [os.fsencode(t) if t is not None else None for t in (source, target, kind, options)]
    result = _libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {target}")


def _overlay(target: str, lower: Iterable[str], upper: str, work: str) -> None:
    # By descriptors, because a path may hold what separates the options.
    paths = [*lower, upper, work]
    held = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths]
    names = [f"/proc/self/fd/{number}" for number in held]
    options = f"lowerdir={':'.join(names[:-2])},upperdir={names[-2]},workdir={names[-1]}"
    # Nothing in it outlives the replay, so nothing need be on the disk (volatile).
    options += ",userxattr,volatile"
    try:
        _mount("overlay", target, "overlay", 0, options)
    finally:
        for number in held:
            os.close(number)


def _mount_again(place: str, source: int, layers: Layers, number: int) -> None:
    """Show what was mounted below the root; to be changed where the kernel can overlay it."""
    if not os.path.isdir(place):
        return
    reference = f"/proc/self/fd/{source}"
    upper, work = (f"{folder}-{number}" for folder in (layers.upper, layers.work))
    try:
        os.mkdir(upper)
        os.mkdir(work)
        _overlay(place, (reference,), upper, work)
    except OSError:
        _mount(reference, place, None, _MS_BIND)
        _set_read_only(place, recursive=False)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "fd"))


def _set_attributes(path: str, set_: int, clear: int, recursive: bool) -> None:
    attributes = _MountAttributes(set_, clear, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    call = ctypes.c_long(_SYS_MOUNT_SETATTR)
    name = ctypes.c_char_p(os.fsencode(path))
    result = _libc().syscall(call, _AT_FDCWD, name, flags, ctypes.byref(attributes), size)
    _check(result, f"mount_setattr {path}")


def _set_read_only(path: str, recursive: bool) -> None:
    _set_attributes(path, _RDONLY, 0, recursive)


def _set_writable(path: str) -> None:
    try:
        _set_attributes(path, 0, _RDONLY, recursive=False)
    except PermissionError:
        return  # it was read-only before


def _mount_points() -> list[str]:
    """The folders where something is mounted, outer ones first."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    found = {line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in lines}
    return sorted(os.fsdecode(place) for place in found)


def _drop_capabilities() -> None:
    """The capabilities that came with the user namespace would let the script unmount it all."""
    if os.geteuid() == 0:
        return  # root had them before
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(_libc().capset(ctypes.byref(header), ctypes.byref(none)), "capset")
