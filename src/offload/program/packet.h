/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Takes a frame apart: Ethernet, IPv4 without options or IPv6 without extension headers, UDP, all of it in one piece.
 * Whatever is not exactly that is not for us.
 */
#pragma once

#include "counters.h"
#include "flows.h"

#define ETHERNET_LEN 14
#define IPV4_LEN 20
#define IPV6_LEN 40
#define UDP_LEN 8
#define CHANNEL_LEN 4
/* Bytes of the data that hints look at. */
#define LOOKED_AT_LEN 8
/* What may be in front of the data at most: an indication's. */
#define FRAMING_LEN_MAX 48
/* So much of a packet has to lie in one piece, or all of it. */
#define HEAD_LEN (ETHERNET_LEN + IPV6_LEN + UDP_LEN + FRAMING_LEN_MAX + LOOKED_AT_LEN)

#define PROTOCOL_IPV4 TO_NETWORK16(0x0800)
#define PROTOCOL_IPV6 TO_NETWORK16(0x86DD)
#define PROTOCOL_UDP 17

/* Structures of the wire; fields are in network order. */
struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 protocol;
} __attribute__((packed));

struct ipv4 {
	__u8 version_length;
	__u8 traffic_class;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 hops;
	__u8 protocol;
	__u16 checksum;
	__u32 source;
	__u32 destination;
};

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_len;
	__u8 protocol;
	__u8 hops;
	__u32 source[4];
	__u32 destination[4];
};

struct udp {
	__be16 source;
	__be16 destination;
	__be16 len;
	__u16 checksum;
};

/* What is remembered of a packet, on the stack: pointers into it do not outlive a change of its length. */
struct packet {
	/* As if it had no channel, and was no indication. */
	struct key key;
	/* Of what UDP carries. */
	__u32 len;
	/* The first four bytes of it, or zero. */
	__u32 first;
	__u16 checksum;
	__u8 traffic_class;
	__u8 ip_len;
};

INLINE __be16 first_half(__u32 word)
{
	union { __u32 word; __be16 halves[2]; } both = { .word = word };
	return both.halves[0];
}

INLINE __be16 second_half(__u32 word)
{
	union { __u32 word; __be16 halves[2]; } both = { .word = word };
	return both.halves[1];
}

/* Folds a sum of 16-bit words into one, ones' complement. */
INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return sum;
}

/* Reads the headers. NONE, or why the packet is left alone. */
INLINE enum reason parse(void *data, void *end, __u32 frame_len, struct packet *packet)
{
	struct ethernet *ethernet = data;
	struct udp *udp;
	__u64 pseudo;
	__u32 len;

	__builtin_memset(&packet->key, 0, sizeof(packet->key));
	if (data + ETHERNET_LEN + IPV4_LEN + UDP_LEN > end)
		return UNCOUNTED;
	if (ethernet->protocol == PROTOCOL_IPV4) {
		struct ipv4 *ip = data + ETHERNET_LEN;
		const __u32 *words = (const void *)ip;

		if (ip->protocol != PROTOCOL_UDP)
			return UNCOUNTED;
		/* DF may be set or not. */
		if (ip->version_length != 0x45 || (ip->fragment & TO_NETWORK16(0xBFFF)))
			return NOT_PLAIN;
		if (fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xFFFF)
			return NOT_PLAIN;
		len = FROM_NETWORK16(ip->total_len);
		/* Short frames are padded: the socket's way knows how to take that off. */
		if (len < IPV4_LEN + UDP_LEN || len + ETHERNET_LEN != frame_len)
			return LENGTH;
		len -= IPV4_LEN;
		udp = (void *)ip + IPV4_LEN;
		packet->key.family = 4;
		packet->key.remote[0] = ip->source;
		packet->key.local[0] = ip->destination;
		packet->traffic_class = ip->traffic_class;
		packet->ip_len = IPV4_LEN;
		pseudo = (__u64)ip->source + ip->destination;
	} else if (ethernet->protocol == PROTOCOL_IPV6) {
		struct ipv6 *ip = data + ETHERNET_LEN;

		if (data + ETHERNET_LEN + IPV6_LEN + UDP_LEN > end)
			return UNCOUNTED;
		if (ip->protocol != PROTOCOL_UDP)
			return UNCOUNTED;
		if (FROM_NETWORK32(ip->version_class_label) >> 28 != 6)
			return NOT_PLAIN;
		len = FROM_NETWORK16(ip->payload_len);
		if (len < UDP_LEN || len + ETHERNET_LEN + IPV6_LEN != frame_len)
			return LENGTH;
		udp = (void *)ip + IPV6_LEN;
		packet->key.family = 6;
		__builtin_memcpy(packet->key.remote, ip->source, 16);
		__builtin_memcpy(packet->key.local, ip->destination, 16);
		packet->traffic_class = FROM_NETWORK32(ip->version_class_label) >> 20;
		packet->ip_len = IPV6_LEN;
		pseudo = (__u64)ip->source[0] + ip->source[1] + ip->source[2] + ip->source[3];
		pseudo += (__u64)ip->destination[0] + ip->destination[1] + ip->destination[2] + ip->destination[3];
	} else {
		return UNCOUNTED;
	}
	if (FROM_NETWORK16(udp->len) != len)
		return LENGTH;
	/* IPv6 forbids to have none, and IPv4's kind that has none could not become one that has. */
	if (!udp->checksum)
		return NO_CHECKSUM;
	/* Where the sender left the sum to its network card, the field has that of the pseudo-header, and the kernel knows
	 * by an offset where the rest is to begin: it does not move when the data does. One of 65,536 complete sums looks
	 * alike, and takes the long way as well. */
	if (udp->checksum == fold(pseudo + TO_NETWORK16(PROTOCOL_UDP) + udp->len))
		return PARTIAL_CHECKSUM;
	packet->key.remote_port = udp->source;
	packet->key.local_port = udp->destination;
	packet->checksum = udp->checksum;
	packet->len = len - UDP_LEN;
	packet->first = 0;
	if (len >= UDP_LEN + CHANNEL_LEN) {
		if ((void *)udp + UDP_LEN + CHANNEL_LEN > end)
			return LENGTH;
		packet->first = *(__u32 *)((void *)udp + UDP_LEN);
	}
	return NONE;
}
