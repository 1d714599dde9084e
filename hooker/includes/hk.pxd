# The kernel programs' header, as C sees it: nothing is typed twice, only named.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "hooker_kern_user.h" nogil:
    enum:
        HK_ROLE_CLIENT
        HK_ROLE_SERVER
        HK_ROLE_UNANSWERED
        HK_OPT_KIND
        HK_OPT_LEN
        HK_ROOMY
        HK_OPT_EXID
        HK_OPT_VERSION_SEGMENTS
        HK_OPT_VERSION_MESSAGES
        HK_APP_CLOSED
        HK_APP_ABORTED
        HK_APP_LINGERS
        HK_APP_RESET
        HK_MODE_PASS
        HK_MODE_REDIRECT
        HK_FRAME_MAGIC
        HK_EVENT_SYN
        HK_EVENT_ESTABLISHED
        HK_EVENT_CLOSED
        HK_EVENT_STEERED
        HK_STEERED_REPAIR
        HK_STEERED_SIGNED
        HK_STEERED_STALLED
        HK_WANT_TCP
        HK_WANT_MARK
        HK_CONTROL_NONE
        HK_CONTROL_OWN
        HK_CONTROL_QUEUE
        HK_WANT_NEVER
        HK_WANT_LEFT
        HK_HOLD_NONE
        HK_HOLD_ALL
        HK_HOLD_WIRE
        HK_ASLEEP
        HK_DOZING
        HK_AWAKE
        HK_DOZE_NS
        HK_MARK_BASE
        HK_MARK_OTHER
        HK_MARK_OWN
        HK_BLOCKED_V4
        HK_BLOCKED_V6
        HK_OFFER_MOST
        HK_RULES
        HK_TRANSPORT_VTL
        HK_TCP_SACK
        HK_TCP_WSCALE
        HK_TCP_TIMESTAMPS
        HK_ADOPT_DONE
        HK_ADOPT_BLOCKING
        HK_ADOPT_REFUSED
        HK_ADOPT_ZEROCOPY

    struct hk_flow:
        uint64_t flow_id
        uint32_t marked
        uint32_t marks
        uint32_t snd_una
        uint32_t snd_nxt
        uint32_t rcv_nxt
        uint32_t snd_wnd
        uint32_t rcv_wnd
        uint32_t ts_recent
        uint32_t mss
        uint32_t app_closed
        uint32_t steered
        uint32_t closed_at
        uint32_t transport
        uint32_t rule
        uint32_t want
        uint32_t hold
        uint32_t burst
        uint32_t control

    struct hk_redirect:
        uint64_t flow_id
        uint64_t redirected
        uint64_t spill_at
        uint64_t passed
        uint32_t mode
        uint32_t spills
        uint64_t consumed
        uint64_t resume
        uint64_t credit
        uint32_t allowed

    struct hk_frame:
        uint64_t flow_id
        uint32_t length
        uint32_t magic

    struct hk_key:
        uint8_t local_ip[16]
        uint8_t remote_ip[16]
        uint16_t local_port
        uint16_t remote_port
        uint32_t zero

    struct hk_peer:
        uint8_t ip[16]
        uint16_t port
        uint16_t zero

    struct hk_warm:
        uint64_t since
        uint16_t instance
        uint16_t cooled

    struct hk_attention:
        uint32_t state
        uint32_t lost
        uint32_t blocked
        uint32_t crowded
        uint64_t looked

    struct hk_event:
        uint32_t type
        uint32_t slot
        uint64_t flow_id
        hk_key key
        uint64_t client_nonce
        uint64_t server_nonce
        uint64_t cookie
        uint32_t snd_nxt
        uint32_t rcv_nxt
        uint32_t snd_wnd
        uint32_t rcv_wnd
        uint32_t rtt_us
        uint32_t ts_recent
        uint16_t peer_port
        uint16_t mss
        uint8_t role
        uint8_t snd_wscale
        uint8_t rcv_wscale
        uint8_t tcp_options
        uint8_t early
        uint8_t cooled
        uint8_t transport
        uint8_t rule
