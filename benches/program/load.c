/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * A load that never leaves the kernel: what a real load has sent once to a server is learnt, frame by frame, and sent again
 * and again, with so many frames under way at any time. What comes back is counted and thrown away.
 */
#include "bpf.h"

#define ETHERNET_LEN 14
#define HEAD_LEN (ETHERNET_LEN + 20 + 8)
#define FRAME_LEN_MAX 1280
#define FRAMES_MAX 8192
#define TC_NEXT (-1)
#define TC_DROP 2

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *frame, int difference) = (void *)BPF_FUNC_xdp_adjust_tail;
static long (*const bpf_xdp_store_bytes)(struct xdp_md *frame, __u32 offset, void *from, __u32 len) =
	(void *)BPF_FUNC_xdp_store_bytes;

char dual_license[] SECTION("license") = "Dual MIT/GPL";

struct flow {
	__u32 source, destination;
	__be16 source_port, destination_port;
};

struct frame {
	/* The load's side of the link. */
	__u32 interface;
	__u32 len;
	__u8 bytes[FRAME_LEN_MAX];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, FRAMES_MAX);
	MAP_TYPE(key, struct flow);
	MAP_TYPE(value, __u32);
} known SECTION(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, FRAMES_MAX);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct frame);
} frames SECTION(".maps");

enum { LEARNT, SENT, RECEIVED, REFUSED, WINDOW, NUMBERS };

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, NUMBERS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} numbers SECTION(".maps");

/* The server's side of the links, and the load's. */
const volatile __u32 clients_inside = 0, clients_outside = 0, peers_inside = 0, peers_outside = 0;

INLINE volatile __u64 *number(__u32 which)
{
	return bpf_map_lookup_elem(&numbers, &which);
}

INLINE int is_udp(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return data + HEAD_LEN <= end && data[12] == 0x08 && data[13] == 0 && data[14] == 0x45 && data[23] == 17;
}

/* Where the server receives: the first frame of each flow that carries data is kept. */
SECTION("classifier")
int learn(struct __sk_buff *skb)
{
	__u32 len = skb->len, index, *place;
	volatile __u64 *learnt = number(LEARNT);
	struct flow flow;
	struct frame *frame;
	__u8 first;

	if (bpf_skb_pull_data(skb, len < HEAD_LEN ? len : HEAD_LEN) || !is_udp(skb) || !learnt)
		return TC_NEXT;
	if (len <= HEAD_LEN + 64 || len > FRAME_LEN_MAX || *learnt >= FRAMES_MAX)
		return TC_NEXT;
	if (bpf_skb_load_bytes(skb, HEAD_LEN, &first, 1) || bpf_skb_load_bytes(skb, 26, &flow, sizeof(flow)))
		return TC_NEXT;
	/* Requests have bits 00 in front, on the way to the server. */
	if (skb->ifindex == clients_inside && first >> 6 != 1)
		return TC_NEXT;
	index = *learnt;
	place = bpf_map_lookup_elem(&known, &flow);
	frame = bpf_map_lookup_elem(&frames, &index);
	if (place || !frame)
		return TC_NEXT;
	asm volatile("%0 &= 2047" : "+r"(len));
	if (len == 0 || len > FRAME_LEN_MAX || bpf_skb_load_bytes(skb, 0, frame->bytes, len))
		return TC_NEXT;
	frame->len = len;
	frame->interface = skb->ifindex == clients_inside ? clients_outside : peers_outside;
	if (!bpf_map_update_elem(&known, &flow, &index, BPF_NOEXIST))
		*learnt = index + 1;
	return TC_NEXT;
}

/* Where the load receives. */
SECTION("classifier")
int sink(struct __sk_buff *skb)
{
	__u32 index = RECEIVED;
	__u64 *received = bpf_map_lookup_elem(&numbers, &index);

	if (!received || bpf_skb_pull_data(skb, skb->len < HEAD_LEN ? skb->len : HEAD_LEN) || !is_udp(skb))
		return TC_NEXT;
	__sync_fetch_and_add(received, skb->gso_segs > 1 ? skb->gso_segs : 1);
	return TC_DROP;
}

/* Frames have room for the longest when they come here. */
SECTION("xdp")
int generate(struct xdp_md *context)
{
	volatile __u64 *learnt = number(LEARNT), *sent = number(SENT), *received = number(RECEIVED),
		       *window = number(WINDOW), *refused = number(REFUSED);
	struct frame *frame;
	__u32 index, len;

	if (!learnt || !sent || !received || !window || !refused || !*learnt)
		return XDP_DROP;
	if ((__s64)(*sent - *received) >= (__s64)*window) {
		*refused += 1;
		return XDP_DROP;
	}
	index = *sent % *learnt;
	frame = bpf_map_lookup_elem(&frames, &index);
	if (!frame)
		return XDP_DROP;
	len = frame->len;
	if (bpf_xdp_adjust_tail(context, (__s32)len - FRAME_LEN_MAX))
		return XDP_DROP;
	asm volatile("%0 &= 2047" : "+r"(len));
	if (len == 0 || len > FRAME_LEN_MAX || bpf_xdp_store_bytes(context, 0, frame->bytes, len))
		return XDP_DROP;
	*sent += 1;
	return bpf_redirect(frame->interface, 0);
}
