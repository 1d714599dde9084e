"""How an engaged flow ends: with both ends of data, or by a reset on both sides."""

from libc.stdint cimport uint32_t
from hooker.engine.backlog cimport backlog_drop
from hooker.engine.flowtable cimport flow_arm, held_remove, maybe_done, tell
from hooker.engine.nudge cimport forget, hang_up
from hooker.engine.twin cimport twin_abort, twin_discard, twin_finish
from hooker.engine.worker cimport *
from hooker.includes.hk cimport *
from hooker.includes.linux cimport *
from hooker.vtl.endpoint cimport vtl_reset

cdef enum:
    RESET_APPLICATION = 1         # of RESET_STREAM, beside RESET_ENGINE
    RESET_ARRIVES = 1000000000    # ns


cdef void end(worker *w, flow *f, int why) noexcept nogil:
    """The flow needs its twin no more; the record stays until the application's socket is closed."""
    if f.ended:
        return
    f.ended = True
    held_remove(w, f)
    if f.state == HK_STATE_ENGAGED:
        f.why = why
        w.n.reasons[why] += 1
        w.n.ended[why] += 1
        w.n.closed += 1
        tell(w, f, N_CLOSED)
    maybe_done(w, f)


cdef void reset_application(worker *w, flow *f, int why) noexcept nogil:
    if f.twin >= 0:
        f.was_reset = True
        f.look_at = w.now + RESET_ARRIVES
        flow_arm(w, f)
    if f.twin >= 0 and hk_load32(&f.rec.app_closed) == HK_APP_ABORTED:
        twin_discard(f.twin)      # without a word: the addresses may be another connection's already
    elif f.twin >= 0:
        twin_abort(f.twin)
    f.twin = -1
    backlog_drop(w, f)
    if f.est.role == HK_ROLE_CLIENT and not f.accepted:
        hang_up(&w.nudger, &f.est)
    w.n.resets += 1
    end(w, f, why)


cdef void flow_abort(worker *w, flow *f, int why) noexcept nogil:
    if f.stream != NULL:
        vtl_reset(f.stream, RESET_ENGINE)
    reset_application(w, f, why)


cdef void flow_app_reset(worker *w, flow *f) noexcept nogil:
    if f.stream != NULL:
        vtl_reset(f.stream, RESET_APPLICATION)
    reset_application(w, f, R_APP_RESET)


cdef void close_twin(flow *f) noexcept nogil:
    if hk_load32(&f.rec.app_closed):
        twin_abort(f.twin)        # nothing is left that a reset could harm
    else:
        twin_finish(f.twin)
    f.twin = -1


cdef void end_time_wait(worker *w, flow *f) noexcept nogil:
    """Nothing of ours outlives the flow: both FINs are acknowledged, and there is no path with old segments."""
    if f.fin_sent and f.twin < 0 and hk_load32(&f.rec.app_closed) == HK_APP_LINGERS:
        f.fin_sent = False
        forget(&w.nudger, &f.est, f.est.rcv_nxt + <uint32_t>f.bytes_in + 1, f.est.snd_nxt + <uint32_t>f.resume + 1)


cdef void flow_fin(worker *w, flow *f) noexcept nogil:
    """All bytes of the peer have been handed over: say so to the application, if it is there to hear it."""
    f.fin_done = True
    if f.eof and not f.late and hk_load32(&f.rec.app_closed):
        close_twin(f)             # spares it TIME_WAIT, and both sockets the exchange of FIN and ACK
    else:
        f.fin_sent = True
        shutdown(f.twin, SHUT_WR)
    flow_check_end(w, f)


cdef void flow_check_end(worker *w, flow *f) noexcept nogil:
    if f.stream == NULL and f.eof and f.fin_done:
        if f.twin >= 0:
            close_twin(f)
            end_time_wait(w, f)
        end(w, f, R_CLOSED)
