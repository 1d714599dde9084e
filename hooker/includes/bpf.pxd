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
    static inline int hk_prog_run(int fd, const void *packet, uint32_t size, uint32_t *verdict) {
        union bpf_attr a;
        memset(&a, 0, sizeof(a));
        a.test.prog_fd = fd;
        a.test.data_in = (uint64_t)(uintptr_t)packet;
        a.test.data_size_in = size;
        if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &a, sizeof(a)) < 0)
            return -1;
        *verdict = a.test.retval;
        return 0;
    }
    """
    int hk_prog_run(int fd, const void *packet, uint32_t size, uint32_t *verdict)
    int hk_bpf_elem(int cmd, int fd, const void *key, const void *value, uint64_t flags)
    enum:
        BPF_MAP_LOOKUP_ELEM
        BPF_MAP_UPDATE_ELEM
        BPF_MAP_DELETE_ELEM
