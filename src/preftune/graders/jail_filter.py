"""The system calls that a python grader is refused: no socket, no process, no door out.

A filter in the kernel, set by the process itself before it reads a line of the grader's source,
and never taken off. This module and its neighbours `jail_*` run in a bare interpreter: they import
the standard library alone.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator

X86, ARM = "x86_64", "aarch64"
AUDIT_ARCH = {X86: 0xC000003E, ARM: 0xC00000B7}
REFUSED = {  # name: (number on x86_64, number on aarch64); -1: that machine has none
    "socket": (41, 198),  # a namespace alone leaves vsock open
    "io_uring_setup": (425, 425),  # opens sockets past this filter
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),  # memory that the limit of the address space does not see
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
}
WRITES = {  # refused besides where graders have no root of their own
    "creat": (85, -1),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "rmdir": (84, -1),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "truncate": (76, 45),
    "openat2": (437, 437),  # its flags lie where a filter cannot look
}
OPEN, OPENAT = (2, -1), (257, 56)  # their flags are the second and the third argument
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE, CLONE3, PRCTL = (56, 220), (435, 435), (157, 167)
CLONE_THREAD = 0x10000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
MODE_FILTER = 2

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # bytes into what the kernel shows the filter
ALLOW, KILL = 0x7FFF0000, 0x80000000
X32 = 0x40000000  # calls of a third, older kind on x86_64

Step = tuple[int, int, int, int]  # operation, skipped if true, skipped if false, operand


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Instruction)))


class Filter:
    """The filter of this machine, made once and set in each process that runs a grader."""

    def __init__(self, *, read_only: bool) -> None:
        """Build the program.

        Args:
            read_only: refuse to open files for writing, to make, move and delete them.

        Raises:
            OSError: the kernel's numbers on this machine are not known here.
        """
        machine = platform.machine()
        if machine not in AUDIT_ARCH:
            raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
        steps = list(_steps((X86, ARM).index(machine), read_only))
        self._steps = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
        self._program = _Program(len(steps), self._steps)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def set(self) -> None:
        """Set it in this process and all its threads to come; it cannot be taken off.

        Raises:
            OSError: the kernel has no such filters.
        """
        self._prctl(PR_SET_NO_NEW_PRIVS, 1)
        self._prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(self._program))

    def die_with_parent(self) -> None:
        """Ask the kernel to kill this process when its parent ends; the filter keeps it so."""
        self._prctl(PR_SET_PDEATHSIG, 9)

    def _prctl(self, option: int, *arguments: object) -> None:
        if self._libc.prctl(option, *arguments, *(0,) * (4 - len(arguments))) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl {option}: {errno.errorcode.get(code, code)}")


def _steps(at: int, read_only: bool) -> Iterator[Step]:
    """Yield the program of machine 0 or 1; what looks at an argument also decides there."""
    yield LOAD, 0, 0, ARCH_AT
    yield EQUAL, 1, 0, AUDIT_ARCH[(X86, ARM)[at]]
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER_AT
    if at == 0:
        yield AT_LEAST, 0, 1, X32
        yield _refuse(errno.EPERM)
    for numbers in (REFUSED | WRITES if read_only else REFUSED).values():
        if numbers[at] >= 0:
            yield EQUAL, 0, 1, numbers[at]
            yield _refuse(errno.EACCES)
    yield EQUAL, 0, 1, CLONE3[at]
    yield _refuse(errno.ENOSYS)  # the C library then takes clone, whose flags can be read
    for argument, numbers in enumerate((OPEN, OPENAT) if read_only else (), start=1):
        if numbers[at] >= 0:
            yield EQUAL, 0, 4, numbers[at]
            yield LOAD, 0, 0, FIRST_ARGUMENT_AT + 8 * argument
            yield ANY_BIT, 0, 1, WRITING
            yield _refuse(errno.EROFS)
            yield RETURN, 0, 0, ALLOW
    yield EQUAL, 0, 4, CLONE[at]
    yield LOAD, 0, 0, FIRST_ARGUMENT_AT
    yield ANY_BIT, 0, 1, CLONE_THREAD
    yield RETURN, 0, 0, ALLOW
    yield _refuse(errno.EACCES)
    yield EQUAL, 0, 3, PRCTL[at]
    yield LOAD, 0, 0, FIRST_ARGUMENT_AT
    yield EQUAL, 0, 1, PR_SET_PDEATHSIG
    yield _refuse(errno.EPERM)
    yield RETURN, 0, 0, ALLOW


def _refuse(code: int) -> Step:
    return RETURN, 0, 0, 0x00050000 | code
