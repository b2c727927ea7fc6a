/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Send and Data indications (RFC 8656, 11) as clients of calls write them, and as the server does: XOR-PEER-ADDRESS and
 * DATA, in this order, and nothing else. The server reads all others.
 */
#pragma once

#include "packet.h"

#define STUN_LEN 20
#define COOKIE TO_NETWORK32(0x2112A442)
#define SEND_INDICATION TO_NETWORK16(0x0016)
#define DATA_INDICATION 0x0017
#define XOR_PEER_ADDRESS 0x0012
#define DATA 0x0013
/* In front of the data, for peers of both families. */
#define INDICATION_LEN_IPV4 (STUN_LEN + 12 + 4)
#define INDICATION_LEN_IPV6 (STUN_LEN + 24 + 4)

/* What a Send indication says. */
struct send {
	__u32 peer[4];
	__be16 peer_port;
	/* 4 or 6. */
	__u8 family;
	__u32 data_len;
	/* Of what is in front of the data. */
	__u64 sum;
};

/* Bytes behind data of this length, up to a multiple of four. */
INLINE __u32 padding_of(__u32 data_len)
{
	return -data_len & 3;
}

/* Reads a Send indication of this length; whether it is a plain one. */
INLINE int read_send(const __u32 *words, const void *end, __u32 len, struct send *send)
{
	__u32 data, head_len;

	if ((const void *)words + INDICATION_LEN_IPV4 > end || words[1] != COOKIE)
		return 0;
	send->sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4] + words[5] + words[6] + words[7] + words[8];
	send->peer[0] = words[7] ^ COOKIE;
	send->peer_port = second_half(words[6]) ^ first_half(COOKIE);
	if (words[5] == TO_NETWORK32(XOR_PEER_ADDRESS << 16 | 8) && first_half(words[6]) == TO_NETWORK16(1)) {
		send->family = 4;
		head_len = INDICATION_LEN_IPV4;
		send->peer[1] = send->peer[2] = send->peer[3] = 0;
		data = words[8];
	} else if (words[5] == TO_NETWORK32(XOR_PEER_ADDRESS << 16 | 20) && first_half(words[6]) == TO_NETWORK16(2)) {
		if ((const void *)words + INDICATION_LEN_IPV6 > end)
			return 0;
		send->family = 6;
		head_len = INDICATION_LEN_IPV6;
		send->peer[1] = words[8] ^ words[2];
		send->peer[2] = words[9] ^ words[3];
		send->peer[3] = words[10] ^ words[4];
		send->sum += (__u64)words[9] + words[10] + words[11];
		data = words[11];
	} else {
		return 0;
	}
	send->data_len = FROM_NETWORK16(second_half(data));
	return first_half(data) == TO_NETWORK16(DATA) &&
	       head_len + send->data_len + padding_of(send->data_len) == len &&
	       (__u32)FROM_NETWORK16(second_half(words[0])) + STUN_LEN == len;
}

/* Writes what a Data indication has in front of the data of a peer; how long it is, and its sum. A transaction id only tells
 * indications apart: any will do that nobody could have in mind. */
INLINE __u32 write_data_indication(__u32 *words, const struct key *peer, __u32 data_len, __u64 *sum)
{
	__u32 is_ipv6 = peer->family != 4;
	__u32 len = is_ipv6 ? INDICATION_LEN_IPV6 : INDICATION_LEN_IPV4;
	__u32 body_len = len - STUN_LEN + data_len + padding_of(data_len);
	__be32 data = TO_NETWORK32(DATA << 16 | data_len);

	words[0] = TO_NETWORK32(DATA_INDICATION << 16 | body_len);
	words[1] = COOKIE;
	words[2] = bpf_get_prandom_u32();
	words[3] = bpf_get_prandom_u32();
	words[4] = bpf_get_prandom_u32();
	words[7] = peer->remote[0] ^ COOKIE;
	*sum = 0;
	if (!is_ipv6) {
		words[5] = TO_NETWORK32(XOR_PEER_ADDRESS << 16 | 8);
		words[6] = TO_NETWORK32(0x00012112) ^ TO_NETWORK32(FROM_NETWORK16(peer->remote_port));
		words[8] = data;
	} else {
		words[5] = TO_NETWORK32(XOR_PEER_ADDRESS << 16 | 20);
		words[6] = TO_NETWORK32(0x00022112) ^ TO_NETWORK32(FROM_NETWORK16(peer->remote_port));
		words[8] = peer->remote[1] ^ words[2];
		words[9] = peer->remote[2] ^ words[3];
		words[10] = peer->remote[3] ^ words[4];
		words[11] = data;
		*sum = (__u64)words[9] + words[10] + words[11];
	}
	*sum += (__u64)words[0] + words[1] + words[2] + words[3] + words[4] + words[5] + words[6] + words[7] + words[8];
	return len;
}
