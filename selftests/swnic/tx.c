// SPDX-License-Identifier: GPL-2.0
/*
 * swnic: transmission. ndo_start_xmit() queues a packet; the channel's NAPI,
 * playing the DMA engine, cuts it into frames, fills in checksums, reads the
 * payload from wherever it is, and puts the bytes on the peer's wire. A full
 * wire is back-pressure: the tx queue waits until the receiver has made room.
 */
#include <linux/dma-direct.h>
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <net/ip6_checksum.h>
#include <net/netdev_queues.h>
#include <net/tcp.h>

#include "swnic.h"

#define SWNIC_TX_BURST	256	/* frames a poll sends before it yields */

/* Start address for the processor of what the device knows by @addr, or NULL
 * where that is not RAM.
 */
void *swnic_dma_to_virt(struct swnic *sw, dma_addr_t addr)
{
	phys_addr_t phys = dma_to_phys(swnic_dma_dev(sw), addr);

	return pfn_valid(PHYS_PFN(phys)) ? phys_to_virt(phys) : NULL;
}

static bool swnic_copy_frag(struct swnic *sw, const skb_frag_t *frag, u32 off,
			    u8 *to, u32 len)
{
	const u8 *from;

	if (skb_frag_is_net_iov(frag))
		from = swnic_dma_to_virt(sw, skb_frag_dma_map(swnic_dma_dev(sw),
							      frag, off, len));
	else
		from = skb_frag_address(frag) + off;
	if (!from)
		return false;
	memcpy(to, from, len);
	return true;
}

/* skb_copy_bits(), also for frags that only the device can read. There is no
 * frag_list: NETIF_F_FRAGLIST is not offered.
 */
static bool swnic_gather(struct swnic *sw, const struct sk_buff *skb, u32 off,
			 u8 *to, u32 len)
{
	u32 head = skb_headlen(skb);
	u32 i, n, size;

	if (off < head) {
		n = min(len, head - off);
		memcpy(to, skb->data + off, n);
		off += n;
		to += n;
		len -= n;
	}
	off -= head;
	for (i = 0; len && i < skb_shinfo(skb)->nr_frags; i++) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];

		size = skb_frag_size(frag);
		if (off >= size) {
			off -= size;
			continue;
		}
		n = min(len, size - off);
		if (!swnic_copy_frag(sw, frag, off, to, n))
			return false;
		off = 0;
		to += n;
		len -= n;
	}
	return !len;
}

static struct swnic_frame *swnic_frame_whole(struct swnic_channel *ch,
					     struct sk_buff *skb)
{
	struct swnic_frame *frame;
	__sum16 *sum;
	__wsum csum;
	u32 start;

	frame = swnic_frame_alloc(skb->len);
	if (!frame)
		return NULL;
	if (!swnic_gather(ch->sw, skb, 0, frame->data, skb->len)) {
		kfree(frame);
		return NULL;
	}
	if (skb->ip_summed == CHECKSUM_PARTIAL) {
		start = skb_checksum_start_offset(skb);
		sum = (__sum16 *)(frame->data + start + skb->csum_offset);
		csum = csum_partial(frame->data + start, skb->len - start, 0);
		*sum = csum_fold(csum) ?: CSUM_MANGLED_0;
		ch->stats.tx_needs_csum++;
	} else {
		ch->stats.tx_csum_none++;
	}
	return frame;
}

static void swnic_segment_ip(const struct sk_buff *skb, u8 *data, u32 len,
			     u32 segs)
{
	u32 l3 = skb_network_offset(skb);

	if (skb_shinfo(skb)->gso_type & SKB_GSO_TCPV4) {
		struct iphdr *ip = (struct iphdr *)(data + l3);

		ip->tot_len = htons(len - l3);
		if (!(skb_shinfo(skb)->gso_type & SKB_GSO_TCP_FIXEDID))
			ip->id = htons(ntohs(ip->id) + segs);
		ip_send_check(ip);
	} else {
		struct ipv6hdr *ip6 = (struct ipv6hdr *)(data + l3);

		ip6->payload_len = htons(len - l3 - sizeof(*ip6));
	}
}

static void swnic_segment_tcp(const struct sk_buff *skb, u8 *data, u32 len,
			      u32 sent, bool last)
{
	u32 l3 = skb_network_offset(skb), l4 = skb_transport_offset(skb);
	struct tcphdr *th = (struct tcphdr *)(data + l4);
	u32 tcp_len = len - l4;
	__wsum csum;

	th->seq = htonl(ntohl(th->seq) + sent);
	if (!last) {
		th->fin = 0;
		th->psh = 0;
	}
	if (sent && !(skb_shinfo(skb)->gso_type & SKB_GSO_TCP_ACCECN))
		th->cwr = 0;

	th->check = 0;
	csum = csum_partial(th, tcp_len, 0);
	if (skb_shinfo(skb)->gso_type & SKB_GSO_TCPV4) {
		struct iphdr *ip = (struct iphdr *)(data + l3);

		th->check = csum_tcpudp_magic(ip->saddr, ip->daddr, tcp_len,
					      IPPROTO_TCP, csum);
	} else {
		struct ipv6hdr *ip6 = (struct ipv6hdr *)(data + l3);

		th->check = csum_ipv6_magic(&ip6->saddr, &ip6->daddr, tcp_len,
					    IPPROTO_TCP, csum);
	}
}

/* The next segment of a TSO packet. */
static struct swnic_frame *swnic_frame_segment(struct swnic_channel *ch,
					       struct sk_buff *skb)
{
	u32 hdr_len = skb_tcp_all_headers(skb);
	struct swnic_txq *tx = &ch->tx;
	struct swnic_frame *frame;
	u32 left, payload, len;

	left = skb->len - hdr_len - tx->sent;
	payload = min_t(u32, left, skb_shinfo(skb)->gso_size);
	len = hdr_len + payload;

	frame = swnic_frame_alloc(len);
	if (!frame)
		return NULL;
	memcpy(frame->data, skb->data, hdr_len);
	if (!swnic_gather(ch->sw, skb, hdr_len + tx->sent,
			  frame->data + hdr_len, payload)) {
		kfree(frame);
		return NULL;
	}
	swnic_segment_ip(skb, frame->data, len, tx->segs);
	swnic_segment_tcp(skb, frame->data, len, tx->sent, payload == left);
	tx->sent += payload;
	return frame;
}

static bool swnic_tx_begin(struct swnic_channel *ch, struct sk_buff *skb)
{
	struct swnic_txq *tx = &ch->tx;

	tx->begun = true;
	tx->sent = 0;
	tx->segs = 0;
	if (skb_is_gso(skb)) {
		if (!skb_is_gso_tcp(skb) ||
		    skb_headlen(skb) < skb_tcp_all_headers(skb))
			return false;
	} else if (skb->len > SWNIC_MAX_MTU + VLAN_ETH_HLEN) {
		return false;
	}
	tx->rxq = swnic_steer(ch->sw->peer, skb->data, skb_headlen(skb),
			      &tx->hash, &tx->hash_type);
	return tx->rxq >= 0;
}

static bool swnic_tx_end(const struct swnic_txq *tx, const struct sk_buff *skb)
{
	if (!skb_is_gso(skb))
		return tx->segs;
	return tx->sent >= skb->len - skb_tcp_all_headers(skb);
}

enum swnic_tx_result {
	SWNIC_TX_SENT,
	SWNIC_TX_BLOCKED,
	SWNIC_TX_FAILED,
};

/* Puts one frame of @skb on the wire. */
static enum swnic_tx_result swnic_tx_frame(struct swnic_channel *ch,
					   struct sk_buff *skb)
{
	struct swnic_txq *tx = &ch->tx;
	struct swnic_channel *to = &ch->sw->peer->ch[tx->rxq];
	struct swnic_frame *frame = tx->held;
	u32 len;

	if (!READ_ONCE(to->active)) {
		atomic64_inc(&to->sw->rx_missed);
		return SWNIC_TX_FAILED;
	}
	if (!frame) {
		frame = skb_is_gso(skb) ? swnic_frame_segment(ch, skb) :
					  swnic_frame_whole(ch, skb);
		if (!frame)
			return SWNIC_TX_FAILED;
		frame->hash = tx->hash;
		frame->hash_type = tx->hash_type;
	}
	len = frame->len;
	while (!swnic_wire_push(to, frame)) {
		tx->held = frame;
		if (swnic_wire_wait(to, ch->idx))
			return SWNIC_TX_BLOCKED;
		if (!READ_ONCE(to->active))
			return SWNIC_TX_FAILED;
	}
	tx->held = NULL;
	tx->segs++;
	ch->stats.tx_packets++;
	ch->stats.tx_bytes += len;
	swnic_kick(to);
	return SWNIC_TX_SENT;
}

/* Done with the packet at the tail, sent or not. */
static void swnic_tx_complete(struct swnic_channel *ch, bool ok, int budget)
{
	struct swnic_txq *tx = &ch->tx;
	struct sk_buff *skb = tx->slots[tx->tail % SWNIC_TX_SLOTS];

	if (!ok)
		ch->stats.tx_drops++;
	if (ok && skb_is_gso(skb)) {
		ch->stats.gso_packets++;
		ch->stats.gso_bytes += skb->len;
		ch->stats.gso_wire_packets += tx->segs;
		ch->stats.gso_wire_bytes += skb->len +
			(tx->segs - 1) * skb_tcp_all_headers(skb);
		ch->stats.tx_needs_csum += tx->segs;
	}
	kfree(tx->held);
	tx->held = NULL;
	tx->begun = false;
	napi_consume_skb(skb, budget);
	/* the slot is the sender's again: pairs with swnic_tx_room() */
	smp_store_release(&tx->tail, tx->tail + 1);
}

/* None while a ring that was made smaller holds more than it now may. */
static u32 swnic_tx_room(const struct swnic_channel *ch)
{
	const struct swnic_txq *tx = &ch->tx;
	u32 ring = READ_ONCE(ch->sw->tx_ring);
	u32 used;

	/* NAPI is done with the slot: pairs with swnic_tx_complete() */
	used = tx->head - smp_load_acquire(&tx->tail);
	return used < ring ? ring - used : 0;
}

/* As much room as wakes a queue that has stopped. */
static u32 swnic_tx_start(const struct swnic_channel *ch)
{
	return READ_ONCE(ch->sw->tx_ring) / 4;
}

/* Returns whether there is more that could be sent at once. */
bool swnic_tx_poll(struct swnic_channel *ch, int budget)
{
	struct netdev_queue *txq = netdev_get_tx_queue(ch->sw->dev, ch->idx);
	u32 frames = 0, pkts = 0, bytes = 0;
	struct swnic_txq *tx = &ch->tx;
	enum swnic_tx_result res = SWNIC_TX_SENT;

	while (frames < SWNIC_TX_BURST &&
	       /* the index before the slot: pairs with swnic_start_xmit() */
	       smp_load_acquire(&tx->head) != tx->tail) {
		struct sk_buff *skb = tx->slots[tx->tail % SWNIC_TX_SLOTS];
		u32 len = skb->len;

		if (!tx->begun && !swnic_tx_begin(ch, skb))
			res = SWNIC_TX_FAILED;
		else
			res = swnic_tx_frame(ch, skb);
		if (res == SWNIC_TX_BLOCKED)
			break;
		frames++;
		if (res == SWNIC_TX_SENT && !swnic_tx_end(tx, skb))
			continue;
		swnic_tx_complete(ch, res == SWNIC_TX_SENT, budget);
		pkts++;
		bytes += len;
	}
	if (!netif_txq_completed_wake(txq, pkts, bytes, swnic_tx_room(ch),
				      swnic_tx_start(ch)))
		ch->stats.tx_wake++;
	return res != SWNIC_TX_BLOCKED && READ_ONCE(tx->head) != tx->tail;
}

/* With NAPI disabled and the stack kept away. */
void swnic_tx_purge(struct swnic_channel *ch)
{
	struct swnic_txq *tx = &ch->tx;

	while (tx->head != tx->tail)
		swnic_tx_complete(ch, false, 0);
	netdev_tx_reset_subqueue(ch->sw->dev, ch->idx);
}

netdev_tx_t swnic_start_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_channel *ch = &sw->ch[skb_get_queue_mapping(skb)];
	struct netdev_queue *txq = netdev_get_tx_queue(dev, ch->idx);
	struct swnic_txq *tx = &ch->tx;
	bool doorbell;

	if (!READ_ONCE(ch->active)) {
		dev_kfree_skb_any(skb);
		return NETDEV_TX_OK;
	}
	if (unlikely(!swnic_tx_room(ch))) {
		netif_tx_stop_queue(txq);
		return NETDEV_TX_BUSY;
	}
	skb_tx_timestamp(skb);
	tx->slots[tx->head % SWNIC_TX_SLOTS] = skb;
	/* before NAPI can find the packet and report it as completed */
	doorbell = __netdev_tx_sent_queue(txq, skb->len, netdev_xmit_more());
	/* the slot before the index: pairs with swnic_tx_poll() */
	smp_store_release(&tx->head, tx->head + 1);
	if (!netif_txq_maybe_stop(txq, swnic_tx_room(ch), 1,
				  swnic_tx_start(ch)))
		ch->stats.tx_stop++;
	if (doorbell || netif_xmit_stopped(txq))
		swnic_kick(ch);
	return NETDEV_TX_OK;
}
