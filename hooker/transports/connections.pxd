# A transport whose associations are connections of the kernel's (connection.pyx), whatever their protocol.

from libc.stdint cimport uint8_t, uint32_t
from hooker.transports.connection cimport ConnectionKind
from hooker.transports.contract cimport Handle

cdef class ConnectionHandle(Handle):
    pass

# One of no worker yet. `name`: at most 32 letters of ASCII; `kind` stays where it is; `rx_size`: bytes that
# one read takes. Raises MemoryError; ConfigurationError when there is a key, for nothing of it is encrypted.
cdef ConnectionHandle connections_make(str name, uint8_t wire_id, int protocol, const ConnectionKind *kind,
                                       uint32_t properties, size_t rx_size, settings)
