/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One module of all programs of an engine that takes messages; the loader puts the local includes in place (BCC rewrites
 * only one file).
 */
#include <linux/bpf.h>
#include "hooker_kern_user.h"
#define HK_SPEAKS HK_OPT_VERSION_MESSAGES
#define HK_RECORD struct hk_flow
#define HK_REDIRECTS struct hk_flow
#include "maps.h"
#include "events.h"
#include "siphash.h"
#include "policy.h"
#include "option.h"
#include "socket.h"
#include "handshake.h"
#include "shown.c"
#include "intercept.c"
#include "defer.c"
#include "adopt.c"
#include "redirect.c"
#include "payload.h"
#include "hold.c"
#include "zerocopy.h"
#include "sockopt.c"
