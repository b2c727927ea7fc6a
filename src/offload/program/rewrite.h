/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What a packet becomes: whose flow it is, which way it goes, and its new headers.
 */
#pragma once

#include "hints.h"
#include "indication.h"

/* Where locally sent packets come from, as rules and routes see it; it has this index in every network namespace. */
#define LOOPBACK 1
/* So often the kernel itself is asked to see to a next hop, in nanoseconds. */
#define TEND_EVERY 1000000000ULL

/* Set before loading: what sockets of this machine would send with. */
const volatile __u8 hops_ipv4 = 64;
const volatile __u8 hops_ipv6 = 64;

/* What is known of a packet that is to be relayed. */
struct plan {
	/* Whose packet it is, and whose it leaves as: another one only from relay to relay. */
	struct flow *in, *out;
	/* Where its data begins in what UDP carries, how long it is, and what comes in front of it then. */
	__u32 from_len, data_len, to_len;
	/* The padding behind it, before and then. */
	__u32 from_padding, to_padding;
	/* Sum of what an indication has in front of its data, and the padding, which whoever reads packets has to put here:
	 * a word of the packet, zeros in the place of the data. */
	__u64 removed;
	__u32 padding;
	/* The way out. */
	struct bpf_fib_lookup way;
	__u64 now;
	/* For each flow, whether the data is to be looked at, and what was seen. */
	__u8 looks_in, looks_out, is_foreign;
};

/* New headers from IP on, ready to be written. */
union head {
	struct {
		struct ipv4 ip;
		struct udp udp;
		__u32 framing[FRAMING_LEN_MAX / 4];
	} four;
	struct {
		struct ipv6 ip;
		struct udp udp;
		__u32 framing[FRAMING_LEN_MAX / 4];
	} six;
	__u64 aligned[12];
};

/* Puts the peer that a Send indication names into the key, or takes it out again. */
INLINE void swap_peer(struct key *key, const struct send *send)
{
	key->local[0] ^= send->peer[0];
	key->local[1] ^= send->peer[1];
	key->local[2] ^= send->peer[2];
	key->local[3] ^= send->peer[3];
	key->local_port ^= send->peer_port;
	key->has_peer ^= 1;
}

/* Whether a flow lives at a place. */
INLINE enum reason take_flow(struct plan *plan, const __u32 *place, const struct key *key)
{
	plan->in = flow_at(place, key);
	return plan->in && lives(plan->in, plan->now) ? NONE : EXPIRED;
}

/* The same for a Send indication. */
INLINE enum reason take_indication(struct plan *plan, const __u32 *place, const struct key *key, const struct send *send)
{
	enum reason reason = take_flow(plan, place, key);

	if (reason != NONE)
		return reason;
	/* What is left of the key is the server's address, if this is the peer. */
	if (plan->in->family != send->family ||
	    !addresses_equal(plan->in->told, plan->in->told_port, send->peer, send->peer_port))
		return UNKNOWN;
	plan->from_len = plan->in->from_len;
	plan->data_len = send->data_len;
	plan->removed = send->sum;
	return NONE;
}

/* Finds whose packet it is. `payload` is what UDP carries. */
INLINE enum reason find_flow(struct packet *packet, const void *payload, const void *end, struct plan *plan)
{
	struct key *key = &packet->key;
	__be16 channel = first_half(packet->first);
	struct send send;
	__u32 *place = 0;
	enum reason reason;

	plan->removed = 0;
	plan->padding = 0;
	/* ChannelData has 01 in front. So may a peer's data, which is looked for then. */
	if ((channel & TO_NETWORK16(0xC000)) == TO_NETWORK16(0x4000)) {
		key->channel = channel;
		place = bpf_map_lookup_elem(&places, key);
		if (!place)
			key->channel = 0;
	} else if (channel == SEND_INDICATION && read_send(payload, end, packet->len, &send)) {
		swap_peer(key, &send);
		place = bpf_map_lookup_elem(&places, key);
		if (place)
			return take_indication(plan, place, key, &send);
		swap_peer(key, &send);
	}
	if (!place)
		place = bpf_map_lookup_elem(&places, key);
	if (!place)
		return UNKNOWN;
	reason = take_flow(plan, place, key);
	if (reason != NONE)
		return reason;
	plan->from_len = plan->in->from_len;
	if (plan->in->from == CHANNEL_DATA) {
		/* A datagram may have more in it than ChannelData claims; the machine knows what is to be done then. */
		if ((__u32)FROM_NETWORK16(second_half(packet->first)) + CHANNEL_LEN != packet->len)
			return LENGTH;
	}
	plan->data_len = packet->len - plan->from_len;
	return NONE;
}

/* Finds the flow that the packet leaves as. */
INLINE enum reason find_other_relay(struct plan *plan)
{
	const struct flow *in = plan->in;
	struct key key;
	__u32 *place;

	plan->out = plan->in;
	if (!in->to_relay)
		return NONE;
	__builtin_memcpy(key.remote, in->source, 16);
	__builtin_memcpy(key.local, in->destination, 16);
	key.remote_port = in->source_port;
	key.local_port = in->destination_port;
	key.channel = 0;
	key.family = in->family;
	key.has_peer = 0;
	place = bpf_map_lookup_elem(&places, &key);
	if (!place)
		return OTHER_RELAY;
	plan->out = flow_at(place, &key);
	if (!plan->out || !lives(plan->out, plan->now) || plan->out->to_relay)
		return OTHER_RELAY;
	/* It has the address that the peer's relay is bound to; but is it the peer's? After a reload there may be another. */
	if (!addresses_equal(in->told, in->told_port, plan->out->told, plan->out->told_port))
		return OTHER_RELAY;
	return NONE;
}

/* Looks at the first bytes of the data, if it is their turn. `data` is what UDP carries. */
INLINE void look(struct plan *plan, const __u8 *data, const void *end)
{
	__u8 bytes[LOOKED_AT_LEN] = {};
	__u32 from_len = plan->from_len;

	plan->looks_in = is_to_look(plan->in);
	plan->looks_out = plan->out != plan->in && is_to_look(plan->out);
	plan->is_foreign = 0;
	if (LIKELY(!plan->looks_in && !plan->looks_out))
		return;
	/* For the verifier, which no longer knows how little it is; the compiler does, and would leave the bound out. */
	asm volatile("%0 &= 63" : "+r"(from_len));
	data += from_len;
	/* Of less than that much nobody looks at more. */
	if (plan->data_len >= LOOKED_AT_LEN) {
		if ((const void *)data + LOOKED_AT_LEN <= end)
			__builtin_memcpy(bytes, data, LOOKED_AT_LEN);
	} else if (plan->data_len >= 3) {
		if ((const void *)data + 3 <= end)
			__builtin_memcpy(bytes, data, 3);
	} else if (plan->data_len && (const void *)data + 1 <= end) {
		bytes[0] = data[0];
	}
	plan->is_foreign = !looks_like_a_call(bytes, plan->data_len);
}

INLINE __u32 ip_len_of(__u8 family)
{
	return family == 4 ? IPV4_LEN : IPV6_LEN;
}

/* Which way the packet leaves, as a socket's would: by the routes that count for what this machine sends. */
INLINE enum reason find_way(void *ctx, const struct packet *packet, struct plan *plan)
{
	struct bpf_fib_lookup *way = &plan->way;
	const struct flow *out = plan->out;
	__u32 total_len = ip_len_of(out->family) + UDP_LEN + plan->to_len + plan->data_len + plan->to_padding;

	if (total_len > 0xFFFF)
		return TOO_LONG;
	__builtin_memset(way, 0, sizeof(*way));
	way->l4_protocol = PROTOCOL_UDP;
	way->sport = out->source_port;
	way->dport = out->destination_port;
	way->tot_len = total_len;
	way->ifindex = LOOPBACK;
	if (out->family == 4) {
		way->family = AF_INET;
		way->tos = packet->traffic_class;
		way->ipv4_src = out->source[0];
		way->ipv4_dst = out->destination[0];
	} else {
		way->family = AF_INET6;
		way->flowinfo = TO_NETWORK32((__u32)packet->traffic_class << 20);
		__builtin_memcpy(way->ipv6_src, out->source, 16);
		__builtin_memcpy(way->ipv6_dst, out->destination, 16);
	}
	switch (bpf_fib_lookup(ctx, way, sizeof(*way), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return NONE;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return TOO_LONG;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return NO_NEIGHBOR;
	default:
		return NO_ROUTE;
	}
}

/* Everything that has to be known before the packet is touched. */
INLINE enum reason make_plan(void *ctx, void *data, void *end, struct packet *packet, struct plan *plan)
{
	const void *payload = data + ETHERNET_LEN + (packet->ip_len == IPV4_LEN ? IPV4_LEN : IPV6_LEN) + UDP_LEN;
	enum reason reason;

	plan->now = bpf_ktime_get_ns();
	reason = find_flow(packet, payload, end, plan);
	if (reason != NONE)
		return reason;
	reason = find_other_relay(plan);
	if (reason != NONE)
		return reason;
	plan->from_padding = -plan->data_len & plan->in->from_round;
	plan->to_len = plan->out->to_len;
	plan->to_padding = -plan->data_len & plan->out->to_round;
	look(plan, payload, end);
	return find_way(ctx, packet, plan);
}

/* Writes what comes in front of the data; how long it is, and its sum, but for the number of a channel, which the flow's
 * has. */
INLINE __u32 write_framing(__u32 *framing, const struct plan *plan, __u64 *sum)
{
	const struct flow *out = plan->out;

	*sum = 0;
	if (out->to == CHANNEL_DATA) {
		framing[0] = TO_NETWORK32((__u32)FROM_NETWORK16(out->channel) << 16 | plan->data_len);
		*sum = TO_NETWORK16(plan->data_len);
		return CHANNEL_LEN;
	}
	if (out->to == INDICATION)
		return write_data_indication(framing, &out->key, plan->data_len, sum);
	return 0;
}

/* The checksum of UDP, from the old one. It stays as wrong as it was, if it was. */
INLINE __u16 checksum(const struct packet *packet, const struct plan *plan, __be16 len, __u64 added)
{
	__be16 old_len = TO_NETWORK16(packet->len + UDP_LEN);
	__u64 sum = (__u16)~packet->checksum + added;

	/* Lengths count twice, in the header and in the pseudo-header. */
	sum += 2 * (__u64)(__u16)~old_len + 2 * (__u64)len;
	sum += plan->in->sum;
	if (plan->in->from == CHANNEL_DATA)
		sum += (__u16)~second_half(packet->first);
	else if (plan->in->from == INDICATION)
		sum += (__u16)~fold(plan->removed + plan->padding);
	if (plan->out != plan->in)
		sum += plan->out->sum;
	return (__u16)~fold(sum) ?: 0xFFFF;
}

/* Writes the new headers; how long they are. */
INLINE __u32 compose(union head *head, const struct packet *packet, const struct plan *plan)
{
	const struct flow *out = plan->out;
	__u32 udp_len = UDP_LEN + plan->to_len + plan->data_len + plan->to_padding;
	__u64 added;
	__u32 framing_len = write_framing(out->family == 4 ? head->four.framing : head->six.framing, plan, &added);
	struct udp udp = {
		.source = out->source_port,
		.destination = out->destination_port,
		.len = TO_NETWORK16(udp_len),
		.checksum = checksum(packet, plan, TO_NETWORK16(udp_len), added),
	};

	if (out->family == 4) {
		const __u32 *words = (const void *)&head->four.ip;

		head->four.ip.version_length = 0x45;
		head->four.ip.traffic_class = packet->traffic_class;
		head->four.ip.total_len = TO_NETWORK16(IPV4_LEN + udp_len);
		head->four.ip.id = bpf_get_prandom_u32();
		head->four.ip.fragment = 0;
		head->four.ip.hops = hops_ipv4;
		head->four.ip.protocol = PROTOCOL_UDP;
		head->four.ip.checksum = 0;
		head->four.ip.source = out->source[0];
		head->four.ip.destination = out->destination[0];
		head->four.ip.checksum = ~fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
		head->four.udp = udp;
	} else {
		head->six.ip.version_class_label = out->label | TO_NETWORK32((__u32)packet->traffic_class << 20);
		head->six.ip.payload_len = TO_NETWORK16(udp_len);
		head->six.ip.protocol = PROTOCOL_UDP;
		head->six.ip.hops = hops_ipv6;
		__builtin_memcpy(head->six.ip.source, out->source, 16);
		__builtin_memcpy(head->six.ip.destination, out->destination, 16);
		head->six.udp = udp;
	}
	return ip_len_of(out->family) + UDP_LEN + framing_len;
}

/* The packet is on its way. */
INLINE void count_relayed(const struct plan *plan)
{
	count_passed(plan->in, plan->data_len);
	if (plan->looks_in)
		count_seen(plan->in, plan->is_foreign);
	if (plan->in->from != PLAIN)
		count(TO_PEER);
	if (plan->out != plan->in) {
		count_passed(plan->out, plan->data_len);
		if (plan->looks_out)
			count_seen(plan->out, plan->is_foreign);
	}
	if (plan->out->to != PLAIN)
		count(TO_CLIENT);
}

/* Whether it is time that the kernel sees to the next hop itself: an entry that nobody but us reads grows stale, and
 * nobody would notice when the neighbor has another card. */
INLINE int is_to_tend(const struct plan *plan)
{
	struct flow *out = plan->out;

	if (LIKELY(plan->now - out->tended < TEND_EVERY))
		return 0;
	out->tended = plan->now;
	return 1;
}
