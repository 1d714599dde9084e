"""Bodies of the handshake packets; the rest of the codec is inline in ``wire.pxd``."""

cdef bint read_init(Cursor *c, Init *out) noexcept nogil:
    """The body behind INIT's header. The cursor is left at the padding."""
    cdef const uint8_t *p = take(c, INIT_FIXED)
    if p == NULL:
        return False
    out.reliability = p[1]
    out.max_ack_delay_us = load32(p + 4)
    out.max_data = load64(p + 8)
    out.max_stream_data = load64(p + 16)
    out.cookie_cid = load64(p + 24)
    out.cookie_time = load64(p + 32)
    out.cookie_mac = load64(p + 40)
    return take_versions(c, p[0], &out.versions)


cdef void write_init(uint8_t *p, const Init *i) noexcept nogil:
    """Header and body of an INIT but for the list of versions, of which only the number is written."""
    write_header(p, PKT_INIT, 0, i.scid)
    p += HEADER_SIZE
    store32(p, 0)
    p[0] = i.versions.n
    p[1] = i.reliability
    store32(p + 4, i.max_ack_delay_us)
    store64(p + 8, i.max_data)
    store64(p + 16, i.max_stream_data)
    store64(p + 24, i.cookie_cid)
    store64(p + 32, i.cookie_time)
    store64(p + 40, i.cookie_mac)


cdef void write_versions(uint8_t *p, const uint32_t *version, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        store32(p + 4 * i, version[i])


cdef bint take_versions(Cursor *c, uint8_t n, Versions *out) noexcept nogil:
    out.n = n
    out.list = take(c, 4 * <size_t>n)
    return out.list != NULL


cdef uint32_t choose_version(const uint32_t *ours, uint32_t n, const Versions *theirs) noexcept nogil:
    cdef uint32_t i, j
    for i in range(n):
        for j in range(theirs.n):
            if load32(theirs.list + 4 * j) == ours[i]:
                return ours[i]
    return 0


cdef uint32_t accept_version(const Versions *theirs, const uint32_t *ours, uint32_t n) noexcept nogil:
    cdef uint32_t i, j
    for j in range(theirs.n):
        for i in range(n):
            if load32(theirs.list + 4 * j) == ours[i]:
                return ours[i]
    return 0


cdef bint any_encrypted(const Versions *v) noexcept nogil:
    cdef uint32_t i
    for i in range(v.n):
        if is_encrypted(load32(v.list + 4 * i)):
            return True
    return False
