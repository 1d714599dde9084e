"""``none``: a block leaves once and is given back; it is not acknowledged, repeated, paced or held back.

Who gave it has the bytes still, and a TCP that repeats them and keeps from sending too much. Streams, control
frames and the association's own messages are repeated as ever. A PING goes along once a round trip, so that a
peer that is gone is noticed.
"""

from libc.string cimport memset
from hooker.vtl.reliability.interface cimport reliability_fill, reliability_ops
from hooker.vtl.wire cimport FR_BLOCK, FR_MESSAGE, frame_bit

cdef reliability_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.once = True
OPS.quiet = frame_bit(FR_BLOCK) | frame_bit(FR_MESSAGE)
reliability_fill(&OPS, b"none", 3)
