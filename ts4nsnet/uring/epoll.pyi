# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `epoll`, whose essay is in its source.

from ts4nsnet.uring.port import Port

class EpollPort(Port): ...
