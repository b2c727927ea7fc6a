/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The same in the driver, before the kernel has made a packet of its own of the frame. Whatever is not relayed here goes up
 * untouched, and to the program at tc of the same interface first: what cannot be done from here may be there, and why
 * something is left to the sockets is for that one to count. Part of main.c's translation unit.
 */
#pragma once

#include "rewrite.h"

static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *frame, int difference) = (void *)BPF_FUNC_xdp_adjust_head;

/* More than a server has. */
#define INTERFACES 64

/* Link-layer addresses of the interfaces that the program is attached to: nobody has looked yet whether a frame is for
 * this machine. */
struct card {
	__u8 address[6];
	__u8 zeros[2];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, INTERFACES);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct card);
} cards SECTION(".maps");

/* Interfaces that take a frame from another one's driver, by their index; found out by trying. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_DEVMAP_HASH);
	MAP_UINT(max_entries, INTERFACES);
	MAP_UINT(key_size, sizeof(__u32));
	MAP_UINT(value_size, sizeof(struct bpf_devmap_val));
} exits SECTION(".maps");

/* How many frames came so far in such a trial. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} tried SECTION(".maps");

INLINE int is_for_us(const void *data, const void *end, __u32 interface)
{
	const __u16 *to = data, *own = bpf_map_lookup_elem(&cards, &interface);

	if (data + ETHERNET_LEN > end || !own)
		return 0;
	return !((to[0] ^ own[0]) | (to[1] ^ own[1]) | (to[2] ^ own[2]));
}

/* Everything that has to be known before the frame is touched. */
INLINE int can_relay(struct xdp_md *frame, struct packet *packet, struct plan *plan)
{
	void *data = (void *)(long)frame->data, *end = (void *)(long)frame->data_end;
	__u32 interface;

	if (!is_for_us(data, end, frame->ingress_ifindex) || parse(data, end, end - data, packet) != NONE ||
	    make_plan(frame, data, end, packet, plan) != NONE)
		return 0;
	/* Indications may have padding at the end: at tc there are words for that as well. */
	if (plan->in->from == INDICATION || plan->out->to == INDICATION)
		return 0;
	/* At tc there are words for that. */
	if (UNLIKELY(plan->now - plan->out->tended >= TEND_EVERY))
		return 0;
	interface = plan->way.ifindex;
	return bpf_map_lookup_elem(&exits, &interface) != 0;
}

INLINE int write_frame(struct xdp_md *frame, const struct ethernet *ethernet, const union head *head, __u32 head_len)
{
	void *data = (void *)(long)frame->data, *end = (void *)(long)frame->data_end;

#define WRITE_IF(len)                                                                                                          \
	if (head_len == (len)) {                                                                                               \
		if (data + ETHERNET_LEN + (len) > end)                                                                         \
			return 1;                                                                                              \
		__builtin_memcpy(data, ethernet, ETHERNET_LEN);                                                                \
		__builtin_memcpy(data + ETHERNET_LEN, head, (len));                                                            \
		return 0;                                                                                                      \
	}
	WRITE_IF(IPV4_LEN + UDP_LEN)
	WRITE_IF(IPV4_LEN + UDP_LEN + CHANNEL_LEN)
	WRITE_IF(IPV6_LEN + UDP_LEN)
	WRITE_IF(IPV6_LEN + UDP_LEN + CHANNEL_LEN)
#undef WRITE_IF
	return 1;
}

SECTION("xdp")
int hairpin_xdp(struct xdp_md *frame)
{
	struct packet packet;
	struct plan plan;
	struct ethernet ethernet;
	union head head;
	__u32 head_len;

	if (!can_relay(frame, &packet, &plan))
		return XDP_PASS;
	head_len = compose(&head, &packet, &plan);
	__builtin_memcpy(ethernet.destination, plan.way.dmac, 6);
	__builtin_memcpy(ethernet.source, plan.way.smac, 6);
	ethernet.protocol = plan.out->family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
	/* Drivers may leave too little room. */
	if (bpf_xdp_adjust_head(frame, (int)(packet.ip_len + UDP_LEN + plan.from_len) - (int)head_len))
		return XDP_PASS;
	if (write_frame(frame, &ethernet, &head, head_len))
		return XDP_DROP;
	count_relayed(&plan);
	return bpf_redirect_map(&exits, plan.way.ifindex, 0);
}

/* What is tried: a frame out of the interface that it is said to have come in at, and whether it comes so far as the door. */
SECTION("xdp")
int hairpin_try(struct xdp_md *frame)
{
	return bpf_redirect_map(&exits, frame->ingress_ifindex, 0);
}

SECTION("xdp/devmap")
int hairpin_door(struct xdp_md *frame)
{
	__u32 zero = 0;
	__u64 *frames = bpf_map_lookup_elem(&tried, &zero);

	(void)frame;
	if (frames)
		__sync_fetch_and_add(frames, 1);
	return XDP_PASS;
}
