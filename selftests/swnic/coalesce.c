// SPDX-License-Identifier: GPL-2.0
/*
 * swnic: receive coalescing (rx-gro-hw). Consecutive segments of one flow
 * become one packet, their payload packed back to back into the buffers of
 * the payload pool. The stack could cut the packet into the same segments.
 */
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "swnic.h"

#define SWNIC_MAX_IP_LEN	65535

/* Flags and window in one word, as GRO compares them, but for PSH. */
static __be32 swnic_flag_word(const struct tcphdr *th)
{
	return tcp_flag_word(th) & ~TCP_FLAG_PSH;
}

static bool swnic_plain_data(const struct swnic_frame *frame,
			     const struct swnic_pkt *pkt)
{
	const struct tcphdr *th = (const void *)(frame->data + pkt->l4);
	const struct iphdr *ip = (const void *)(frame->data + pkt->l3);

	if (pkt->ip == 4 && (ip->ihl != 5 || !(ip->frag_off & htons(IP_DF))))
		return false;
	return (tcp_flag_word(th) & (TCP_FLAG_ACK | TCP_FLAG_SYN |
				     TCP_FLAG_FIN | TCP_FLAG_RST |
				     TCP_FLAG_URG | TCP_FLAG_CWR)) ==
	       TCP_FLAG_ACK;
}

static bool swnic_same_ip(const u8 *a, const u8 *b, const struct swnic_pkt *pkt)
{
	if (pkt->ip == 4) {
		const struct iphdr *x = (const void *)(a + pkt->l3);
		const struct iphdr *y = (const void *)(b + pkt->l3);

		return x->saddr == y->saddr && x->daddr == y->daddr &&
		       x->tos == y->tos && x->ttl == y->ttl &&
		       x->frag_off == y->frag_off && x->ihl == y->ihl;
	} else {
		const struct ipv6hdr *x = (const void *)(a + pkt->l3);
		const struct ipv6hdr *y = (const void *)(b + pkt->l3);

		return ipv6_addr_equal(&x->saddr, &y->saddr) &&
		       ipv6_addr_equal(&x->daddr, &y->daddr) &&
		       x->hop_limit == y->hop_limit &&
		       *(const __be32 *)x == *(const __be32 *)y;
	}
}

static bool swnic_agg_takes(const struct swnic_agg *agg,
			    const struct swnic_frame *frame,
			    const struct swnic_pkt *pkt)
{
	const u8 *head = agg->skb->data;
	const struct tcphdr *x = (const void *)(head + pkt->l4);
	const struct tcphdr *y = (const void *)(frame->data + pkt->l4);

	return pkt->payload == agg->pkt.payload &&
	       pkt->l4 == agg->pkt.l4 && pkt->ip == agg->pkt.ip &&
	       pkt->payload_len <= agg->mss &&
	       pkt->payload - pkt->l3 + agg->payload + pkt->payload_len <=
			SWNIC_MAX_IP_LEN &&
	       /* a frag for the rest of this buffer, one for the next */
	       skb_shinfo(agg->skb)->nr_frags + 2 +
			pkt->payload_len / PAGE_SIZE <= MAX_SKB_FRAGS &&
	       !memcmp(head, frame->data, pkt->l3) &&
	       swnic_same_ip(head, frame->data, pkt) &&
	       x->source == y->source && x->dest == y->dest &&
	       ntohl(y->seq) == agg->next_seq && x->ack_seq == y->ack_seq &&
	       swnic_flag_word(x) == swnic_flag_word(y) &&
	       !memcmp(x + 1, y + 1, pkt->payload - pkt->l4 - sizeof(*x));
}

static bool swnic_agg_begin(struct swnic_channel *ch,
			    const struct swnic_frame *frame,
			    const struct swnic_pkt *pkt)
{
	const struct tcphdr *th = (const void *)(frame->data + pkt->l4);
	struct swnic_agg *agg = &ch->agg;

	agg->skb = swnic_rx_head(ch, frame->data, pkt->payload);
	if (!agg->skb)
		return false;
	agg->pkt = *pkt;
	agg->hash = frame->hash;
	agg->hash_type = frame->hash_type;
	agg->next_seq = ntohl(th->seq);
	agg->payload = 0;
	agg->mss = pkt->payload_len;
	agg->segs = 0;
	return true;
}

/* What tcp_gro_complete() and its callers do to a packet of many segments. */
static void swnic_agg_finish(struct swnic_agg *agg)
{
	struct sk_buff *skb = agg->skb;
	struct tcphdr *th = (void *)(skb->data + agg->pkt.l4);
	u32 tcp_len = skb->len - agg->pkt.l4;

	if (agg->pkt.ip == 4) {
		struct iphdr *ip = (void *)(skb->data + agg->pkt.l3);

		ip->tot_len = htons(skb->len - agg->pkt.l3);
		ip_send_check(ip);
		th->check = ~csum_tcpudp_magic(ip->saddr, ip->daddr, tcp_len,
					       IPPROTO_TCP, 0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV4;
	} else {
		struct ipv6hdr *ip6 = (void *)(skb->data + agg->pkt.l3);

		ip6->payload_len = htons(tcp_len);
		th->check = ~csum_ipv6_magic(&ip6->saddr, &ip6->daddr, tcp_len,
					     IPPROTO_TCP, 0);
		skb_shinfo(skb)->gso_type = SKB_GSO_TCPV6;
	}
	skb_set_network_header(skb, agg->pkt.l3);
	skb_set_transport_header(skb, agg->pkt.l4);
	skb->csum_start = (u8 *)th - skb->head;
	skb->csum_offset = offsetof(struct tcphdr, check);
	skb->ip_summed = CHECKSUM_PARTIAL;
	skb_shinfo(skb)->gso_size = agg->mss;
	skb_shinfo(skb)->gso_segs = agg->segs;
}

void swnic_coalesce_flush(struct swnic_channel *ch)
{
	struct swnic_agg *agg = &ch->agg;
	struct sk_buff *skb = agg->skb;

	if (!skb)
		return;
	if (agg->segs > 1) {
		swnic_agg_finish(agg);
		ch->stats.gro_packets++;
		ch->stats.gro_bytes += skb->len;
		ch->stats.gro_wire_packets += agg->segs;
		ch->stats.gro_wire_bytes += skb->len +
			(agg->segs - 1) * agg->pkt.payload;
	} else {
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	}
	agg->skb = NULL;
	swnic_rx_deliver(ch, skb, agg->hash, agg->hash_type);
}

/* The frame's payload found no buffer, or not enough of them. */
static void swnic_agg_no_buffer(struct swnic_channel *ch, u32 len)
{
	struct swnic_agg *agg = &ch->agg;

	ch->stats.rx_alloc_fail++;
	ch->stats.rx_hw_drops++;
	if (!agg->skb)
		return;
	if (agg->segs && !pskb_trim(agg->skb, len)) {
		swnic_coalesce_flush(ch);
		return;
	}
	dev_kfree_skb_any(agg->skb);
	agg->skb = NULL;
}

/* Returns false if the frame is for others to deliver. */
bool swnic_coalesce(struct swnic_channel *ch, const struct swnic_frame *frame,
		    const struct swnic_pkt *pkt)
{
	struct swnic_agg *agg = &ch->agg;
	struct tcphdr *th;
	u32 len = 0;
	bool psh;

	if (!swnic_plain_data(frame, pkt))
		return false;
	if (agg->skb && !swnic_agg_takes(agg, frame, pkt))
		swnic_coalesce_flush(ch);
	if (agg->skb)
		len = agg->skb->len;
	if ((!agg->skb && !swnic_agg_begin(ch, frame, pkt)) ||
	    !swnic_rx_payload(ch, agg->skb, frame->data + pkt->payload,
			      pkt->payload_len, true)) {
		swnic_agg_no_buffer(ch, len);
		return true;
	}
	agg->segs++;
	agg->payload += pkt->payload_len;
	agg->next_seq += pkt->payload_len;

	psh = ((const struct tcphdr *)(frame->data + pkt->l4))->psh;
	if (psh) {
		th = (void *)(agg->skb->data + pkt->l4);
		th->psh = 1;
	}
	if (psh || pkt->payload_len < agg->mss)
		swnic_coalesce_flush(ch);
	return true;
}
