"""Whether an application's marked segments reach its twin, asked before there is no way back.

They do not where this host translates the remote address (DNAT in OUTPUT, as for a service of Kubernetes: the segment
goes to the translated address, which the twin does not have), or where a firewall lets packets to lo pass for known
addresses only. So the host sends one itself, with the mark: an ACK of the connection, old by two bytes, so that nothing
comes of it wherever it ends. The twin has counted it (tcp_info), or the flow stays on TCP.

The answer is kept for a while for the remote address and the service, since it costs three system calls. A rule may begin to
drop them meanwhile. So an engaged flow whose application has sent something, or must have acknowledged something, is looked at, until its twin has
counted a segment: if it has none, the host sends another one of those, and if that has not arrived a second later, none ever will.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.hk cimport HK_ROLE_CLIENT, hk_peer
from hooker.includes.linux cimport *
from hooker.engine.nudge cimport knock
from hooker.engine.polling cimport clock_ns
from hooker.engine.worker cimport REACHED, flow, worker

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    TCP_INFO = 11
    SEGS_IN = 140                # offset of tcpi_segs_in, <linux/tcp.h>
    PATIENCE = 50000000          # ns; over loopback it is there when sendto() returns, unless the CPU is busy
    LOOK_AGAIN = 100             # us
    GOOD_FOR = 10000000000       # ns
    FIRST_LOOK = 1500000000      # ns after it was engaged
    DOUBLINGS = 5                # of the time between looks, while the application has sent nothing
    ANSWER = 1000000000          # ns: a reset is no matter of a busy CPU


cdef uint32_t heard(int twin) noexcept nogil:
    """Segments that it has counted."""
    cdef uint8_t info[SEGS_IN + 4]
    cdef socklen_t n = sizeof(info)
    cdef uint32_t segments
    memset(info, 0, sizeof(info))
    if getsockopt(twin, IPPROTO_TCP, TCP_INFO, info, &n) < 0:
        return 0
    memcpy(&segments, info + SEGS_IN, 4)
    return segments


cdef void name(hk_peer *p, const flow *f) noexcept nogil:
    memset(p, 0, sizeof(hk_peer))
    memcpy(p.ip, f.est.key.remote_ip, 16)
    p.port = f.est.key.remote_port if f.est.role == HK_ROLE_CLIENT else f.est.key.local_port
    p.zero = f.est.role


cdef inline uint32_t place(const hk_peer *p) noexcept nogil:
    cdef uint64_t half[2]
    memcpy(half, p.ip, 16)
    return <uint32_t>(((half[0] ^ half[1] ^ p.port) * <uint64_t>0x9E3779B97F4A7C15) >> 40) & (REACHED - 1)


cdef bint twin_reached(worker *w, flow *f) noexcept nogil:
    cdef hk_peer p
    cdef uint32_t at
    cdef uint64_t until
    if w.mark == 0:
        return True              # a worker without rule and programs
    name(&p, f)
    at = place(&p)
    if w.reached_until[at] > w.now and memcmp(&w.reached[at], &p, sizeof(p)) == 0:
        return True
    knock(&w.nudger, &f.est, w.mark)
    until = clock_ns() + PATIENCE
    while True:
        f.heard = heard(f.twin)
        if f.heard:
            break
        if clock_ns() > until:
            return False
        usleep(LOOK_AGAIN)
    w.reached[at] = p
    w.reached_until[at] = w.now + GOOD_FOR
    return True


cdef void ask_next_time(worker *w, const flow *f) noexcept nogil:
    cdef hk_peer p
    name(&p, f)
    if memcmp(&w.reached[place(&p)], &p, sizeof(p)) == 0:
        w.reached_until[place(&p)] = 0


cdef uint64_t twin_first_look(const worker *w) noexcept nogil:
    return w.now + FIRST_LOOK if w.mark else UINT64_MAX


cdef bint twin_cut_off(worker *w, flow *f) noexcept nogil:
    if f.resume or f.received or f.hup or f.twin < 0 or heard(f.twin) != f.heard:
        f.look_at = UINT64_MAX   # something has come
    elif f.asked:
        ask_next_time(w, f)
        return True
    elif f.bytes_in or f.fin_done or hk_load32(&f.rec.marked):
        f.asked = True           # it may be under way still: an answer decides
        knock(&w.nudger, &f.est, w.mark)
        f.look_at = w.now + ANSWER
    else:
        f.looks += f.looks < DOUBLINGS
        f.look_at = w.now + (<uint64_t>FIRST_LOOK << f.looks)
    return False
