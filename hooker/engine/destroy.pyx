"""Ends an application's socket that a reset might not reach: a rule of this host may drop it.

By sock_diag's SOCK_DESTROY (<linux/sock_diag.h>), as `ss --kill` does; the application sees ECONNABORTED. The socket is named by
its cookie, too: by the addresses alone the kernel would take a listener for it. A kernel without CONFIG_INET_DIAG_DESTROY refuses.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport hk_event
from hooker.includes.ip cimport is_v4
from hooker.includes.linux cimport *

cdef extern from * nogil:
    """
    #include <linux/netlink.h>
    #include <linux/sock_diag.h>
    #include <linux/inet_diag.h>
    struct hk_destroy { struct nlmsghdr head; struct inet_diag_req_v2 request; };
    """
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
    struct inet_diag_sockid:
        uint16_t idiag_sport
        uint16_t idiag_dport
        uint32_t idiag_src[4]
        uint32_t idiag_dst[4]
        uint32_t idiag_cookie[2]
    struct inet_diag_req_v2:
        uint8_t sdiag_family
        uint8_t sdiag_protocol
        uint32_t idiag_states
        inet_diag_sockid id
    struct hk_destroy:
        nlmsghdr head
        inet_diag_req_v2 request
    enum:
        AF_NETLINK
        NETLINK_SOCK_DIAG
        NLM_F_REQUEST
        SOCK_DESTROY


cdef void put_address(uint32_t *to, const uint8_t *ip, bint v4) noexcept nogil:
    memcpy(to, ip + (12 if v4 else 0), 4 if v4 else 16)


cdef void fill(hk_destroy *m, const hk_event *est) noexcept nogil:
    cdef bint v4 = is_v4(est.key.remote_ip)
    memset(m, 0, sizeof(hk_destroy))
    m.head.nlmsg_len = sizeof(hk_destroy)
    m.head.nlmsg_type = SOCK_DESTROY
    m.head.nlmsg_flags = NLM_F_REQUEST
    m.request.sdiag_family = AF_INET if v4 else AF_INET6
    m.request.sdiag_protocol = IPPROTO_TCP
    m.request.idiag_states = 0xFFFFFFFF
    m.request.id.idiag_sport = htons(est.key.local_port)
    m.request.id.idiag_dport = htons(est.key.remote_port)
    put_address(m.request.id.idiag_src, est.key.local_ip, v4)
    put_address(m.request.id.idiag_dst, est.key.remote_ip, v4)
    m.request.id.idiag_cookie[0] = <uint32_t>est.cookie
    m.request.id.idiag_cookie[1] = <uint32_t>(est.cookie >> 32)


cdef int destroyer_open() noexcept nogil:
    cdef int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG)
    return fd if fd >= 0 else -errno


cdef bint socket_destroy(int fd, const hk_event *est) noexcept nogil:
    cdef hk_destroy m
    fill(&m, est)
    return send(fd, &m, sizeof(m), MSG_DONTWAIT) == sizeof(m)
