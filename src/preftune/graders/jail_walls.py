"""The walls round python graders: namespaces where allowed, else an unprivileged user.

Either way the filter of `jail_filter` and the limits are set as well. What cannot be had raises
`NoWallsError`, and no grader runs.
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import TypedDict

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE, RELATIVE_TIMES = 32, 4096, 16384, 1 << 18, 1 << 21
KEPT_FLAGS = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS | 1024 | 2048  # of what is shown
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
FIRST_USER, USERS = 61184, 4336  # a range that no real user is in
INSIDE_USER = 65534  # our own user as seen in a user namespace
MOST_FILES = 4096  # in the temp folder
CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class NoWallsError(OSError):
    """Isolation cannot be had here; says why."""


class Limits(TypedDict):
    """What one grading may use."""

    deadline_s: float
    memory_bytes: int
    disk_bytes: int
    threads: int
    open_files: int


def build_walls(isolation: str, folder: str, shown: list[str], disk_bytes: int) -> tuple[str, int]:
    """Leave the world behind; return which walls stand and the user that graders run as.

    Args:
        isolation: auto, namespaces or user.
        folder: an empty folder of our own.
        shown: folders that stay readable: the interpreter's library.
        disk_bytes: size of the temp folder in namespaces.

    Raises:
        NoWallsError: what was asked for cannot be had.
    """
    is_root = os.geteuid() == 0
    user = FIRST_USER + os.getpid() % USERS if is_root else INSIDE_USER
    why = "not asked for"
    if isolation != "user":
        try:
            _own_namespaces(is_root)
            _own_root(folder, [*shown, *SYSTEM_LIBRARIES], disk_bytes, user)
            return "namespaces", user
        except OSError as error:
            why = f"{error.filename or 'unshare'}: {error.strerror}"
    if isolation == "namespaces" or not is_root:
        raise NoWallsError(f"no namespaces ({why})")
    if closed := [one for path in shown for one in _closed(Path(path))]:
        raise NoWallsError(
            f"no namespaces ({why}), and others than root may not enter {closed[0]}, where the "
            "interpreter is"
        )
    os.chdir(folder)
    return "user", user


def drop_rights(user: int) -> None:
    """Become the unprivileged user, for good."""
    if user != INSIDE_USER:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def limit(limits: Limits) -> None:
    """Set the limits of this process; a hard limit cannot be raised again."""
    cpu_s = int(limits["deadline_s"]) + 1
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"]),
        (resource.RLIMIT_NPROC, limits["threads"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        kept = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (kept, kept))


def _own_namespaces(is_root: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    flags = NEW_MOUNTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
    _check(_libc.unshare(flags if is_root else flags | NEW_USER), "unshare")
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INSIDE_USER} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{INSIDE_USER} {group} 1")


def _own_root(folder: str, shown: list[str], disk_bytes: int, user: int) -> None:
    """Make the folder the root of all files: what is shown, read-only, and one of its own.

    That is /tmp, unless something shown lies in there: then /scratch, which `tempfile` takes too.
    """
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", folder, "tmpfs", NO_SETUID | NO_DEVICES, "size=1m,mode=755")
    for path in shown:
        if Path(path).is_dir() and not Path(path).is_symlink():
            _show(path, folder + path)
        elif Path(path).is_symlink():
            Path(folder + path).symlink_to(Path(path).readlink())
    temp = Path(folder, "tmp")
    if temp.exists():
        temp = Path(folder, "scratch")
    temp.mkdir()
    size = f"size={disk_bytes},nr_inodes={MOST_FILES},mode=700,uid={user},gid={user}"
    _mount("tmpfs", str(temp), "tmpfs", NO_SETUID | NO_DEVICES | NO_PROGRAMS, size)
    _mount(None, folder, None, REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)
    os.chroot(folder)
    os.chdir("/")
    os.chdir(temp.name)


def _show(path: str, target: str) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    _mount(path, target, None, BIND | RECURSIVE)
    found = os.statvfs(path).f_flag
    flags = found & KEPT_FLAGS | READ_ONLY | NO_SETUID | NO_DEVICES
    flags |= RELATIVE_TIMES if found & 4096 else 0
    _mount(None, target, None, REMOUNT | BIND | flags)


def _closed(path: Path) -> list[Path]:
    """Return the folders on the way to a path that others than root may not enter, top first."""
    way = [*reversed(path.parents), path]
    return [one for one in way if not one.stat().st_mode & 0o001]


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    encoded = [None if part is None else part.encode() for part in (source, target, kind)]
    done = _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None)
    _check(done, f"mount {target}")


def _check(done: int, what: str) -> None:
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
