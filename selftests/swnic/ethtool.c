// SPDX-License-Identifier: GPL-2.0
/* swnic: ethtool: link, rings, channels, RSS and ntuple rules. */
#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <linux/etherdevice.h>
#include <net/netdev_lock.h>

#include "swnic.h"

static void swnic_get_drvinfo(struct net_device *dev,
			      struct ethtool_drvinfo *info)
{
	struct swnic *sw = netdev_priv(dev);

	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
	strscpy(info->bus_info, dev_name(&sw->pdev->dev),
		sizeof(info->bus_info));
}

static int swnic_get_link_ksettings(struct net_device *dev,
				    struct ethtool_link_ksettings *cmd)
{
	cmd->base.speed = SPEED_100000;
	cmd->base.duplex = DUPLEX_FULL;
	cmd->base.port = PORT_OTHER;
	cmd->base.autoneg = AUTONEG_DISABLE;
	return 0;
}

static void swnic_get_ringparam(struct net_device *dev,
				struct ethtool_ringparam *ring,
				struct kernel_ethtool_ringparam *kernel_ring,
				struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);

	ring->rx_max_pending = SWNIC_WIRE_SLOTS;
	ring->rx_pending = SWNIC_WIRE_SLOTS;
	ring->tx_max_pending = SWNIC_TX_SLOTS;
	ring->tx_pending = SWNIC_TX_SLOTS;
	kernel_ring->hds_thresh_max = SWNIC_MAX_HDS_THRESH;
	kernel_ring->hds_thresh = sw->hds_thresh;
	kernel_ring->tcp_data_split = sw->hds ? ETHTOOL_TCP_DATA_SPLIT_ENABLED :
						ETHTOOL_TCP_DATA_SPLIT_DISABLED;
}

/* The core has checked memory providers and XDP already (ethnl_set_rings). */
static int swnic_set_ringparam(struct net_device *dev,
			       struct ethtool_ringparam *ring,
			       struct kernel_ethtool_ringparam *kernel_ring,
			       struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);

	if (ring->rx_pending != SWNIC_WIRE_SLOTS ||
	    ring->tx_pending != SWNIC_TX_SLOTS) {
		NL_SET_ERR_MSG_MOD(extack, "ring sizes are fixed");
		return -EINVAL;
	}
	WRITE_ONCE(sw->hds, kernel_ring->tcp_data_split ==
			    ETHTOOL_TCP_DATA_SPLIT_ENABLED);
	WRITE_ONCE(sw->hds_thresh, kernel_ring->hds_thresh);
	return 0;
}

static void swnic_get_channels(struct net_device *dev,
			       struct ethtool_channels *ch)
{
	struct swnic *sw = netdev_priv(dev);

	ch->max_combined = sw->max_queues;
	ch->combined_count = dev->real_num_rx_queues;
}

/* The core has refused to take away a queue that is bound, leased, or the
 * target of a rule or a table (ethnl_set_channels).
 */
static int swnic_set_channels(struct net_device *dev,
			      struct ethtool_channels *ch)
{
	struct swnic *sw = netdev_priv(dev);
	u32 old = dev->real_num_rx_queues;
	u32 new = ch->combined_count;
	int err;

	if (new > old && netif_running(dev)) {
		err = swnic_channels_up(sw, old, new);
		if (err)
			return err;
	}
	err = netif_set_real_num_queues(dev, new, new);
	if (err) {
		if (new > old && netif_running(dev))
			swnic_channels_down(sw, old, new);
		return err;
	}
	if (!netif_is_rxfh_configured(dev))
		swnic_rss_default(sw, new);
	if (new > old && netif_running(dev))
		netif_tx_wake_all_queues(dev);
	if (new < old && netif_running(dev))
		swnic_channels_down(sw, new, old);
	return 0;
}

static u32 swnic_get_rx_ring_count(struct net_device *dev)
{
	return dev->real_num_rx_queues;
}

static u32 swnic_get_rxfh_key_size(struct net_device *dev)
{
	return SWNIC_RSS_KEY;
}

static u32 swnic_get_rxfh_indir_size(struct net_device *dev)
{
	return SWNIC_RSS_INDIR;
}

static int swnic_get_rxfh(struct net_device *dev,
			  struct ethtool_rxfh_param *rxfh)
{
	struct swnic *sw = netdev_priv(dev);

	rxfh->hfunc = ETH_RSS_HASH_TOP;
	if (rxfh->indir)
		memcpy(rxfh->indir, sw->rss.indir, sizeof(sw->rss.indir));
	if (rxfh->key)
		memcpy(rxfh->key, sw->rss.key, sizeof(sw->rss.key));
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
		memcpy(rss->indir, rxfh->indir, sizeof(rss->indir));
	if (rxfh->key)
		memcpy(rss->key, rxfh->key, sizeof(rss->key));
	spin_unlock_bh(&sw->steer_lock);
}

static int swnic_set_rxfh(struct net_device *dev,
			  struct ethtool_rxfh_param *rxfh,
			  struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	int err;

	err = swnic_rss_check(rxfh, extack);
	if (err)
		return err;
	swnic_rss_update(sw, &sw->rss, rxfh);
	return 0;
}

static int swnic_create_rxfh_context(struct net_device *dev,
				     struct ethtool_rxfh_context *ctx,
				     const struct ethtool_rxfh_param *rxfh,
				     struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_rss *rss;
	u32 i;
	int err;

	err = swnic_rss_check(rxfh, extack);
	if (err)
		return err;
	rss = kzalloc_obj(*rss);
	if (!rss)
		return -ENOMEM;
	for (i = 0; i < SWNIC_RSS_INDIR; i++)
		rss->indir[i] =
			ethtool_rxfh_indir_default(i, dev->real_num_rx_queues);
	memcpy(rss->key, sw->rss.key, sizeof(rss->key));
	swnic_rss_update(sw, rss, rxfh);

	ctx->hfunc = ETH_RSS_HASH_TOP;
	ctx->input_xfrm = 0;
	memcpy(ethtool_rxfh_context_indir(ctx), rss->indir, sizeof(rss->indir));
	memcpy(ethtool_rxfh_context_key(ctx), rss->key, sizeof(rss->key));
	sw->ctx[rxfh->rss_context] = rss;
	return 0;
}

static int swnic_modify_rxfh_context(struct net_device *dev,
				     struct ethtool_rxfh_context *ctx,
				     const struct ethtool_rxfh_param *rxfh,
				     struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	int err;

	err = swnic_rss_check(rxfh, extack);
	if (err)
		return err;
	swnic_rss_update(sw, sw->ctx[rxfh->rss_context], rxfh);
	return 0;
}

static bool swnic_ctx_used(const struct swnic *sw, u32 id)
{
	u32 i;

	for (i = 0; i < SWNIC_MAX_RULES; i++)
		if (sw->rules[i].used &&
		    sw->rules[i].fs.flow_type & FLOW_RSS &&
		    sw->rules[i].rss_context == id)
			return true;
	return false;
}

static int swnic_remove_rxfh_context(struct net_device *dev,
				     struct ethtool_rxfh_context *ctx,
				     u32 rss_context,
				     struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	struct swnic_rss *rss;

	if (swnic_ctx_used(sw, rss_context)) {
		NL_SET_ERR_MSG_MOD(extack, "a rule uses the context");
		return -EBUSY;
	}
	spin_lock_bh(&sw->steer_lock);
	rss = sw->ctx[rss_context];
	sw->ctx[rss_context] = NULL;
	spin_unlock_bh(&sw->steer_lock);
	kfree(rss);
	return 0;
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

static int swnic_get_rxfh_fields(struct net_device *dev,
				 struct ethtool_rxfh_fields *fields)
{
	struct swnic *sw = netdev_priv(dev);
	int flow = swnic_hash_flow(fields->flow_type);

	if (flow >= 0) {
		fields->data = sw->hash_fields[flow];
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

static int swnic_set_rxfh_fields(struct net_device *dev,
				 const struct ethtool_rxfh_fields *fields,
				 struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);
	int flow = swnic_hash_flow(fields->flow_type);

	if (flow < 0)
		return flow;
	if (fields->data & ~(RXH_IP_SRC | RXH_IP_DST |
			     RXH_L4_B_0_1 | RXH_L4_B_2_3)) {
		NL_SET_ERR_MSG_MOD(extack, "only addresses and ports");
		return -EOPNOTSUPP;
	}
	spin_lock_bh(&sw->steer_lock);
	sw->hash_fields[flow] = fields->data;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

static int swnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
			   u32 *rule_locs)
{
	struct swnic *sw = netdev_priv(dev);
	u32 i, n = 0;

	switch (cmd->cmd) {
	case ETHTOOL_GRXCLSRLCNT:
		for (i = 0; i < SWNIC_MAX_RULES; i++)
			n += sw->rules[i].used;
		cmd->rule_cnt = n;
		cmd->data = SWNIC_MAX_RULES | RX_CLS_LOC_SPECIAL;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		if (cmd->fs.location >= SWNIC_MAX_RULES ||
		    !sw->rules[cmd->fs.location].used)
			return -ENOENT;
		i = cmd->fs.location;
		cmd->fs = sw->rules[i].fs;
		cmd->rss_context = sw->rules[i].rss_context;
		return 0;
	case ETHTOOL_GRXCLSRLALL:
		for (i = 0; i < SWNIC_MAX_RULES; i++) {
			if (!sw->rules[i].used)
				continue;
			if (n == cmd->rule_cnt)
				return -EMSGSIZE;
			rule_locs[n++] = i;
		}
		cmd->rule_cnt = n;
		cmd->data = SWNIC_MAX_RULES;
		return 0;
	}
	return -EOPNOTSUPP;
}

/* Addresses and ports of TCP and UDP are all that rules can ask for. */
static int swnic_rule_check(const struct ethtool_rx_flow_spec *fs)
{
	switch (fs->flow_type & ~FLOW_RSS) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		return fs->m_u.tcp_ip4_spec.tos ? -EOPNOTSUPP : 0;
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		return fs->m_u.tcp_ip6_spec.tclass ? -EOPNOTSUPP : 0;
	}
	return -EOPNOTSUPP;
}

static int swnic_rule_place(const struct swnic *sw, u32 location)
{
	int i;

	if (location < SWNIC_MAX_RULES)
		return location;
	switch (location) {
	case RX_CLS_LOC_ANY:
	case RX_CLS_LOC_FIRST:
		for (i = 0; i < SWNIC_MAX_RULES; i++)
			if (!sw->rules[i].used)
				return i;
		return -ENOSPC;
	case RX_CLS_LOC_LAST:
		for (i = SWNIC_MAX_RULES - 1; i >= 0; i--)
			if (!sw->rules[i].used)
				return i;
		return -ENOSPC;
	}
	return -EINVAL;
}

static int swnic_rule_insert(struct swnic *sw, struct ethtool_rxnfc *cmd)
{
	struct ethtool_rx_flow_spec *fs = &cmd->fs;
	int err, place;

	if (!(sw->dev->features & NETIF_F_NTUPLE))
		return -EOPNOTSUPP;
	err = swnic_rule_check(fs);
	if (err)
		return err;
	if (fs->ring_cookie != RX_CLS_FLOW_DISC &&
	    (ethtool_get_flow_spec_ring_vf(fs->ring_cookie) ||
	     ethtool_get_flow_spec_ring(fs->ring_cookie) >=
		sw->dev->real_num_rx_queues))
		return -EINVAL;
	if (fs->flow_type & FLOW_RSS && cmd->rss_context &&
	    (cmd->rss_context >= SWNIC_MAX_RSS_CTX ||
	     !sw->ctx[cmd->rss_context]))
		return -EINVAL;
	place = swnic_rule_place(sw, fs->location);
	if (place < 0)
		return place;

	fs->location = place;
	spin_lock_bh(&sw->steer_lock);
	sw->rules[place].fs = *fs;
	sw->rules[place].rss_context = cmd->rss_context;
	sw->rules[place].used = true;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

static int swnic_rule_delete(struct swnic *sw, u32 location)
{
	if (location >= SWNIC_MAX_RULES || !sw->rules[location].used)
		return -ENOENT;
	spin_lock_bh(&sw->steer_lock);
	sw->rules[location].used = false;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

static int swnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd)
{
	struct swnic *sw = netdev_priv(dev);

	switch (cmd->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		return swnic_rule_insert(sw, cmd);
	case ETHTOOL_SRXCLSRLDEL:
		return swnic_rule_delete(sw, cmd->fs.location);
	}
	return -EOPNOTSUPP;
}

const struct ethtool_ops swnic_ethtool_ops = {
	.supported_ring_params	= ETHTOOL_RING_USE_TCP_DATA_SPLIT |
				  ETHTOOL_RING_USE_HDS_THRS,
	/* netif_set_real_num_queues() */
	.op_needs_rtnl		= ETHTOOL_OP_NEEDS_RTNL_SCHANNELS,
	.rxfh_per_ctx_key	= 1,
	.cap_rss_rxnfc_adds	= 1,
	.rxfh_max_num_contexts	= SWNIC_MAX_RSS_CTX,
	.get_drvinfo		= swnic_get_drvinfo,
	.get_link		= ethtool_op_get_link,
	.get_link_ksettings	= swnic_get_link_ksettings,
	.get_ts_info		= ethtool_op_get_ts_info,
	.get_ringparam		= swnic_get_ringparam,
	.set_ringparam		= swnic_set_ringparam,
	.get_channels		= swnic_get_channels,
	.set_channels		= swnic_set_channels,
	.get_rx_ring_count	= swnic_get_rx_ring_count,
	.get_rxfh_key_size	= swnic_get_rxfh_key_size,
	.get_rxfh_indir_size	= swnic_get_rxfh_indir_size,
	.get_rxfh		= swnic_get_rxfh,
	.set_rxfh		= swnic_set_rxfh,
	.get_rxfh_fields	= swnic_get_rxfh_fields,
	.set_rxfh_fields	= swnic_set_rxfh_fields,
	.create_rxfh_context	= swnic_create_rxfh_context,
	.modify_rxfh_context	= swnic_modify_rxfh_context,
	.remove_rxfh_context	= swnic_remove_rxfh_context,
	.get_rxnfc		= swnic_get_rxnfc,
	.set_rxnfc		= swnic_set_rxnfc,
};
