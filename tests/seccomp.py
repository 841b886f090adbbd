# SPDX-License-Identifier: BSD-3-Clause
"""Kernels that refuse what this one does: a seccomp filter that makes system calls fail, for a child of the test.

What io_uring does for a process no such filter sees. Source: seccomp(2), <linux/seccomp.h>, <linux/filter.h>.
"""

import ctypes
import os
import platform
import select
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGKILL

TIME_LIMIT_MS = 30_000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
_NUMBERS = {
    "x86_64": {"writev": 20, "setsockopt": 54, "getsockopt": 55},
    "aarch64": {"writev": 66, "setsockopt": 208, "getsockopt": 209},
}
# classic BPF: load a word, jump if equal, jump if greater or equal, return
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ARGUMENTS_AT = 16  # of struct seccomp_data, 8 bytes each; the low half comes first on both of these machines


@dataclass(frozen=True)
class Refusal:
    """A system call that fails with `error` if arguments (by number) are `equal`, and others `at_least`, this."""

    call: str
    error: int
    equal: tuple[tuple[int, int], ...] = ()
    at_least: tuple[tuple[int, int], ...] = ()

    def program(self) -> list[tuple[int, int, int, int]]:
        """Instructions that go on behind their end where it does not apply."""
        tests = [(_EQUAL, 0, _NUMBERS[platform.machine()][self.call])]
        tests += [(_EQUAL, _ARGUMENTS_AT + 8 * number, value) for number, value in self.equal]
        tests += [(_AT_LEAST, _ARGUMENTS_AT + 8 * number, value) for number, value in self.at_least]
        code = []
        for left, (jump, at, value) in enumerate(reversed(tests)):
            code += [(jump, 0, 2 * left + 1, value), (_LOAD, 0, 0, at)]
        return [*reversed(code), (_RETURN, 0, 0, _ERRNO | self.error)]


def refuse(*refusals: Refusal) -> None:
    """Make these calls of this process fail from now on."""
    code = [each for refusal in refusals for each in refusal.program()] + [(_RETURN, 0, 0, _ALLOW)]
    instructions = b"".join(struct.pack("=HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(instructions)
    program = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def in_child(*refusals: Refusal, do: Callable[[], object]) -> None:
    """Do something in a child whose calls are refused; what it raises is part of the failure here."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            refuse(*refusals)
            do()
        except BaseException:  # noqa: BLE001  nothing may come out of this process but by the pipe
            os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    poll = select.poll()
    poll.register(read, select.POLLIN)
    text = b""
    while ready := poll.poll(TIME_LIMIT_MS):
        if not (piece := os.read(read, 1 << 16)):
            break
        text += piece
    if not ready:
        os.kill(pid, SIGKILL)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    assert (text.decode(), status) == ("", 0), text.decode()
