// SPDX-License-Identifier: GPL-2.0
/*
 * swnic: reception. Frames are bytes on the wire until NAPI has buffers for
 * them: headers go to host memory, the payload of TCP to the queue's payload
 * pool, whoever provides its memory. Everything else stays whole, in host
 * memory. Without a buffer a frame is dropped, and TCP sends it again.
 */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <net/page_pool/helpers.h>

#include "swnic.h"

#define SWNIC_HEADROOM	(NET_SKB_PAD + NET_IP_ALIGN)
/* More references than one buffer can ever be asked for. */
#define SWNIC_BUF_BIAS	(SWNIC_MAX_RX_PAGE + 1)

static bool swnic_buf_alloc(struct swnic_channel *ch, struct swnic_buf *buf)
{
	netmem_ref netmem = page_pool_dev_alloc_netmems(ch->pool);

	if (!netmem)
		return false;
	buf->va = swnic_dma_to_virt(ch->sw,
				    page_pool_get_dma_addr_netmem(netmem));
	if (!buf->va) {
		netdev_warn_once(ch->sw->dev, "payload memory is not RAM\n");
		page_pool_put_full_netmem(ch->pool, netmem, true);
		return false;
	}
	buf->netmem = netmem;
	buf->off = 0;
	buf->refs = 0;
	return true;
}

/* Gives back what is left of the shared buffer. Frags keep their share. */
void swnic_buf_retire(struct swnic_channel *ch, bool in_napi)
{
	struct swnic_buf *buf = &ch->buf;
	long unused = SWNIC_BUF_BIAS - buf->refs;

	if (!buf->netmem)
		return;
	if (!page_pool_unref_netmem(buf->netmem, unused))
		page_pool_put_unrefed_netmem(ch->pool, buf->netmem, -1,
					     in_napi);
	buf->netmem = 0;
}

static bool swnic_frag_extend(struct sk_buff *skb, const struct swnic_buf *buf,
			      u32 len)
{
	u32 nr = skb_shinfo(skb)->nr_frags;
	const skb_frag_t *frag;

	if (!nr)
		return false;
	frag = &skb_shinfo(skb)->frags[nr - 1];
	if (skb_frag_netmem(frag) != buf->netmem ||
	    skb_frag_off(frag) + skb_frag_size(frag) != buf->off)
		return false;
	skb_coalesce_rx_frag(skb, nr - 1, len, len);
	return true;
}

/* Back to back with what came before, in as many buffers as it takes. */
static bool swnic_payload_pack(struct swnic_channel *ch, struct sk_buff *skb,
			       const u8 *data, u32 len)
{
	struct swnic_buf *buf = &ch->buf;
	u32 n;

	for (; len; data += n, len -= n) {
		if (buf->netmem && buf->off == ch->buf_size)
			swnic_buf_retire(ch, true);
		if (!buf->netmem) {
			if (!swnic_buf_alloc(ch, buf))
				return false;
			page_pool_fragment_netmem(buf->netmem, SWNIC_BUF_BIAS);
		}
		n = min(len, ch->buf_size - buf->off);
		memcpy(buf->va + buf->off, data, n);
		if (!swnic_frag_extend(skb, buf, n)) {
			skb_add_rx_frag_netmem(skb, skb_shinfo(skb)->nr_frags,
					       buf->netmem, buf->off, n, n);
			buf->refs++;
		}
		buf->off += n;
	}
	return true;
}

/* "DMA" of @len payload bytes. Without @pack each frag has a buffer of its
 * own. On failure the caller frees @skb with the frags that it has.
 */
bool swnic_rx_payload(struct swnic_channel *ch, struct sk_buff *skb,
		      const u8 *data, u32 len, bool pack)
{
	struct swnic_buf buf;
	u32 n;

	if (pack)
		return swnic_payload_pack(ch, skb, data, len);

	for (; len; data += n, len -= n) {
		if (!swnic_buf_alloc(ch, &buf))
			return false;
		n = min(len, ch->buf_size);
		memcpy(buf.va, data, n);
		skb_add_rx_frag_netmem(skb, skb_shinfo(skb)->nr_frags,
				       buf.netmem, 0, n, ch->buf_size);
	}
	return true;
}

/* An skb that holds the headers alone. They lie in a page pool's page, and so
 * may the payload: GRO keeps such skbs apart from those that are not recycled.
 */
struct sk_buff *swnic_rx_head(struct swnic_channel *ch, const void *data,
			      u32 len)
{
	u32 size = SKB_HEAD_ALIGN(SWNIC_HEADROOM + len);
	struct sk_buff *skb;
	void *head;

	head = page_pool_dev_alloc_va(ch->hdr_pool, &size);
	if (!head)
		return NULL;
	skb = napi_build_skb(head, size);
	if (!skb) {
		page_pool_free_va(ch->hdr_pool, head, true);
		return NULL;
	}
	skb_mark_for_recycle(skb);
	skb_reserve(skb, SWNIC_HEADROOM);
	skb_put_data(skb, data, len);
	return skb;
}

/* @skb starts with its Ethernet header, and its checksum fields are set. */
void swnic_rx_deliver(struct swnic_channel *ch, struct sk_buff *skb,
		      u32 hash, enum pkt_hash_types hash_type)
{
	struct net_device *dev = ch->sw->dev;

	if (dev->features & NETIF_F_RXHASH)
		skb_set_hash(skb, hash, hash_type);
	skb_record_rx_queue(skb, ch->idx);
	skb->protocol = eth_type_trans(skb, dev);
	napi_gro_receive(&ch->napi, skb);
}

void swnic_rx_no_buffer(struct swnic_channel *ch)
{
	ch->stats.rx_alloc_fail++;
	ch->stats.rx_hw_drops++;
}

static void swnic_rx_whole(struct swnic_channel *ch,
			   const struct swnic_frame *frame, bool csum_ok)
{
	struct sk_buff *skb = napi_alloc_skb(&ch->napi, frame->len);

	if (!skb) {
		swnic_rx_no_buffer(ch);
		return;
	}
	skb_put_data(skb, frame->data, frame->len);
	if (csum_ok)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	swnic_rx_deliver(ch, skb, frame->hash, frame->hash_type);
}

static void swnic_rx_split(struct swnic_channel *ch,
			   const struct swnic_frame *frame,
			   const struct swnic_pkt *pkt)
{
	struct sk_buff *skb;

	skb = swnic_rx_head(ch, frame->data, pkt->payload);
	if (!skb) {
		swnic_rx_no_buffer(ch);
		return;
	}
	if (!swnic_rx_payload(ch, skb, frame->data + pkt->payload,
			      pkt->payload_len, false)) {
		dev_kfree_skb_any(skb);
		swnic_rx_no_buffer(ch);
		return;
	}
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	swnic_rx_deliver(ch, skb, frame->hash, frame->hash_type);
}

/* Part of the payload stays with the headers. Their memory must not be a page
 * (head_frag): GRO and TCP would make a readable frag of it, and an skb's
 * frags are either all readable or none.
 */
static void swnic_rx_partial(struct swnic_channel *ch,
			     const struct swnic_frame *frame,
			     const struct swnic_pkt *pkt, u32 linear)
{
	u32 head = pkt->payload + linear;
	struct sk_buff *skb;

	skb = alloc_skb(SWNIC_HEADROOM + head, GFP_ATOMIC | __GFP_NOWARN);
	if (!skb) {
		swnic_rx_no_buffer(ch);
		return;
	}
	skb_mark_for_recycle(skb);
	skb_reserve(skb, SWNIC_HEADROOM);
	skb_put_data(skb, frame->data, head);
	if (!swnic_rx_payload(ch, skb, frame->data + head,
			      pkt->payload_len - linear, false)) {
		dev_kfree_skb_any(skb);
		swnic_rx_no_buffer(ch);
		return;
	}
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	swnic_rx_deliver(ch, skb, frame->hash, frame->hash_type);
}

static bool swnic_wants_split(const struct swnic *sw,
			      const struct swnic_frame *frame,
			      const struct swnic_pkt *pkt)
{
	return swnic_splits(sw) && pkt->payload_len &&
	       frame->len > READ_ONCE(sw->hds_thresh);
}

/* The test parameters: how many payload bytes stay in host memory. */
static u32 swnic_linear_bytes(struct swnic_channel *ch,
			      const struct swnic_pkt *pkt)
{
	u32 every = READ_ONCE(swnic_unsplit_every);
	u32 bytes = READ_ONCE(swnic_unsplit_bytes);

	if (!every || ++ch->tcp_data_seen % every)
		return 0;
	return bytes ? min_t(u32, bytes, pkt->payload_len) : pkt->payload_len;
}

static bool swnic_rx_csum(struct swnic_channel *ch,
			  const struct swnic_frame *frame,
			  const struct swnic_pkt *pkt)
{
	if (!pkt->proto) {
		ch->stats.rx_csum_none++;
		return false;
	}
	if (pkt->l3_end <= frame->len && pkt->l3_end > pkt->l4 &&
	    swnic_csum_ok(frame->data, pkt)) {
		ch->stats.rx_csum_good++;
		return true;
	}
	ch->stats.rx_csum_bad++;
	return false;
}

static void swnic_rx_frame(struct swnic_channel *ch,
			   const struct swnic_frame *frame)
{
	struct bpf_prog *prog = READ_ONCE(ch->sw->xdp_prog);
	struct swnic_pkt pkt;
	u32 linear;
	bool csum_ok;

	ch->stats.rx_packets++;
	ch->stats.rx_bytes += frame->len;
	swnic_parse(frame->data, frame->len, &pkt);
	csum_ok = swnic_rx_csum(ch, frame, &pkt);

	/* What is wrong in a packet is for the stack to see: host memory. */
	if (prog || !csum_ok || !swnic_wants_split(ch->sw, frame, &pkt)) {
		swnic_coalesce_flush(ch);
		if (prog)
			swnic_rx_xdp(ch, prog, frame, csum_ok);
		else
			swnic_rx_whole(ch, frame, csum_ok);
		return;
	}

	linear = swnic_linear_bytes(ch, &pkt);
	if (!linear && ch->sw->dev->features & NETIF_F_GRO_HW &&
	    swnic_coalesce(ch, frame, &pkt))
		return;
	swnic_coalesce_flush(ch);
	if (linear == pkt.payload_len)
		swnic_rx_whole(ch, frame, true);
	else if (linear)
		swnic_rx_partial(ch, frame, &pkt, linear);
	else
		swnic_rx_split(ch, frame, &pkt);
}

int swnic_rx_poll(struct swnic_channel *ch, int budget)
{
	struct swnic_frame *frame;
	int work = 0;

	while (work < budget) {
		frame = swnic_wire_pop(&ch->wire);
		if (!frame)
			break;
		swnic_rx_frame(ch, frame);
		kfree(frame);
		work++;
	}
	/* The flow may go on in the next poll, if there is one. */
	if (work < budget)
		swnic_coalesce_flush(ch);
	if (work)
		swnic_wire_wake(ch);
	return work;
}

/* With NAPI disabled: lets go of all that came out of the payload pool. */
void swnic_rx_purge(struct swnic_channel *ch)
{
	dev_kfree_skb_any(ch->agg.skb);
	ch->agg.skb = NULL;
	swnic_buf_retire(ch, false);
}
