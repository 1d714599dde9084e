/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One module of all programs of an engine that takes messages: those of one that takes segments (segments.c), whose flows are
 * held and pinned. What non-blocking sockets send then does not become segments: it goes to the engine as it is.
 */
#include <linux/bpf.h>
#include "hooker_kern_user.h"
#define HK_SPEAKS HK_OPT_VERSION_MESSAGES
#define HK_REDIRECTS
#include "maps.h"
#include "events.h"
#include "siphash.h"
#include "policy.h"
#include "option.h"
#include "socket.h"
#include "handshake.h"
#include "shown.c"
#include "redirects.h"
#include "marking.c"
#include "defer.c"
#include "adopt.c"
#include "redirect.c"
#include "zerocopy.h"
#include "steering.c"
#include "payload.h"
#include "guard.c"
#include "entrance.c"
#include "restore.c"
