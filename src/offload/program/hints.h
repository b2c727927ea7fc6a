/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Whether data looks like a call's, as `turn/hints.rs` has it; and counting what passes.
 */
#pragma once

#include "packet.h"

/* Packets of a direction that are looked at from the start on, and later one in so many. */
#define LOOKED_AT_FIRST 64
#define LOOKED_AT_LATER 256

/* Whether these bytes begin as those of a call do (RFC 7983). `data` has LOOKED_AT_LEN bytes, zeros behind `len`. */
INLINE int looks_like_a_call(const __u8 *data, __u32 len)
{
	if (len == 0)
		return 1;
	if (data[0] <= 3)
		return len >= 8 && data[4] == 0x21 && data[5] == 0x12 && data[6] == 0xA4 && data[7] == 0x42;
	if (data[0] >= 32 && data[0] <= 63)
		return 1;
	if (data[0] >= 20 && data[0] <= 25)
		return len >= 3 && data[1] == 0xFE && (data[2] == 0xFD || data[2] == 0xFF);
	return data[0] >= 128 && data[0] <= 191 && len >= 8;
}

/* Whether the next packet of this flow is to be looked at. */
INLINE int is_to_look(const struct flow *flow)
{
	__u64 number = flow->packets;
	return number < LOOKED_AT_FIRST || number % LOOKED_AT_LATER == 0;
}

INLINE void count_passed(struct flow *flow, __u32 len)
{
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, len);
}

INLINE void count_seen(struct flow *flow, __u32 is_foreign)
{
	__sync_fetch_and_add(&flow->seen, 1);
	/* No branch: the verifier follows both ways of each. */
	__sync_fetch_and_add(&flow->foreign, is_foreign);
}
