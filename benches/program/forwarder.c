/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The limit for whoever relays in the kernel at tc: four bytes off or on, other addresses, the other link. Nothing is
 * checked, no route is asked for, nothing is counted.
 */
#include "bpf.h"

#define ETHERNET_LEN 14
#define HEAD_LEN (ETHERNET_LEN + 20 + 8)
#define CHANNEL_LEN 4
#define TC_NEXT (-1)
#define TC_DROP 2

char dual_license[] SECTION("license") = "Dual MIT/GPL";

struct key {
	__u32 remote, local;
	__be16 remote_port, local_port;
};

struct change {
	/* Link-layer addresses and protocol. */
	__u8 ethernet[ETHERNET_LEN];
	/* 0: ChannelData comes in; else that has to be put in front. */
	__be16 channel;
	__u32 source, destination;
	__be16 source_port, destination_port;
	__u32 interface;
	/* What addresses, ports and channel add to the checksum of UDP. */
	__u32 sum;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 1 << 16);
	MAP_TYPE(key, struct key);
	MAP_TYPE(value, struct change);
} changes SECTION(".maps");

struct head {
	__u8 ethernet[ETHERNET_LEN];
	__u8 version_length, traffic_class;
	__be16 total_len, id, fragment;
	__u8 hops, protocol;
	__u16 ip_checksum;
	__u32 source, destination;
	__be16 source_port, destination_port, len;
	__u16 checksum;
	__be16 channel, channel_len;
} __attribute__((packed, aligned(2)));

INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return (sum & 0xFFFF) + (sum >> 16);
}

SECTION("classifier")
int forward(struct __sk_buff *skb)
{
	struct head *head = (void *)(long)skb->data;
	struct key key;
	struct change *change;
	__u32 len;
	__u64 sum;

	if ((void *)(head + 1) > (void *)(long)skb->data_end)
		return TC_NEXT;
	if (*(__u16 *)&head->ethernet[12] != TO_NETWORK16(0x0800) || head->protocol != 17)
		return TC_NEXT;
	key.remote = head->source;
	key.local = head->destination;
	key.remote_port = head->source_port;
	key.local_port = head->destination_port;
	change = bpf_map_lookup_elem(&changes, &key);
	/* Requests. */
	if (!change || (!change->channel && (head->channel & TO_NETWORK16(0xC000)) != TO_NETWORK16(0x4000)))
		return TC_NEXT;
	len = FROM_NETWORK16(head->len);
	sum = (__u64)(__u16)~head->checksum + change->sum;
	sum += 2 * (__u64)(__u16)~head->len;
	if (!change->channel)
		sum += (__u16)~head->channel_len;
	if (bpf_skb_adjust_room(skb, change->channel ? CHANNEL_LEN : -CHANNEL_LEN, BPF_ADJ_ROOM_NET,
				BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return TC_DROP;
	head = (void *)(long)skb->data;
	if ((void *)(head + 1) > (void *)(long)skb->data_end)
		return TC_DROP;
	__builtin_memcpy(head->ethernet, change->ethernet, ETHERNET_LEN);
	if (change->channel) {
		head->channel = change->channel;
		head->channel_len = TO_NETWORK16(len - 8);
		sum += head->channel_len;
		len += CHANNEL_LEN;
	} else {
		len -= CHANNEL_LEN;
	}
	head->version_length = 0x45;
	head->traffic_class = 0;
	head->total_len = TO_NETWORK16(len + 20);
	head->id = 0;
	head->fragment = 0;
	head->hops = 64;
	head->protocol = 17;
	head->source = change->source;
	head->destination = change->destination;
	head->ip_checksum = ~fold((__u64)TO_NETWORK16(0x4500) + head->total_len + TO_NETWORK16(0x4011) + change->source +
				  change->destination);
	head->source_port = change->source_port;
	head->destination_port = change->destination_port;
	head->len = TO_NETWORK16(len);
	sum += 2 * (__u64)head->len;
	head->checksum = (__u16)~fold(sum) ?: 0xFFFF;
	return bpf_redirect(change->interface, 0);
}
