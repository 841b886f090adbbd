# SPDX-License-Identifier: BSD-3-Clause
"""The system's structures and calls, as the compiled modules use them."""

from libc.stdint cimport uint16_t, uint32_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

    ssize_t writev(int fd, const iovec* vectors, int count)


cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t size)


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags

    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    enum:
        AF_INET
        AF_INET6
        MSG_DONTWAIT

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type


cdef extern from "<netinet/in.h>" nogil:
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int what, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int size, int milliseconds)


cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

    int clock_gettime(int clock, timespec* now)
    enum:
        CLOCK_BOOTTIME


cdef enum:
    # <linux/udp.h>; some are newer than the C library's headers
    SOL_UDP = 17
    UDP_SEGMENT = 103
    UDP_GRO = 104


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
        MAP_POPULATE
        MAP_SHARED
    void* MAP_FAILED
    void* mmap(void* at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void* at, size_t size)
