// SPDX-License-Identifier: GPL-2.0
/* swnic: the drivers that can be played. DRIVERS.md names the function in the
 * kernel's tree that each value was taken from.
 */
#include <linux/ethtool.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/netdevice.h>

#include "swnic.h"

static char *driver;
module_param(driver, charp, 0444);
MODULE_PARM_DESC(driver, "Which driver to behave as: mlx5, gve, bnxt, ice, fbnic (default: swnic's own)");

#define SWNIC_L4_FLOWS	(BIT(TCP_V4_FLOW) | BIT(UDP_V4_FLOW) |	\
			 BIT(TCP_V6_FLOW) | BIT(UDP_V6_FLOW))
#define SWNIC_L3_FLOWS	(BIT(IP_USER_FLOW) | BIT(IPV6_USER_FLOW))

#define SWNIC_SPLIT_PARAMS	(ETHTOOL_RING_USE_TCP_DATA_SPLIT |	\
				 ETHTOOL_RING_USE_HDS_THRS)

static const struct swnic_driver swnic_drivers[] = {
	{
		.name	= "swnic",
		.rules	= {
			.slots			= 64,
			.chooser		= SWNIC_CHOOSES_EITHER,
			.list			= SWNIC_LIST_COUNTED,
			.rss			= SWNIC_RSS_ADDS,
			.ntuple			= SWNIC_NTUPLE_ON,
			.size_in_count		= true,
			.size_in_list		= true,
			.replaces		= true,
			.flows			= SWNIC_L4_FLOWS,
			.flow_error		= -EOPNOTSUPP,
			.tos_error		= -EOPNOTSUPP,
			.place_error		= -EINVAL,
			.full_error		= -ENOSPC,
			.duplicate_error	= -EEXIST,
			.get_error		= -ENOENT,
			.delete_error		= -ENOENT,
			.off_error		= -EOPNOTSUPP,
		},
		.rss	= {
			.entries		= 128,
			.key			= 40,
			.contexts		= 64,
			.xfrm			= RXH_XFRM_SYM_XOR,
			.context_key		= true,
			.context_fields		= true,
			.fields			= true,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_COMBINED,
		},
		.rings	= {
			.params			= SWNIC_SPLIT_PARAMS,
			.rx_min			= 16,
			.tx_min			= 16,
			.hds_thresh_max		= 1024,
		},
		.queues	= {
			.ops			= true,
			.rx_page_size		= true,
		},
		.gro_hw		= SWNIC_OFFLOAD_OFF,
		.lro		= SWNIC_OFFLOAD_OFF,
		.netmem_tx	= NETMEM_TX_DMA,
	},
	{
		.name	= "mlx5",
		.rules	= {
			.slots			= 1024,
			.chooser		= SWNIC_CHOOSES_USER,
			.list			= SWNIC_LIST_EXACT,
			.rss			= SWNIC_RSS_TABLE,
			.ntuple			= SWNIC_NTUPLE_OFF,
			.size_in_list		= true,
			.replaces		= true,
			.replaces_first		= true,
			.most_fields_win	= true,
			.flows			= SWNIC_L4_FLOWS |
						  SWNIC_L3_FLOWS |
						  BIT(ETHER_FLOW),
			.flow_error		= -EOPNOTSUPP,
			.tos_error		= -EINVAL,
			.place_error		= -ENOSPC,
			.duplicate_error	= -EEXIST,
			.again_error		= 0,
			.get_error		= -ENOENT,
			.delete_error		= -ENOENT,
		},
		.rss	= {
			.entries		= 256,
			.spread			= 4,
			.key			= 40,
			.contexts		= 16,
			.xfrm			= RXH_XFRM_SYM_OR_XOR,
			.context_key		= true,
			.context_fields		= true,
			.fields			= true,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_COMBINED,
			.restarts		= true,
		},
		.rings	= {
			.params			= SWNIC_SPLIT_PARAMS,
			.split			= SWNIC_SPLIT_GRO,
			.round			= SWNIC_ROUND_UP,
			.rx_min			= 16,
			.tx_min			= 64,
			.restarts		= true,
		},
		.queues	= {
			.ops			= true,
			.rx_page_size		= true,
			.down_error		= -ENODEV,
		},
		.gro_hw		= SWNIC_OFFLOAD_OFF,
		.lro		= SWNIC_OFFLOAD_OFF,
		.netmem_tx	= NETMEM_TX_DMA,
		.port		= true,
	},
	{
		.name	= "gve",
		.rules	= {
			.slots			= 64,
			.chooser		= SWNIC_CHOOSES_USER,
			.list			= SWNIC_LIST_UNCOUNTED,
			.rss			= SWNIC_RSS_UNSEEN,
			.ntuple			= SWNIC_NTUPLE_OFF,
			.size_in_count		= true,
			.size_in_list		= true,
			.off_flushes		= true,
			.flows			= SWNIC_L4_FLOWS |
						  BIT(SCTP_V4_FLOW) |
						  BIT(SCTP_V6_FLOW) |
						  BIT(AH_V4_FLOW) |
						  BIT(AH_V6_FLOW) |
						  BIT(ESP_V4_FLOW) |
						  BIT(ESP_V6_FLOW),
			.flow_error		= -EINVAL,
			.drop_error		= -EOPNOTSUPP,
			.place_error		= -EINVAL,
			.duplicate_error	= -EINVAL,
			.get_error		= -EINVAL,
			.delete_error		= -EINVAL,
			.off_error		= -EOPNOTSUPP,
		},
		.rss	= {
			.entries		= 128,
			.key			= 40,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_APART,
			.restarts		= true,
		},
		.rings	= {
			.params			= ETHTOOL_RING_USE_TCP_DATA_SPLIT,
			.split			= SWNIC_SPLIT_KEPT,
			.round			= SWNIC_ROUND_REFUSE,
			.rx_min			= 512,
			.tx_min			= 256,
			.restarts		= true,
		},
		.queues	= {
			.ops			= true,
			.first			= 1,
			.down_error		= -EAGAIN,
		},
		.gro_hw		= SWNIC_OFFLOAD_ON,
		.lro		= SWNIC_OFFLOAD_NONE,
		.netmem_tx	= NETMEM_TX_DMA,
	},
	{
		.name	= "bnxt",
		.rules	= {
			.slots			= 5120,
			.chooser		= SWNIC_CHOOSES_DRIVER,
			.list			= SWNIC_LIST_CUT,
			.rss			= SWNIC_RSS_TABLE,
			.ntuple			= SWNIC_NTUPLE_ON,
			.size_in_count		= true,
			.newest_first		= true,
			.off_flushes		= true,
			.flows			= SWNIC_L4_FLOWS |
						  SWNIC_L3_FLOWS,
			.flow_error		= -EOPNOTSUPP,
			.any_error		= -EOPNOTSUPP,
			.place_error		= -EINVAL,
			.full_error		= -ENOMEM,
			.duplicate_error	= -EEXIST,
			.get_error		= -EINVAL,
			.delete_error		= -ENOENT,
			.off_error		= -EPERM,
			.down_error		= -EAGAIN,
		},
		.rss	= {
			.entries		= 64,
			.step			= 64,
			.key			= 40,
			.contexts		= 33,
			.context_key		= true,
			.fields			= true,
			.restarts		= true,
			.down_error		= -EAGAIN,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_EITHER,
			.restarts		= true,
		},
		.rings	= {
			.params			= SWNIC_SPLIT_PARAMS,
			.split			= SWNIC_SPLIT_AUTO,
			.rx_min			= 16,
			.tx_min			= MAX_SKB_FRAGS + 2,
			.hds_thresh		= 640,
			.hds_thresh_max		= 1023,
			.restarts		= true,
		},
		.queues	= {
			.ops			= true,
			.rx_page_size		= true,
			.down_error		= -ENETDOWN,
		},
		.gro_hw		= SWNIC_OFFLOAD_ON,
		.lro		= SWNIC_OFFLOAD_OFF,
		.netmem_tx	= NETMEM_TX_DMA,
		.port		= true,
	},
	{
		.name	= "ice",
		.rules	= {
			.slots			= 512,
			.chooser		= SWNIC_CHOOSES_USER,
			.list			= SWNIC_LIST_COUNTED,
			.rss			= SWNIC_RSS_REFUSED,
			.ntuple			= SWNIC_NTUPLE_ON,
			.size_in_count		= true,
			.size_in_list		= true,
			.replaces		= true,
			.same_fields		= true,
			.whole_fields		= true,
			.off_flushes		= true,
			.flows			= SWNIC_L4_FLOWS |
						  SWNIC_L3_FLOWS |
						  BIT(SCTP_V4_FLOW) |
						  BIT(SCTP_V6_FLOW) |
						  BIT(ETHER_FLOW),
			.flow_error		= -EINVAL,
			.tos_error		= -EOPNOTSUPP,
			.any_error		= -EINVAL,
			.place_error		= -ENOSPC,
			.duplicate_error	= -EINVAL,
			.again_error		= -EINVAL,
			.get_error		= -EINVAL,
			.delete_error		= -ENOENT,
			.off_error		= -EOPNOTSUPP,
		},
		.rss	= {
			.entries		= 2048,
			.key			= 52,
			.xfrm			= RXH_XFRM_SYM_XOR,
			.fields			= true,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_MIXED,
			.other			= 1,
			.restarts		= true,
			.rules_error		= -EOPNOTSUPP,
		},
		.rings	= {
			.params			= ETHTOOL_RING_USE_TCP_DATA_SPLIT,
			.round			= SWNIC_ROUND_MULTIPLE,
			.rx_min			= 64,
			.tx_min			= 64,
			.restarts		= true,
		},
		.gro_hw		= SWNIC_OFFLOAD_NONE,
		.lro		= SWNIC_OFFLOAD_NONE,
		.netmem_tx	= NETMEM_TX_NONE,
		.port		= true,
	},
	{
		.name	= "fbnic",
		.rules	= {
			.slots			= 48,
			.chooser		= SWNIC_CHOOSES_DRIVER,
			.list			= SWNIC_LIST_COUNTED,
			.rss			= SWNIC_RSS_TABLE,
			.ntuple			= SWNIC_NTUPLE_FIXED,
			.size_in_count		= true,
			.size_in_list		= true,
			.from_top		= true,
			.addresses		= 8,
			.flows			= SWNIC_L4_FLOWS |
						  SWNIC_L3_FLOWS |
						  BIT(ETHER_FLOW),
			.flow_error		= -EINVAL,
			.place_error		= -EINVAL,
			.full_error		= -ENOSPC,
			.get_error		= -EINVAL,
			.delete_error		= -EINVAL,
		},
		.rss	= {
			.entries		= 256,
			.key			= 40,
			.contexts		= 2,
			.fields			= true,
		},
		.channels = {
			.kind			= SWNIC_CHANNELS_ANY,
			.other			= 2,
			.restarts		= true,
		},
		.rings	= {
			.params			= SWNIC_SPLIT_PARAMS,
			.split			= SWNIC_SPLIT_FIXED,
			.round			= SWNIC_ROUND_UP,
			.rx_min			= 64,
			.tx_min			= 64,
			.hds_thresh		= 1536,
			.hds_thresh_max		= 3584,
			.restarts		= true,
		},
		.queues	= {
			.ops			= true,
		},
		.gro_hw		= SWNIC_OFFLOAD_NONE,
		.lro		= SWNIC_OFFLOAD_NONE,
		.netmem_tx	= NETMEM_TX_DMA,
	},
};

const struct swnic_driver *swnic_driver = &swnic_drivers[0];

/* Before the first device is made. */
int swnic_driver_choose(void)
{
	u32 i;

	if (!driver)
		return 0;
	for (i = 0; i < ARRAY_SIZE(swnic_drivers); i++) {
		if (strcmp(driver, swnic_drivers[i].name))
			continue;
		swnic_driver = &swnic_drivers[i];
		return 0;
	}
	pr_err("swnic: there is no driver %s to play\n", driver);
	return -EINVAL;
}

/* Entries of an RSS table with so many rx queues. */
u32 swnic_rss_entries(u32 queues)
{
	const struct swnic_rss_driver *rss = &swnic_driver->rss;

	if (rss->spread)
		return max(rss->entries,
			   roundup_pow_of_two(queues * rss->spread));
	if (rss->step)
		return roundup(queues, rss->step);
	return rss->entries;
}

static void swnic_play_rss(struct ethtool_ops *ops)
{
	const struct swnic_rss_driver *rss = &swnic_driver->rss;

	ops->supported_input_xfrm = rss->xfrm;
	ops->rxfh_max_num_contexts = rss->contexts;
	ops->rxfh_per_ctx_key = rss->context_key;
	ops->rxfh_per_ctx_fields = rss->context_fields;
	if (rss->contexts)
		ops->rxfh_indir_space = SWNIC_MAX_RSS_INDIR;
	if (!rss->contexts) {
		ops->create_rxfh_context = NULL;
		ops->modify_rxfh_context = NULL;
		ops->remove_rxfh_context = NULL;
	}
	if (!rss->fields) {
		ops->get_rxfh_fields = NULL;
		ops->set_rxfh_fields = NULL;
	}
}

static void swnic_play_offload(struct net_device *dev, netdev_features_t bit,
			       enum swnic_offload offload)
{
	if (offload != SWNIC_OFFLOAD_NONE)
		dev->hw_features |= bit;
	if (offload == SWNIC_OFFLOAD_ON)
		dev->features |= bit;
}

static void swnic_play_queues(struct net_device *dev,
			      struct netdev_queue_mgmt_ops *ops)
{
	if (!swnic_driver->queues.ops) {
		dev->queue_mgmt_ops = NULL;
		dev->request_ops_lock = true;	/* as with them */
	}
	if (!swnic_driver->queues.rx_page_size) {
		ops->supported_params = 0;
		ops->ndo_validate_qcfg = NULL;
	}
}

static struct ethtool_ops swnic_own_ethtool_ops;
static struct netdev_queue_mgmt_ops swnic_own_queue_ops;

/* Makes a device, before it is registered, one of the driver's. */
void swnic_driver_play(struct net_device *dev)
{
	const struct swnic_rules_driver *rules = &swnic_driver->rules;
	struct ethtool_ops *ops = &swnic_own_ethtool_ops;

	*ops = *dev->ethtool_ops;
	swnic_own_queue_ops = *dev->queue_mgmt_ops;
	dev->ethtool_ops = ops;
	dev->queue_mgmt_ops = &swnic_own_queue_ops;

	ops->cap_rss_rxnfc_adds = rules->rss == SWNIC_RSS_ADDS;
	if (rules->ntuple == SWNIC_NTUPLE_OFF)
		dev->features &= ~NETIF_F_NTUPLE;
	if (rules->ntuple == SWNIC_NTUPLE_FIXED)
		dev->hw_features &= ~NETIF_F_NTUPLE;

	swnic_play_rss(ops);
	ops->supported_ring_params = swnic_driver->rings.params;
	dev->cfg->hds_thresh = swnic_driver->rings.hds_thresh;
	swnic_play_queues(dev, &swnic_own_queue_ops);
	swnic_play_offload(dev, NETIF_F_GRO_HW, swnic_driver->gro_hw);
	swnic_play_offload(dev, NETIF_F_LRO, swnic_driver->lro);
	dev->netmem_tx = swnic_driver->netmem_tx;

	swnic_lack(dev, ops, &swnic_own_queue_ops);
}
