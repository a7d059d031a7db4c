// SPDX-License-Identifier: GPL-2.0
/*
 * swnic: XDP. While a program is attached every packet goes, unsplit, to host
 * memory out of the header pool: the first page has head- and tailroom, and
 * what does not fit there is in the frags of a multi-buffer packet.
 */
#include <linux/bpf_trace.h>
#include <linux/etherdevice.h>
#include <linux/filter.h>
#include <net/page_pool/helpers.h>

#include "swnic.h"

bool swnic_xdp_fits(const struct bpf_prog *prog, int mtu)
{
	return prog->aux->xdp_has_frags || mtu + ETH_HLEN <= SWNIC_XDP_LINEAR;
}

/* The core refuses a program while a memory provider is installed, and one
 * that is not ready for fragments while header split is on (dev_xdp_install).
 */
int swnic_bpf(struct net_device *dev, struct netdev_bpf *bpf)
{
	struct swnic *sw = netdev_priv(dev);
	struct bpf_prog *old;

	if (bpf->command != XDP_SETUP_PROG)
		return -EINVAL;
	if (bpf->prog && !swnic_xdp_fits(bpf->prog, dev->mtu)) {
		NL_SET_ERR_MSG_MOD(bpf->extack,
				   "MTU too large for XDP without frags");
		return -EINVAL;
	}
	if (bpf->prog && swnic_driver->rings.split == SWNIC_SPLIT_GRO &&
	    dev->features & (NETIF_F_LRO | NETIF_F_GRO_HW)) {
		NL_SET_ERR_MSG_MOD(bpf->extack, "HW-GRO or LRO is on");
		return -EINVAL;
	}
	old = xchg(&sw->xdp_prog, bpf->prog);
	if (old)
		bpf_prog_put(old);
	return 0;
}

/* "DMA" of what is left of a frame whose first bytes are in @xdp. */
static bool swnic_xdp_add_frags(struct swnic_channel *ch, struct xdp_buff *xdp,
				const u8 *data, u32 len)
{
	struct page *page;
	u32 n;

	for (; len; data += n, len -= n) {
		page = page_pool_dev_alloc_pages(ch->hdr_pool);
		if (!page)
			return false;
		n = min_t(u32, len, PAGE_SIZE);
		memcpy(page_address(page), data, n);
		if (!xdp_buff_add_frag(xdp, page_to_netmem(page), 0, n,
				       PAGE_SIZE)) {
			page_pool_put_full_page(ch->hdr_pool, page, true);
			return false;
		}
	}
	return true;
}

static bool swnic_xdp_fill(struct swnic_channel *ch, struct xdp_buff *xdp,
			   const struct swnic_frame *frame)
{
	struct page *page = page_pool_dev_alloc_pages(ch->hdr_pool);
	u32 linear = min_t(u32, frame->len, SWNIC_XDP_LINEAR);

	if (!page)
		return false;
	xdp_init_buff(xdp, PAGE_SIZE, &ch->xdp_rxq);
	xdp_prepare_buff(xdp, page_address(page), XDP_PACKET_HEADROOM, linear,
			 true);
	memcpy(xdp->data, frame->data, linear);
	if (!swnic_xdp_add_frags(ch, xdp, frame->data + linear,
				 frame->len - linear)) {
		xdp_return_buff(xdp);
		return false;
	}
	return true;
}

static struct swnic_frame *swnic_xdp_to_frame(struct xdp_buff *xdp)
{
	u32 linear = xdp->data_end - xdp->data;
	const struct skb_shared_info *sinfo;
	struct swnic_frame *frame;
	const skb_frag_t *frag;
	u8 *to;
	u32 i;

	frame = swnic_frame_alloc(xdp_get_buff_len(xdp));
	if (!frame)
		return NULL;
	memcpy(frame->data, xdp->data, linear);
	if (!xdp_buff_has_frags(xdp))
		return frame;

	to = frame->data + linear;
	sinfo = xdp_get_shared_info_from_buff(xdp);
	for (i = 0; i < sinfo->nr_frags; i++) {
		frag = &sinfo->frags[i];
		memcpy(to, skb_frag_address(frag), skb_frag_size(frag));
		to += skb_frag_size(frag);
	}
	return frame;
}

/* XDP_TX: straight back over the wire. */
static void swnic_xdp_bounce(struct swnic_channel *ch, struct xdp_buff *xdp)
{
	struct swnic *peer = ch->sw->peer;
	struct swnic_channel *to;
	struct swnic_frame *frame;
	int rxq;
	u32 len;

	frame = swnic_xdp_to_frame(xdp);
	if (!frame)
		goto drop;
	rxq = swnic_steer(peer, frame->data, frame->len, &frame->hash,
			  &frame->hash_type);
	if (rxq < 0)
		goto drop;
	to = &peer->ch[rxq];
	len = frame->len;
	if (!READ_ONCE(to->active) || !swnic_wire_push(to, frame))
		goto drop;
	swnic_kick(to);
	ch->stats.tx_packets++;
	ch->stats.tx_bytes += len;
	return;

drop:
	kfree(frame);
	ch->stats.tx_drops++;
}

static void swnic_xdp_pass(struct swnic_channel *ch, struct xdp_buff *xdp,
			   bool csum_ok)
{
	struct sk_buff *skb = xdp_build_skb_from_buff(xdp);

	if (!skb) {
		swnic_rx_no_buffer(ch);
		xdp_return_buff(xdp);
		return;
	}
	if (csum_ok)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	napi_gro_receive(&ch->napi, skb);
}

void swnic_rx_xdp(struct swnic_channel *ch, struct bpf_prog *prog,
		  const struct swnic_frame *frame, bool csum_ok)
{
	struct net_device *dev = ch->sw->dev;
	struct xdp_buff xdp;
	u32 act;

	/* a longer frame than this end's MTU, for a program without frags */
	if (frame->len > SWNIC_XDP_LINEAR && !prog->aux->xdp_has_frags) {
		ch->stats.rx_hw_drops++;
		return;
	}
	if (!swnic_xdp_fill(ch, &xdp, frame)) {
		swnic_rx_no_buffer(ch);
		return;
	}
	act = bpf_prog_run_xdp(prog, &xdp);
	switch (act) {
	case XDP_PASS:
		swnic_xdp_pass(ch, &xdp, csum_ok);
		return;
	case XDP_TX:
		swnic_xdp_bounce(ch, &xdp);
		break;
	default:
		bpf_warn_invalid_xdp_action(dev, prog, act);
		fallthrough;
	case XDP_ABORTED:
		trace_xdp_exception(dev, prog, act);
		fallthrough;
	case XDP_DROP:
		break;
	}
	xdp_return_buff(&xdp);
}
