/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Relays packets of established flows where they come in: what it does to them is what `turn/relay.rs` does, and what
 * sockets add. What it does not know or would do otherwise goes on to the sockets, untouched.
 *
 * Reading order: flows.h (what is known), packet.h and indication.h (what came in), rewrite.h (what becomes of it), this
 * file (how the kernel is told so, at tc) and xdp.c (in drivers). hints.h and counters.h count.
 */
#include "rewrite.h"
#include "xdp.c"

/* Some helpers are for programs that say they may be linked with the kernel. */
char dual_license[] SECTION("license") = "Dual MIT/GPL";

/* To whoever else looks at the packet, and then to the sockets: at tcx, and for a filter as well, TC_ACT_OK would pass
 * over the others. */
#define TC_NEXT (-1)
#define TC_DROP 2

#define PACKET_FOR_US 0

/* Reads the padding of an indication that has some, behind the data, for the checksum. */
INLINE int read_padding(struct __sk_buff *skb, struct plan *plan)
{
	__u32 last;

	if (LIKELY(!plan->from_padding))
		return 0;
	if (bpf_skb_load_bytes(skb, skb->len - sizeof(last), &last, sizeof(last)))
		return 1;
	plan->padding = last & TO_NETWORK32((1U << 8 * plan->from_padding) - 1);
	return 0;
}

/* Has as much padding behind the data as belongs there, of zeros. */
INLINE int make_padding(struct __sk_buff *skb, const struct plan *plan, int *is_touched)
{
	__u32 last;

	if (plan->from_padding != plan->to_padding) {
		/* The other one is zero. What is new is filled with zeros. */
		if (bpf_skb_change_tail(skb, skb->len + plan->to_padding - plan->from_padding, 0))
			return 1;
		*is_touched = 1;
		return 0;
	}
	if (LIKELY(!plan->padding))
		return 0;
	*is_touched = 1;
	if (bpf_skb_load_bytes(skb, skb->len - sizeof(last), &last, sizeof(last)))
		return 1;
	last ^= plan->padding;
	return bpf_skb_store_bytes(skb, skb->len - sizeof(last), &last, sizeof(last), BPF_F_RECOMPUTE_CSUM) != 0;
}

/* Changes the packet's length in front of what UDP carries, and its protocol. Nonzero if the kernel refused. */
INLINE int make_room(struct __sk_buff *skb, __u8 family_in, const struct plan *plan, int *is_touched)
{
	__s32 difference = (__s32)plan->to_len - (__s32)plan->from_len;

	*is_touched = 0;
	if ((plan->from_padding | plan->to_padding) && make_padding(skb, plan, is_touched))
		return 1;
	/* The checksum was carried on, so what is known of it stays true. */
	if (difference &&
	    bpf_skb_adjust_room(skb, difference, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return 1;
	*is_touched |= difference != 0;
	if (family_in == plan->out->family)
		return 0;
	return bpf_skb_change_proto(skb, plan->out->family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6, 0) != 0;
}

/* Everything is written anew, with a sum of the whole packet, if the card has given one, kept right. */
INLINE int write_head(struct __sk_buff *skb, const struct packet *packet, const struct plan *plan)
{
	union head head;
	__u32 len = compose(&head, packet, plan);

#define WRITE_IF(head_len)                                                                                                     \
	case head_len:                                                                                                         \
		return bpf_skb_store_bytes(skb, ETHERNET_LEN, &head, head_len, BPF_F_RECOMPUTE_CSUM) != 0;
	switch (len) {
		WRITE_IF(IPV4_LEN + UDP_LEN)
		WRITE_IF(IPV4_LEN + UDP_LEN + CHANNEL_LEN)
		WRITE_IF(IPV4_LEN + UDP_LEN + INDICATION_LEN_IPV4)
		WRITE_IF(IPV4_LEN + UDP_LEN + INDICATION_LEN_IPV6)
		WRITE_IF(IPV6_LEN + UDP_LEN)
		WRITE_IF(IPV6_LEN + UDP_LEN + CHANNEL_LEN)
		WRITE_IF(IPV6_LEN + UDP_LEN + INDICATION_LEN_IPV4)
		WRITE_IF(IPV6_LEN + UDP_LEN + INDICATION_LEN_IPV6)
	default:
		return 1;
	}
#undef WRITE_IF
}

/* Sends it off. */
INLINE int leave(struct __sk_buff *skb, const struct plan *plan)
{
	const struct bpf_fib_lookup *way = &plan->way;
	struct ethernet ethernet;

	__builtin_memcpy(ethernet.destination, way->dmac, 6);
	__builtin_memcpy(ethernet.source, way->smac, 6);
	ethernet.protocol = plan->out->family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
	/* What the card summed up does not begin before IP. */
	if (bpf_skb_store_bytes(skb, 0, &ethernet, ETHERNET_LEN, 0))
		return TC_DROP;
	if (UNLIKELY(is_to_tend(plan))) {
		struct bpf_redir_neigh next = { .nh_family = way->family };

		/* The next hop is in the place of the destination now. */
		__builtin_memcpy(next.ipv6_nh, way->ipv6_dst, 16);
		return bpf_redirect_neigh(way->ifindex, &next, sizeof(next), 0);
	}
	return bpf_redirect(way->ifindex, 0);
}

INLINE enum reason plan_for(struct __sk_buff *skb, struct packet *packet, struct plan *plan)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	enum reason reason;

	if (UNLIKELY(data + HEAD_LEN > end && (__u32)(end - data) < skb->len)) {
		if (bpf_skb_pull_data(skb, skb->len < HEAD_LEN ? skb->len : HEAD_LEN))
			return UNCOUNTED;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	reason = parse(data, end, skb->len, packet);
	if (reason != NONE && reason != LENGTH)
		return reason;
	if (skb->gso_segs > 1)
		return MERGED;
	if (reason != NONE)
		return reason;
	reason = make_plan(skb, data, end, packet, plan);
	return reason == NONE && read_padding(skb, plan) ? REFUSED : reason;
}

SECTION("classifier")
int hairpin_tc(struct __sk_buff *skb)
{
	struct packet packet;
	struct plan plan;
	enum reason reason;
	int is_touched;

	if (skb->pkt_type != PACKET_FOR_US || skb->vlan_present)
		return TC_NEXT;
	reason = plan_for(skb, &packet, &plan);
	if (reason == NONE) {
		if (!make_room(skb, packet.key.family, &plan, &is_touched)) {
			if (write_head(skb, &packet, &plan))
				return TC_DROP;
			count_relayed(&plan);
			return leave(skb, &plan);
		}
		count(DIRECTIONS + REFUSED);
		return is_touched ? TC_DROP : TC_NEXT;
	}
	if (reason < REASONS)
		count(DIRECTIONS + reason);
	return TC_NEXT;
}
