# Messages of peers' engines.
from hooker.engine.worker cimport flow, stretch, worker
from hooker.flow.messages cimport Message
from hooker.transports.contract cimport Association

cdef int runs_init(worker *w) noexcept nogil                  # 0, or -1: no memory
cdef void runs_free(worker *w) noexcept nogil
# stable: what it points to stays until flush_runs()
cdef void on_message(worker *w, Association *a, const Message *m, bint stable) noexcept nogil
cdef void flush_run(worker *w, stretch *r) noexcept nogil
cdef void flush_runs(worker *w) noexcept nogil                # before the memory of a batch of datagrams is used again
cdef void meet_early(worker *w, flow *f) noexcept nogil       # OPENs that came before this server's flow
