# SPDX-License-Identifier: BSD-3-Clause
"""Making a TUN: /dev/net/tun, its queues and offloads. Runs in the netns child, after it has entered.

The device is always made, never attached to: whoever attaches first defines the flags, so a pre-made device (a TAP by
rootlesskit, a TUN whose last owner is still closing it) is removed and the first queue opened exclusively. Between the
two another one may appear, or the old one still be leaving: that is tried again for `BUSY_TIME`.

Only a TUN with several queues is made multi-queue: the kernel then gives the device 256 of them, whatever is asked,
each with a queueing discipline of its own, which took 6 MB of kernel memory at a txqueuelen of 1000 (measured, Linux
6.18; 0.1 to 0.3 MB without). The flag is fixed for the device's life: one that shall have more queues is made anew.

With IFF_VNET_HDR a read gives up to 64 KB of one flow; what the kernel may put into it is set by TUNSETOFFLOAD, and a
kernel that does not know a bit refuses them all (USO: Linux 6.2). The header keeps its 10 bytes (TUNSETVNETHDRSZ).

Source: Linux include/uapi/linux/if_tun.h, drivers/net/tun.c; the numbers are the same on x86-64 and arm64.
"""

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable

from ts4nsnet.netns.model import NetnsError

DEVICE = "/dev/net/tun"
TUNGETFEATURES, TUNSETIFF, TUNGETIFF, TUNSETOFFLOAD = 0x800454CF, 0x400454CA, 0x800454D2, 0x400454D0
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x1, 0x100, 0x1000, 0x4000, 0x8000
_IFREQ = struct.Struct("16sH22x")
# CSUM | TSO4 | TSO6 | USO4 | USO6, then what older kernels know
OFFLOADS = (0x67, 0x07, 0x01, 0x00)

# ours: seconds; podman starts the next container 75 ms after the last one's end, in the same namespace
BUSY_TIME = 2.0
_RETRY_TIME = 0.02
# another made one of that name first; or deleted ours at once
_TAKEN = {errno.EBUSY, errno.EEXIST, errno.EBADFD}

_OPEN_ADVICE = {
    errno.ENOENT: "load the module and make the device: modprobe tun; mknod /dev/net/tun c 10 200; "
    "in a container give it --device /dev/net/tun",
    errno.ENODEV: "load the module: modprobe tun",
    errno.ENXIO: "load the module: modprobe tun",
    errno.EACCES: "let users open it: chmod 0666 /dev/net/tun",
    errno.EPERM: "the device cgroup forbids it: give the container --device /dev/net/tun",
}
_MAKE_ADVICE = {
    errno.EPERM: "the user namespace that owns the network namespace must give CAP_NET_ADMIN: run as its owner",
    errno.EBUSY: "end the program that keeps making a device of that name",
    errno.ENOTTY: f"{DEVICE} is no TUN device: rm it, then mknod /dev/net/tun c 10 200",
}


def choose_flags(features: int, queues: int) -> int:
    """The TUNSETIFF flags for a kernel with `features` (TUNGETFEATURES): VNET_HDR if it has it, MULTI_QUEUE if need be.

    Raises:
        OSError: ENOTSUP, when several queues are asked of a kernel without them.
    """
    if queues > 1 and not features & IFF_MULTI_QUEUE:
        raise OSError(errno.ENOTSUP, "this kernel's TUN has one queue only (TUNGETFEATURES)")
    return IFF_TUN | IFF_NO_PI | features & IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)


def choose_offloads(takes: Callable[[int], bool]) -> int:
    """The TUNSETOFFLOAD bits for a kernel that takes, or refuses, a set of them as a whole."""
    return next(bits for bits in OFFLOADS if takes(bits))


def make(name: str, queues: int, namespace: str, remove: Callable[[str, str], None]) -> tuple[list[int], bool, int]:
    """Make the TUN `name` in the network namespace this process is in.

    Args:
        name: a valid interface name.
        queues: how many fds to open.
        namespace: for error messages.
        remove: deletes a TUN or TAP of that name (in `namespace`), and refuses anything else.

    Returns:
        The fds (non-blocking, closed on exec), whether packets have the virtio_net_hdr, and the offload bits.

    Raises:
        NetnsError: also what `remove` raises; no fd is left open.
    """
    give_up_at = time.monotonic() + BUSY_TIME
    while True:
        if any(name == other for _, other in socket.if_nameindex()):
            remove(name, namespace)
        try:
            return _make_once(name, queues, namespace)
        except OSError as error:
            if error.errno not in _TAKEN or time.monotonic() > give_up_at:
                advice = _MAKE_ADVICE.get(error.errno or 0, "see the kernel's log (dmesg)")
                raise NetnsError(f"making the TUN {name}", namespace, error.strerror or "", advice) from None
        time.sleep(_RETRY_TIME)  # nothing tells when the name becomes free


def _make_once(name: str, queues: int, namespace: str) -> tuple[list[int], bool, int]:
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(_open(namespace))  # noqa: PERF401  those before a failure must be known, to be closed
        return fds, *_attach(fds, name)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _open(namespace: str) -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        advice = _OPEN_ADVICE.get(error.errno or 0, "see whether other programs can open it")
        raise NetnsError(f"opening {DEVICE}", namespace, error.strerror or "", advice) from None


def _attach(fds: list[int], name: str) -> tuple[bool, int]:
    """Make the device with the first of `fds`, attach the others; (has virtio_net_hdr, offload bits)."""
    features = struct.unpack("I", fcntl.ioctl(fds[0], TUNGETFEATURES, bytes(4)))[0]
    flags = choose_flags(features, len(fds))
    for fd in fds:
        exclusive = IFF_TUN_EXCL if fd == fds[0] else 0
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags | exclusive))
        got_name, got_flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
        if got_name.rstrip(b"\0") != os.fsencode(name) or (got_flags ^ flags) & (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR):
            raise OSError(errno.EPROTO, f"asked for flags {flags:#x}, the kernel made {got_name!r} with {got_flags:#x}")
    if not flags & IFF_VNET_HDR:
        return False, 0
    return True, choose_offloads(lambda bits: _takes(fds[0], bits))


def _takes(fd: int, bits: int) -> bool:
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, bits)
    except OSError:
        return bits == 0
    return True
