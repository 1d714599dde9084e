"""Bodies of the handshake packets; the rest of the codec is inline in ``wire.pxd``."""

cdef bint read_init(Cursor *c, Init *out) noexcept nogil:
    """The body behind INIT's header. The cursor is left at the padding."""
    cdef const uint8_t *p = take(c, INIT_FIXED)
    if p == NULL:
        return False
    out.versions = p[0]
    out.max_ack_delay_us = load32(p + 4)
    out.max_data = load64(p + 8)
    out.max_stream_data = load64(p + 16)
    out.cookie_cid = load64(p + 24)
    out.cookie_time = load64(p + 32)
    out.cookie_mac = load64(p + 40)
    out.version_list = take(c, 4 * <size_t>out.versions)
    return out.version_list != NULL


cdef uint32_t write_init(uint8_t *p, const Init *i, uint32_t version) noexcept nogil:
    """Header and body of an INIT that offers one version; the caller pads. Returns its size."""
    write_header(p, PKT_INIT, 0, i.scid)
    p += HEADER_SIZE
    store32(p, 0)
    p[0] = 1
    store32(p + 4, i.max_ack_delay_us)
    store64(p + 8, i.max_data)
    store64(p + 16, i.max_stream_data)
    store64(p + 24, i.cookie_cid)
    store64(p + 32, i.cookie_time)
    store64(p + 40, i.cookie_mac)
    store32(p + 48, version)
    return HEADER_SIZE + INIT_FIXED + 4
