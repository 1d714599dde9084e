# What the engine takes from libc and the kernel's UAPI.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN
        EINTR
        EMSGSIZE
        EINVAL
        EIO
        EADDRNOTAVAIL
        EADDRINUSE
        EINPROGRESS
        ECONNREFUSED
        ETIMEDOUT
        EAFNOSUPPORT
        EMFILE
        ENFILE
        ENOBUFS
        ENOMEM
        ENXIO
        EOPNOTSUPP

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buf, size_t n)
    ssize_t write(int fd, const void *buf, size_t n)
    long syscall(long number, ...)
    long sysconf(int name)
    enum:
        _SC_PAGESIZE

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    enum:
        CLOCK_MONOTONIC

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct linger:
        int l_onoff
        int l_linger
    cmsghdr *CMSG_FIRSTHDR(msghdr *m)
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c)
    void *CMSG_DATA(cmsghdr *c)
    size_t CMSG_SPACE(size_t n)
    size_t CMSG_LEN(size_t n)
    int socket(int family, int type, int protocol)
    int bind(int fd, const sockaddr *addr, socklen_t n)
    int connect(int fd, const sockaddr *addr, socklen_t n)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr *addr, socklen_t *n, int flags)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr *addr, socklen_t *n)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *n)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    ssize_t sendto(int fd, const void *buf, size_t n, int flags, const sockaddr *to, socklen_t tolen)
    ssize_t recvmsg(int fd, msghdr *m, int flags)
    ssize_t sendmsg(int fd, const msghdr *m, int flags)
    int sendmmsg(int fd, mmsghdr *m, unsigned int n, int flags)
    int recvmmsg(int fd, mmsghdr *m, unsigned int n, int flags, timespec *timeout)
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_STREAM
        SOCK_DGRAM
        SOCK_RAW
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_MARK
        SO_ERROR
        SO_REUSEADDR
        SHUT_WR
        SO_LINGER
        SO_RCVBUF
        SO_RCVBUFFORCE
        SO_SNDBUFFORCE
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_ERRQUEUE

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t v)
    uint16_t ntohs(uint16_t v)
    enum:
        IPPROTO_IP
        IPPROTO_IPV6
        IPPROTO_TCP
        IPPROTO_UDP
        IPPROTO_RAW
        IP_RECVERR
        IP_TOS
        IP_RECVTOS
        IPV6_TCLASS
        IPV6_RECVTCLASS
        IP_PKTINFO
        IPV6_PKTINFO
        IPV6_RECVPKTINFO
        IP_MTU_DISCOVER
        IPV6_V6ONLY
        IPV6_RECVERR
        IPV6_MTU_DISCOVER

cdef extern from "<netinet/udp.h>" nogil:
    enum:
        UDP_SEGMENT
        UDP_GRO

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int ep, int op, int fd, epoll_event *ev)
    int epoll_wait(int ep, epoll_event *ev, int n, int timeout)
    enum:
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
    unsigned int EPOLLET

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *m, void *attr)
    int pthread_mutex_lock(pthread_mutex_t *m)
    int pthread_mutex_unlock(pthread_mutex_t *m)
    int pthread_mutex_clocklock(pthread_mutex_t *m, int clock, const timespec *until)
    unsigned long pthread_self()
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    enum:
        PTHREAD_CREATE_DETACHED
    int pthread_attr_init(pthread_attr_t *a)
    int pthread_attr_setdetachstate(pthread_attr_t *a, int state)
    int pthread_attr_setstacksize(pthread_attr_t *a, size_t size)
    int pthread_attr_destroy(pthread_attr_t *a)
    int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *) noexcept nogil,
                       void *context)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_SETMASK
    int sigfillset(sigset_t *s)
    int pthread_sigmask(int how, const sigset_t *s, sigset_t *before)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
    int eventfd(unsigned int n, int flags)

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #include <sys/epoll.h>
    #include <stdint.h>
    #include <time.h>
    static inline int hk_epoll_wait_ns(int ep, struct epoll_event *ev, int n, uint64_t ns) {
        struct timespec ts = { ns / 1000000000ull, ns % 1000000000ull };
        return syscall(SYS_epoll_pwait2, ep, ev, n, ns == UINT64_MAX ? (void *)0 : &ts, (void *)0, 0);
    }
    static inline uint32_t hk_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t hk_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void hk_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void hk_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint32_t hk_subtract32(uint32_t *p, uint32_t v)
    { return __atomic_sub_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline void hk_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    int hk_epoll_wait_ns(int ep, epoll_event *ev, int n, uint64_t ns)
    uint32_t hk_load32(const uint32_t *p)
    uint64_t hk_load64(const uint64_t *p)
    void hk_store32(uint32_t *p, uint32_t v)
    void hk_store64(uint64_t *p, uint64_t v)
    uint32_t hk_subtract32(uint32_t *p, uint32_t v)      # what is left
    void hk_fence()

cdef extern from "<sched.h>" nogil:
    int sched_yield()
