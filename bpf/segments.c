/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One module of all programs of an engine that takes segments. Nothing is redirected, and nothing held back unless it is
 * asked for: a connection begins on TCP, and a mark on its socket leads its segments to the engine's device, or no mark to
 * the wire.
 */
#include <linux/bpf.h>
#include "hooker_kern_user.h"
#define HK_SPEAKS HK_OPT_VERSION_SEGMENTS
#include "maps.h"
#include "events.h"
#include "siphash.h"
#include "policy.h"
#include "option.h"
#include "socket.h"
#include "handshake.h"
#include "shown.c"
#include "marking.c"
#include "defer.c"
#include "steering.c"
#include "payload.h"
#include "guard.c"
#include "entrance.c"
#include "restore.c"
