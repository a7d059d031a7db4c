// SPDX-License-Identifier: GPL-2.0
/* swnic: ethtool: link, rings, channels, RSS and ntuple rules. */
#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <linux/etherdevice.h>
#include <linux/log2.h>
#include <linux/version.h>
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

/* Does a packet of the MTU need more than one page? */
static bool swnic_is_jumbo(const struct net_device *dev)
{
	return READ_ONCE(dev->mtu) + ETH_HLEN > SWNIC_XDP_LINEAR;
}

/* Does the hardware split headers off, whatever is set? */
bool swnic_splits(const struct swnic *sw)
{
	switch (swnic_driver->rings.split) {
	case SWNIC_SPLIT_FIXED:
		return true;
	case SWNIC_SPLIT_AUTO:
		return READ_ONCE(sw->hds) || swnic_is_jumbo(sw->dev) ||
		       sw->dev->features & (NETIF_F_LRO | NETIF_F_GRO_HW);
	default:
		return READ_ONCE(sw->hds);
	}
}

static void swnic_get_ringparam(struct net_device *dev,
				struct ethtool_ringparam *ring,
				struct kernel_ethtool_ringparam *kernel_ring,
				struct netlink_ext_ack *extack)
{
	struct swnic *sw = netdev_priv(dev);

	ring->rx_max_pending = SWNIC_WIRE_SLOTS;
	ring->rx_pending = sw->rx_ring;
	ring->tx_max_pending = SWNIC_TX_SLOTS;
	ring->tx_pending = sw->tx_ring;
	kernel_ring->hds_thresh_max = swnic_driver->rings.hds_thresh_max;
	kernel_ring->hds_thresh = sw->hds_thresh;
	/* or else the core tells what is set */
	if (swnic_driver->rings.split != SWNIC_SPLIT_GRO)
		kernel_ring->tcp_data_split = swnic_splits(sw) ?
			ETHTOOL_TCP_DATA_SPLIT_ENABLED :
			ETHTOOL_TCP_DATA_SPLIT_DISABLED;
}

static int swnic_round_ring(u32 *size)
{
	switch (swnic_driver->rings.round) {
	case SWNIC_ROUND_NOT:
		break;
	case SWNIC_ROUND_UP:
		*size = *size ? roundup_pow_of_two(*size) : 0;
		break;
	case SWNIC_ROUND_REFUSE:
		return is_power_of_2(*size) ? 0 : -EINVAL;
	case SWNIC_ROUND_MULTIPLE:
		*size = roundup(*size, 32);
		break;
	}
	return 0;
}

/* What @sw->hds is to be when @split is set, or an error. */
static int swnic_wanted_split(const struct swnic *sw, u8 split,
			      struct netlink_ext_ack *extack)
{
	bool on = split == ETHTOOL_TCP_DATA_SPLIT_ENABLED;
	bool off = split == ETHTOOL_TCP_DATA_SPLIT_DISABLED;

	switch (swnic_driver->rings.split) {
	case SWNIC_SPLIT_SET:
		break;
	case SWNIC_SPLIT_KEPT:
		return on || (!off && sw->hds);
	case SWNIC_SPLIT_GRO:
		if (!on || sw->dev->features & NETIF_F_GRO_HW)
			break;
		NL_SET_ERR_MSG_MOD(extack,
				   "TCP-data-split is not supported when GRO HW is disabled");
		return -EINVAL;
	case SWNIC_SPLIT_AUTO:
		if (off && sw->dev->cfg->hds_config != split)
			return -EINVAL;
		break;
	case SWNIC_SPLIT_FIXED:
		if (!off)
			break;
		NL_SET_ERR_MSG_MOD(extack, "Cannot disable TCP data split");
		return -EINVAL;
	}
	return on;
}

/* The core has checked the maxima, memory providers, and XDP already
 * (ethnl_set_rings). What a smaller ring holds too much of drains.
 */
static int swnic_set_ringparam(struct net_device *dev,
			       struct ethtool_ringparam *ring,
			       struct kernel_ethtool_ringparam *kernel_ring,
			       struct netlink_ext_ack *extack)
{
	const struct swnic_rings_driver *driver = &swnic_driver->rings;
	struct swnic *sw = netdev_priv(dev);
	u32 settings = 0;
	int err, hds;

	err = swnic_round_ring(&ring->rx_pending) ?:
	      swnic_round_ring(&ring->tx_pending);
	if (err)
		return err;
	if (ring->rx_pending < driver->rx_min ||
	    ring->tx_pending < driver->tx_min) {
		NL_SET_ERR_MSG_FMT_MOD(extack,
				       "an rx ring has at least %u entries, a tx ring %u",
				       driver->rx_min, driver->tx_min);
		return -EINVAL;
	}
	hds = swnic_wanted_split(sw, kernel_ring->tcp_data_split, extack);
	if (hds < 0)
		return hds;
	if (hds != sw->hds)
		settings |= BIT(SWNIC_SET_SPLIT);
	if (kernel_ring->hds_thresh != sw->hds_thresh)
		settings |= BIT(SWNIC_SET_HDS_THRESH);
	if (ring->rx_pending != sw->rx_ring || ring->tx_pending != sw->tx_ring)
		settings |= BIT(SWNIC_SET_RINGS);
	err = swnic_may_set(settings, extack);
	if (err)
		return err;

	if (!swnic_forgets(SWNIC_SET_RINGS)) {
		WRITE_ONCE(sw->rx_ring, ring->rx_pending);
		WRITE_ONCE(sw->tx_ring, ring->tx_pending);
	}
	if (!swnic_forgets(SWNIC_SET_SPLIT))
		WRITE_ONCE(sw->hds, hds);
	if (!swnic_forgets(SWNIC_SET_HDS_THRESH))
		WRITE_ONCE(sw->hds_thresh, kernel_ring->hds_thresh);
	err = driver->restarts && settings ? swnic_restart(sw) : 0;
	/* GRO_HW may have been kept on for the split alone. */
	if (!err && driver->split == SWNIC_SPLIT_GRO)
		netdev_update_features(dev);
	return err;
}

static void swnic_get_channels(struct net_device *dev,
			       struct ethtool_channels *ch)
{
	const struct swnic_channels_driver *driver = &swnic_driver->channels;
	u32 rx = dev->real_num_rx_queues, tx = dev->real_num_tx_queues;
	struct swnic *sw = netdev_priv(dev);

	ch->max_other = driver->other;
	ch->other_count = driver->other;
	if (driver->kind != SWNIC_CHANNELS_APART)
		ch->max_combined = sw->max_queues;
	if (driver->kind != SWNIC_CHANNELS_COMBINED) {
		ch->max_rx = sw->max_queues;
		ch->max_tx = sw->max_queues;
	}
	ch->combined_count = sw->apart ? 0 : min(rx, tx);
	ch->rx_count = rx - ch->combined_count;
	ch->tx_count = tx - ch->combined_count;
}

/* The core has seen to the maxima, and that there are rx and tx queues. */
static int swnic_check_channels(const struct swnic *sw,
				const struct ethtool_channels *ch)
{
	const struct swnic_channels_driver *driver = &swnic_driver->channels;

	if (driver->rules_error && sw->rules_used)
		return driver->rules_error;
	if (ch->other_count != driver->other)
		return -EINVAL;
	if (driver->kind == SWNIC_CHANNELS_EITHER && ch->combined_count &&
	    (ch->rx_count || ch->tx_count))
		return -EINVAL;
	if (driver->kind == SWNIC_CHANNELS_MIXED && ch->rx_count &&
	    ch->tx_count)
		return -EINVAL;
	if (driver->kind == SWNIC_CHANNELS_ANY && ch->combined_count &&
	    ch->rx_count && ch->tx_count)
		return -EINVAL;
	if (ch->combined_count + max(ch->rx_count, ch->tx_count) >
	    sw->max_queues)
		return -EINVAL;
	return 0;
}

/* Can all tables become so long or short without a loss? Only since Linux 7.3
 * the core knows.
 */
static bool swnic_rss_can_resize(struct swnic *sw, u32 entries)
{
	if (entries == sw->rss_entries)
		return true;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	if (swnic_driver->rss.contexts &&
	    ethtool_rxfh_ctxs_can_resize(sw->dev, entries))
		return false;
	return ethtool_rxfh_indir_can_resize(sw->dev, sw->rss.indir,
					     sw->rss_entries, entries);
#else
	return !netif_is_rxfh_configured(sw->dev) &&
	       xa_empty(&sw->dev->ethtool->rss_ctx);
#endif
}

static void swnic_follow_channels(struct swnic *sw, u32 entries)
{
	if (entries != sw->rss_entries) {
		swnic_rss_resize(sw, entries);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
		if (swnic_driver->rss.contexts)
			ethtool_rxfh_ctxs_resize(sw->dev, entries);
#endif
	}
	if (!netif_is_rxfh_configured(sw->dev))
		swnic_rss_default(sw, sw->dev->real_num_rx_queues);
}

/* The core has refused to take away a queue that is bound, leased, or the
 * target of a rule or a table (ethnl_set_channels).
 */
static int swnic_set_channels(struct net_device *dev,
			      struct ethtool_channels *ch)
{
	u32 rx = ch->combined_count + ch->rx_count;
	u32 tx = ch->combined_count + ch->tx_count;
	u32 old = swnic_live_channels(dev), new = max(rx, tx);
	struct swnic *sw = netdev_priv(dev);
	u32 entries = swnic_rss_entries(rx);
	bool up = netif_running(dev);
	int err;

	err = swnic_check_channels(sw, ch) ?:
	      swnic_may_set(BIT(SWNIC_SET_CHANNELS), NULL);
	if (err)
		return err;
	if (swnic_forgets(SWNIC_SET_CHANNELS))
		return 0;
	if (!swnic_rss_can_resize(sw, entries))
		return -EINVAL;

	if (new > old && up) {
		err = swnic_channels_up(sw, old, new);
		if (err)
			return err;
	}
	err = netif_set_real_num_queues(dev, tx, rx);
	if (err) {
		if (new > old && up)
			swnic_channels_down(sw, old, new);
		return err;
	}
	sw->apart = !ch->combined_count;
	swnic_follow_channels(sw, entries);
	if (up)
		netif_tx_wake_all_queues(dev);
	if (new < old && up)
		swnic_channels_down(sw, new, old);
	return swnic_driver->channels.restarts ? swnic_restart(sw) : 0;
}

const struct ethtool_ops swnic_ethtool_ops = {
	/* netif_set_real_num_queues(), netdev_update_features() */
	.op_needs_rtnl		= ETHTOOL_OP_NEEDS_RTNL_SCHANNELS |
				  ETHTOOL_OP_NEEDS_RTNL_SRINGPARAM,
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
