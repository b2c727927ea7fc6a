/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The flows: an array that the server has in its memory as well (memory.rs has the same layout), and how a packet
 * finds its place in it.
 */
#pragma once

#include "bpf.h"

/* What packets of a flow look like. IPv4 addresses have zeros behind; everything is in network order. Of Send indications
 * the peer has a part in `local` and `local_port`, by exclusive or: each belongs to a flow of its own, and `told` says
 * which peer it was. */
struct key {
	__u32 remote[4];
	__u32 local[4];
	__be16 remote_port;
	__be16 local_port;
	/* Of ChannelData; 0 is none. */
	__be16 channel;
	/* 4 or 6. */
	__u8 family;
	/* 1 for Send indications. */
	__u8 has_peer;
};

/* How data is wrapped. */
enum framing { PLAIN, CHANNEL_DATA, INDICATION };

/* One direction of a flow. */
struct flow {
	struct key key;
	/* CLOCK_MONOTONIC in nanoseconds from which on nothing is relayed any more; 0 if nothing lives here. */
	__u64 until;
	/* What packets become. Where they go to another relay of this server, these are the addresses that they would
	 * have on the way there, and that relay's flow says the rest. */
	__u32 source[4];
	__u32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__be16 channel;
	/* 4 or 6. */
	__u8 family;
	/* The framing that comes in. */
	__u8 from;
	/* The framing that goes out. */
	__u8 to;
	/* Whether data goes to another relay of this server. */
	__u8 to_relay;
	/* What all this adds to the checksum of UDP, apart from lengths: 16 bits, ones' complement. */
	__u16 sum;
	/* First word of an IPv6 header, without traffic class: the version and the label that all its packets have. */
	__be32 label;
	/* To the peer: its address, as the client names it. To the client: the relayed address, as clients are told it. */
	__u32 told[4];
	__be16 told_port;
	/* What both framings have in front of the data, and what its length is rounded up to there, less one: 3 or 0. That
	 * they follow from `from` and `to` is known to the server; looked up here, they cost no branch. */
	__u8 from_len, to_len, from_round, to_round;
	__u8 zeros[10];

	/* From here on the program writes. A cache line of its own. */
	__u64 packets;
	__u64 bytes;
	/* Packets whose first bytes were looked at, and those that looked like no call. */
	__u32 seen;
	__u32 foreign;
	/* When the kernel was last asked to see to the next hop. */
	__u64 tended;
	__u8 more_zeros[32];
};

_Static_assert(sizeof(struct key) == 40, "as memory.rs has it");
_Static_assert(sizeof(struct flow) == 192, "as memory.rs has it");
_Static_assert(__builtin_offsetof(struct flow, packets) == 128, "as memory.rs has it");

/* Both have their real sizes from the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_UINT(max_entries, 2);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct flow);
} flows SECTION(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 2);
	MAP_TYPE(key, struct key);
	MAP_TYPE(value, __u32);
} places SECTION(".maps");

INLINE int keys_equal(const struct key *one, const struct key *other)
{
	const __u64 *a = (const void *)one, *b = (const void *)other;
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]));
}

/* The flow at a place, if it is this key's. A place may have been given to another flow since it was found, or while its
 * key is about to be deleted. */
INLINE struct flow *flow_at(const __u32 *place, const struct key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, place);
	return flow && keys_equal(&flow->key, key) ? flow : 0;
}

INLINE int addresses_equal(const __u32 *one, __be16 one_port, const __u32 *other, __be16 other_port)
{
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) | (one[3] ^ other[3]) |
		 (one_port ^ other_port));
}

/* Read once: the server may write it at any moment. */
INLINE int lives(const struct flow *flow, __u64 now)
{
	return now < *(volatile const __u64 *)&flow->until;
}
