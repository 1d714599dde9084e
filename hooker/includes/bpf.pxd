# The bpf(2) calls a worker makes itself.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <linux/bpf.h>
    #include <sys/syscall.h>
    #include <string.h>
    #include <unistd.h>
    #include <stdint.h>
    static inline int hk_bpf_elem(int cmd, int fd, const void *key, const void *value, uint64_t flags) {
        union bpf_attr a;
        memset(&a, 0, sizeof(a));
        a.map_fd = fd;
        a.key = (uint64_t)(uintptr_t)key;
        a.value = (uint64_t)(uintptr_t)value;
        a.flags = flags;
        return syscall(SYS_bpf, cmd, &a, sizeof(a));
    }
    """
    int hk_bpf_elem(int cmd, int fd, const void *key, const void *value, uint64_t flags)
    enum:
        BPF_MAP_UPDATE_ELEM
        BPF_MAP_DELETE_ELEM
