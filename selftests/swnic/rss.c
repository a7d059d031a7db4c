// SPDX-License-Identifier: GPL-2.0
/* swnic: ethtool: RSS tables, keys, hash fields, and contexts of them. */
#include <linux/ethtool.h>
#include <linux/netdevice.h>

#include "swnic.h"

u32 swnic_get_rx_ring_count(struct net_device *dev)
{
	return dev->real_num_rx_queues;
}

u32 swnic_get_rxfh_key_size(struct net_device *dev)
{
	return swnic_driver->rss.key;
}

u32 swnic_get_rxfh_indir_size(struct net_device *dev)
{
	struct swnic *sw = netdev_priv(dev);

	return sw->rss_entries;
}

int swnic_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh)
{
	struct swnic *sw = netdev_priv(dev);

	rxfh->hfunc = ETH_RSS_HASH_TOP;
	rxfh->input_xfrm = sw->rss.input_xfrm;
	if (rxfh->indir)
		memcpy(rxfh->indir, sw->rss.indir,
		       sw->rss_entries * sizeof(*rxfh->indir));
	if (rxfh->key)
		memcpy(rxfh->key, sw->rss.key, swnic_driver->rss.key);
	return 0;
}

static int swnic_rss_check(const struct ethtool_rxfh_param *rxfh,
			   struct netlink_ext_ack *extack)
{
	if (rxfh->hfunc != ETH_RSS_HASH_NO_CHANGE &&
	    rxfh->hfunc != ETH_RSS_HASH_TOP) {
		NL_SET_ERR_MSG_MOD(extack, "only Toeplitz is supported");
		return -EOPNOTSUPP;
	}
	return 0;
}

static void swnic_rss_update(struct swnic *sw, struct swnic_rss *rss,
			     const struct ethtool_rxfh_param *rxfh)
{
	spin_lock_bh(&sw->steer_lock);
	if (rxfh->indir)
		memcpy(rss->indir, rxfh->indir,
		       sw->rss_entries * sizeof(*rss->indir));
	if (rxfh->key)
		memcpy(rss->key, rxfh->key, swnic_driver->rss.key);
	if (rxfh->input_xfrm != RXH_XFRM_NO_CHANGE)
		rss->input_xfrm = rxfh->input_xfrm;
	spin_unlock_bh(&sw->steer_lock);
}

int swnic_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		   struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	int err;

	err = swnic_rss_check(rxfh, extack) ?:
	      swnic_may_set(BIT(SWNIC_SET_RSS), extack);
	if (err)
		return err;
	if (!swnic_forgets(SWNIC_SET_RSS))
		swnic_rss_update(sw, &sw->rss, rxfh);
	return swnic_driver->rss.restarts ? swnic_restart(sw) : 0;
}

static int swnic_ctx_check(const struct swnic *sw,
			   const struct ethtool_rxfh_param *rxfh,
			   struct netlink_ext_ack *extack)
{
	if (swnic_driver->rss.down_error && !netif_running(sw->dev)) {
		NL_SET_ERR_MSG_MOD(extack, "the device is down");
		return swnic_driver->rss.down_error;
	}
	return swnic_rss_check(rxfh, extack);
}

int swnic_create_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_rss *rss;
	u32 i;
	int err;

	err = swnic_ctx_check(sw, rxfh, extack) ?:
	      swnic_may_set(BIT(SWNIC_SET_CTX_CREATE), extack);
	if (err)
		return err;
	rss = kvzalloc(sizeof(*rss), GFP_KERNEL);
	if (!rss)
		return -ENOMEM;
	for (i = 0; i < sw->rss_entries; i++)
		rss->indir[i] =
			ethtool_rxfh_indir_default(i, dev->real_num_rx_queues);
	memcpy(rss->key, sw->rss.key, sizeof(rss->key));
	memcpy(rss->fields, sw->rss.fields, sizeof(rss->fields));
	swnic_rss_update(sw, rss, rxfh);

	ctx->hfunc = ETH_RSS_HASH_TOP;
	ctx->input_xfrm = rss->input_xfrm;
	memcpy(ethtool_rxfh_context_indir(ctx), rss->indir,
	       sw->rss_entries * sizeof(*rss->indir));
	memcpy(ethtool_rxfh_context_key(ctx), rss->key, swnic_driver->rss.key);
	sw->ctx[rxfh->rss_context] = rss;
	return 0;
}

int swnic_modify_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	int err;

	err = swnic_ctx_check(sw, rxfh, extack);
	if (err)
		return err;
	swnic_rss_update(sw, sw->ctx[rxfh->rss_context], rxfh);
	return 0;
}

static bool swnic_ctx_used(const struct swnic *sw, u32 id)
{
	u32 i;

	for (i = 0; i < sw->rules_end; i++)
		if (sw->rules[i].used &&
		    sw->rules[i].fs.flow_type & FLOW_RSS &&
		    sw->rules[i].rss_context == id)
			return true;
	return false;
}

int swnic_remove_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx, u32 rss_context,
			      struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_rss *rss;
	int err;

	if (swnic_ctx_used(sw, rss_context)) {
		NL_SET_ERR_MSG_MOD(extack, "a rule uses the context");
		return -EBUSY;
	}
	err = swnic_may_set(BIT(SWNIC_SET_CTX_DELETE), extack);
	if (err)
		return err;
	spin_lock_bh(&sw->steer_lock);
	rss = sw->ctx[rss_context];
	sw->ctx[rss_context] = NULL;
	spin_unlock_bh(&sw->steer_lock);
	kvfree(rss);
	return 0;
}

/* The core asks for the hash fields of contexts that may not exist
 * (rss_prepare, ethtool_set_rxfh_fields).
 */
static struct swnic_rss *swnic_rss_of(struct swnic *sw, u32 context)
{
	if (!context)
		return &sw->rss;
	return context < SWNIC_MAX_RSS_CTX ? sw->ctx[context] : NULL;
}

static int swnic_hash_flow(u32 flow_type)
{
	switch (flow_type) {
	case TCP_V4_FLOW:
		return SWNIC_HASH_TCP4;
	case UDP_V4_FLOW:
		return SWNIC_HASH_UDP4;
	case TCP_V6_FLOW:
		return SWNIC_HASH_TCP6;
	case UDP_V6_FLOW:
		return SWNIC_HASH_UDP6;
	}
	return -EOPNOTSUPP;
}

int swnic_get_rxfh_fields(struct net_device *dev,
			  struct ethtool_rxfh_fields *fields)
{
	struct swnic_rss *rss = swnic_rss_of(netdev_priv(dev),
					     fields->rss_context);
	int flow = swnic_hash_flow(fields->flow_type);

	if (!rss)
		return -ENOENT;
	if (flow >= 0) {
		fields->data = rss->fields[flow];
		return 0;
	}
	switch (fields->flow_type) {
	case IPV4_FLOW:
	case IPV6_FLOW:
		fields->data = RXH_IP_SRC | RXH_IP_DST;
		return 0;
	}
	return -EOPNOTSUPP;
}

int swnic_set_rxfh_fields(struct net_device *dev,
			  const struct ethtool_rxfh_fields *fields,
			  struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_rss *rss = swnic_rss_of(sw, fields->rss_context);
	int flow = swnic_hash_flow(fields->flow_type);

	if (!rss)
		return -ENOENT;
	if (flow < 0)
		return flow;
	if (fields->data & ~(RXH_IP_SRC | RXH_IP_DST |
			     RXH_L4_B_0_1 | RXH_L4_B_2_3)) {
		NL_SET_ERR_MSG_MOD(extack, "only addresses and ports");
		return -EOPNOTSUPP;
	}
	spin_lock_bh(&sw->steer_lock);
	rss->fields[flow] = fields->data;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

