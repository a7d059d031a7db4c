// SPDX-License-Identifier: GPL-2.0
/* swnic: the drivers that can be played. DRIVERS.md names the function in the
 * kernel's tree that each value was taken from.
 */
#include <linux/ethtool.h>
#include <linux/module.h>
#include <linux/netdevice.h>

#include "swnic.h"

static char *driver;
module_param(driver, charp, 0444);
MODULE_PARM_DESC(driver, "Which driver to behave as: mlx5, gve, bnxt, ice, fbnic (default: swnic's own)");

#define SWNIC_L4_FLOWS	(BIT(TCP_V4_FLOW) | BIT(UDP_V4_FLOW) |	\
			 BIT(TCP_V6_FLOW) | BIT(UDP_V6_FLOW))
#define SWNIC_L3_FLOWS	(BIT(IP_USER_FLOW) | BIT(IPV6_USER_FLOW))

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

	swnic_lack(dev, ops, &swnic_own_queue_ops);
}
