/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What the whole program counts, for each CPU: packets relayed, and UDP packets left to the sockets, by reason.
 */
#pragma once

#include "bpf.h"

/* Why a packet is left to the sockets. `PassedUp` in settings.rs says what they mean; same order. */
enum reason {
	UNKNOWN,
	EXPIRED,
	NOT_PLAIN,
	LENGTH,
	NO_CHECKSUM,
	PARTIAL_CHECKSUM,
	MERGED,
	TOO_LONG,
	NO_ROUTE,
	NO_NEIGHBOR,
	OTHER_RELAY,
	REFUSED,
	REASONS,
	/* Not for us to count: no UDP. */
	UNCOUNTED = REASONS,
	/* It may be relayed. */
	NONE,
};

enum direction { TO_PEER, TO_CLIENT, DIRECTIONS };

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, DIRECTIONS + REASONS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} counts SECTION(".maps");

/* Only this CPU writes here, and nothing interrupts it that writes as well. */
INLINE void count(__u32 what)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &what);
	if (value)
		*value += 1;
}
