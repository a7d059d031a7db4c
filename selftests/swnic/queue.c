// SPDX-License-Identifier: GPL-2.0
/* swnic: channels, their page pools, and the queue management operations. */
#include <linux/mm.h>
#include <net/netdev_lock.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>

#include "swnic.h"

/* What a restart replaces. The rest of a channel stays as it is, and frames
 * that arrive meanwhile wait on the wire.
 */
struct swnic_queue_mem {
	struct page_pool	*pool;
	u32			buf_size;
};

static int swnic_poll(struct napi_struct *napi, int budget)
{
	struct swnic_channel *ch = container_of(napi, struct swnic_channel,
						napi);
	bool more;
	int work;

	more = swnic_tx_poll(ch, budget);
	if (!budget)
		return 0;
	work = swnic_rx_poll(ch, budget);
	if (more)
		return budget;
	if (work < budget)
		napi_complete_done(napi, work);
	return work;
}

/* The interrupt: a frame has arrived, or there is room or work to transmit.
 * Softirqs are off, which also holds up synchronize_net() in
 * swnic_channels_down().
 */
void swnic_kick(struct swnic_channel *ch)
{
	if (READ_ONCE(ch->active))
		napi_schedule(&ch->napi);
}

/* The pool that a memory provider may take over: page_pool_init() finds the
 * one installed for this queue. Direct recycling starts with the queue.
 */
static struct page_pool *swnic_payload_pool(struct swnic *sw, u32 idx, u32 size)
{
	const struct page_pool_params params = {
		.order		= get_order(size),
		.pool_size	= 4096,
		.nid		= NUMA_NO_NODE,
		.dev		= swnic_dma_dev(sw),
		.dma_dir	= DMA_FROM_DEVICE,
		.max_len	= size,
		.netdev		= sw->dev,
		.queue_idx	= idx,
		.flags		= PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV |
				  PP_FLAG_ALLOW_UNREADABLE_NETMEM,
	};

	return page_pool_create(&params);
}

/* Headers, and whole packets for XDP: always host memory. */
static struct page_pool *swnic_header_pool(struct swnic_channel *ch)
{
	const struct page_pool_params params = {
		.pool_size	= SWNIC_WIRE_SLOTS,
		.nid		= NUMA_NO_NODE,
		.dev		= swnic_dma_dev(ch->sw),
		.napi		= &ch->napi,
		.dma_dir	= DMA_FROM_DEVICE,
		.netdev		= ch->sw->dev,
		.queue_idx	= ch->idx,
	};

	return page_pool_create(&params);
}

static void swnic_queue_resume(struct swnic_channel *ch,
			       const struct swnic_queue_mem *mem)
{
	ch->pool = mem->pool;
	ch->buf_size = mem->buf_size;
	page_pool_enable_direct_recycling(ch->pool, &ch->napi);
	napi_enable_locked(&ch->napi);
	WRITE_ONCE(ch->active, true);
	local_bh_disable();
	swnic_kick(ch);
	local_bh_enable();
}

/* After this nobody polls the channel. The wire and the tx ring keep what
 * they hold.
 */
static void swnic_queue_pause(struct swnic_channel *ch)
{
	napi_disable_locked(&ch->napi);
	swnic_rx_purge(ch);
}

static int swnic_channel_up(struct swnic_channel *ch)
{
	struct netdev_queue_config qcfg;
	struct swnic_queue_mem mem;
	struct swnic *sw = ch->sw;
	int err;

	if (sw->dev->queue_mgmt_ops)
		netdev_queue_config(sw->dev, ch->idx, &qcfg);
	else
		qcfg.rx_page_size = PAGE_SIZE;
	mem.buf_size = qcfg.rx_page_size;
	mem.pool = swnic_payload_pool(sw, ch->idx, mem.buf_size);
	if (IS_ERR(mem.pool))
		return PTR_ERR(mem.pool);

	netif_napi_add_config_locked(sw->dev, &ch->napi, swnic_poll, ch->idx);
	ch->hdr_pool = swnic_header_pool(ch);
	if (IS_ERR(ch->hdr_pool)) {
		err = PTR_ERR(ch->hdr_pool);
		goto err_napi_del;
	}
	err = xdp_rxq_info_reg(&ch->xdp_rxq, sw->dev, ch->idx, 0);
	if (err)
		goto err_hdr_pool;
	err = xdp_rxq_info_reg_mem_model(&ch->xdp_rxq, MEM_TYPE_PAGE_POOL,
					 ch->hdr_pool);
	if (err)
		goto err_rxq_info;

	netif_queue_set_napi(sw->dev, ch->idx, NETDEV_QUEUE_TYPE_RX, &ch->napi);
	netif_queue_set_napi(sw->dev, ch->idx, NETDEV_QUEUE_TYPE_TX, &ch->napi);
	swnic_queue_resume(ch, &mem);
	return 0;

err_rxq_info:
	xdp_rxq_info_unreg(&ch->xdp_rxq);
err_hdr_pool:
	page_pool_destroy(ch->hdr_pool);
err_napi_del:
	ch->hdr_pool = NULL;
	netif_napi_del_locked(&ch->napi);
	page_pool_destroy(mem.pool);
	return err;
}

static void swnic_wire_purge(struct swnic_channel *ch)
{
	struct swnic_frame *frame;

	while ((frame = swnic_wire_pop(&ch->wire))) {
		ch->stats.rx_hw_drops++;
		kfree(frame);
	}
}

static void swnic_channel_down(struct swnic_channel *ch)
{
	struct net_device *dev = ch->sw->dev;

	if (!ch->hdr_pool)
		return;		/* it could not be brought up again */
	swnic_queue_pause(ch);
	netif_queue_set_napi(dev, ch->idx, NETDEV_QUEUE_TYPE_RX, NULL);
	netif_queue_set_napi(dev, ch->idx, NETDEV_QUEUE_TYPE_TX, NULL);
	swnic_wire_purge(ch);
	swnic_tx_purge(ch);
	xdp_rxq_info_unreg(&ch->xdp_rxq);
	netif_napi_del_locked(&ch->napi);
	page_pool_destroy(ch->pool);
	page_pool_destroy(ch->hdr_pool);
	ch->pool = NULL;
	ch->hdr_pool = NULL;
	/* Whoever waited for room here finds the queue gone and moves on. */
	local_bh_disable();
	swnic_wire_wake(ch);
	local_bh_enable();
}

void swnic_channels_down(struct swnic *sw, u32 from, u32 to)
{
	u32 i;

	for (i = from; i < to; i++)
		WRITE_ONCE(sw->ch[i].active, false);
	/* Nobody kicks these channels, or puts frames on their wires, now. */
	synchronize_net();
	for (i = from; i < to; i++)
		swnic_channel_down(&sw->ch[i]);
}

int swnic_channels_up(struct swnic *sw, u32 from, u32 to)
{
	u32 i;
	int err;

	for (i = from; i < to; i++) {
		err = swnic_channel_up(&sw->ch[i]);
		if (err) {
			swnic_channels_down(sw, from, i);
			return err;
		}
	}
	return 0;
}

/* As drivers do that take everything down to change something. What is on its
 * way is lost; memory providers stay.
 */
int swnic_restart(struct swnic *sw)
{
	u32 live = swnic_live_channels(sw->dev);
	int err;

	if (!netif_running(sw->dev))
		return 0;
	netif_tx_stop_all_queues(sw->dev);
	swnic_channels_down(sw, 0, live);
	err = swnic_channels_up(sw, 0, live);
	if (err)
		return err;
	netif_tx_wake_all_queues(sw->dev);
	return 0;
}

int swnic_channels_alloc(struct swnic *sw)
{
	struct swnic_channel *ch;
	u32 i;

	sw->ch = kvcalloc(sw->max_queues, sizeof(*sw->ch), GFP_KERNEL);
	if (!sw->ch)
		return -ENOMEM;
	for (i = 0; i < sw->max_queues; i++) {
		ch = &sw->ch[i];
		ch->sw = sw;
		ch->idx = i;
		spin_lock_init(&ch->wire.lock);
		ch->wire.slots = kvcalloc(SWNIC_WIRE_SLOTS,
					  sizeof(*ch->wire.slots), GFP_KERNEL);
		ch->tx.slots = kvcalloc(SWNIC_TX_SLOTS, sizeof(*ch->tx.slots),
					GFP_KERNEL);
		if (!ch->wire.slots || !ch->tx.slots) {
			swnic_channels_free(sw);
			return -ENOMEM;
		}
	}
	return 0;
}

void swnic_channels_free(struct swnic *sw)
{
	u32 i;

	for (i = 0; i < sw->max_queues; i++) {
		kvfree(sw->ch[i].wire.slots);
		kvfree(sw->ch[i].tx.slots);
	}
	kvfree(sw->ch);
}

static int swnic_queue_mem_alloc(struct net_device *dev,
				 struct netdev_queue_config *qcfg,
				 void *per_queue_mem, int idx)
{
	struct swnic_queue_mem *mem = per_queue_mem;
	struct swnic *sw = netdev_priv(dev);

	if (swnic_driver->queues.down_error && !netif_running(dev))
		return swnic_driver->queues.down_error;
	mem->buf_size = qcfg->rx_page_size;
	mem->pool = swnic_payload_pool(sw, idx, mem->buf_size);
	return PTR_ERR_OR_ZERO(mem->pool);
}

static void swnic_queue_mem_free(struct net_device *dev, void *per_queue_mem)
{
	struct swnic_queue_mem *mem = per_queue_mem;

	page_pool_destroy(mem->pool);
}

static int swnic_queue_start(struct net_device *dev,
			     struct netdev_queue_config *qcfg,
			     void *per_queue_mem, int idx)
{
	struct swnic *sw = netdev_priv(dev);

	swnic_queue_resume(&sw->ch[idx], per_queue_mem);
	return 0;
}

static int swnic_queue_stop(struct net_device *dev, void *per_queue_mem,
			    int idx)
{
	struct swnic_queue_mem *mem = per_queue_mem;
	struct swnic *sw = netdev_priv(dev);
	struct swnic_channel *ch = &sw->ch[idx];

	if (idx < swnic_driver->queues.first)
		return -ERANGE;
	swnic_queue_pause(ch);
	page_pool_disable_direct_recycling(ch->pool);
	mem->pool = ch->pool;
	mem->buf_size = ch->buf_size;
	return 0;
}

static void swnic_default_qcfg(struct net_device *dev,
			       struct netdev_queue_config *qcfg)
{
	qcfg->rx_page_size = PAGE_SIZE;
}

static int swnic_validate_qcfg(struct net_device *dev,
			       struct netdev_queue_config *qcfg,
			       struct netlink_ext_ack *extack)
{
	if (!is_power_of_2(qcfg->rx_page_size) ||
	    qcfg->rx_page_size < PAGE_SIZE ||
	    qcfg->rx_page_size > SWNIC_MAX_RX_PAGE) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "rx page size must be a power of two from %lu to %u",
				       PAGE_SIZE, SWNIC_MAX_RX_PAGE);
		return -ERANGE;
	}
	return 0;
}

const struct netdev_queue_mgmt_ops swnic_queue_mgmt_ops = {
	.ndo_queue_mem_size	= sizeof(struct swnic_queue_mem),
	.ndo_queue_mem_alloc	= swnic_queue_mem_alloc,
	.ndo_queue_mem_free	= swnic_queue_mem_free,
	.ndo_queue_start	= swnic_queue_start,
	.ndo_queue_stop		= swnic_queue_stop,
	.ndo_default_qcfg	= swnic_default_qcfg,
	.ndo_validate_qcfg	= swnic_validate_qcfg,
	.supported_params	= QCFG_RX_PAGE_SIZE,
};
