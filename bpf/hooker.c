/* SPDX-License-Identifier: GPL-2.0 */
/* One module of all programs; the loader puts the local includes in place (BCC rewrites only one file). */
#include <linux/bpf.h>
#include "hooker_kern_user.h"
#include "maps.h"
#include "events.h"
#include "siphash.h"
#include "policy.h"
#include "option.h"
#include "socket.h"
#include "defer.c"
#include "intercept.c"
#include "adopt.c"
#include "redirect.c"
#include "hold.c"
#include "sockopt.c"
