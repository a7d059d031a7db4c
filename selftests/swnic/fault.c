// SPDX-License-Identifier: GPL-2.0
/* swnic: what a driver can lack, or do wrong when it is set up, on demand. */
#include <linux/delay.h>
#include <linux/moduleparam.h>
#include <net/netdev_queues.h>

#include "swnic.h"

enum swnic_lack {
	SWNIC_LACK_QUEUE_OPS,
	SWNIC_LACK_SPLIT,
	SWNIC_LACK_NTUPLE,
	SWNIC_LACK_NETMEM_TX,
	SWNIC_LACK_RSS,
	SWNIC_LACK_RX_PAGE_SIZE,
	SWNIC_LACK_NTUPLE_ON,
};

static unsigned int lacks;
module_param(lacks, uint, 0444);
MODULE_PARM_DESC(lacks, "What the driver does not have (bits, see README)");

static unsigned int forget;
module_param(forget, uint, 0644);
MODULE_PARM_DESC(forget, "Settings that are accepted and not kept (bits, see README)");

static unsigned int refuse;
module_param(refuse, uint, 0644);
MODULE_PARM_DESC(refuse, "Settings that are refused with EIO (bits, see README)");

static unsigned int slow_ms;
module_param(slow_ms, uint, 0644);
MODULE_PARM_DESC(slow_ms, "Milliseconds that each setting takes");

static unsigned int rules = SWNIC_MAX_RULES;
module_param(rules, uint, 0644);
MODULE_PARM_DESC(rules, "Size of the table of ntuple rules (at most 64)");

static struct ethtool_ops swnic_fewer_ethtool_ops;
static struct netdev_queue_mgmt_ops swnic_fewer_queue_ops;

static void swnic_lack_rss(struct ethtool_ops *ops)
{
	ops->supported_input_xfrm = 0;
	ops->rxfh_max_num_contexts = 0;
	ops->get_rxfh_key_size = NULL;
	ops->get_rxfh_indir_size = NULL;
	ops->get_rxfh = NULL;
	ops->set_rxfh = NULL;
	ops->get_rxfh_fields = NULL;
	ops->set_rxfh_fields = NULL;
	ops->create_rxfh_context = NULL;
	ops->modify_rxfh_context = NULL;
	ops->remove_rxfh_context = NULL;
}

/* Takes from a device, before it is registered, what it is to lack. */
void swnic_lack(struct net_device *dev)
{
	struct ethtool_ops *ops = &swnic_fewer_ethtool_ops;

	*ops = *dev->ethtool_ops;
	swnic_fewer_queue_ops = *dev->queue_mgmt_ops;
	dev->ethtool_ops = ops;
	dev->queue_mgmt_ops = &swnic_fewer_queue_ops;

	if (lacks & BIT(SWNIC_LACK_QUEUE_OPS)) {
		dev->queue_mgmt_ops = NULL;
		dev->request_ops_lock = true;	/* as with them */
	}
	if (lacks & BIT(SWNIC_LACK_SPLIT))
		ops->supported_ring_params = 0;
	if (lacks & BIT(SWNIC_LACK_NTUPLE)) {
		ops->get_rxnfc = NULL;
		ops->set_rxnfc = NULL;
		dev->hw_features &= ~NETIF_F_NTUPLE;
	}
	if (lacks & (BIT(SWNIC_LACK_NTUPLE) | BIT(SWNIC_LACK_NTUPLE_ON)))
		dev->features &= ~NETIF_F_NTUPLE;
	if (lacks & BIT(SWNIC_LACK_NETMEM_TX))
		dev->netmem_tx = NETMEM_TX_NONE;
	if (lacks & BIT(SWNIC_LACK_RSS))
		swnic_lack_rss(ops);
	if (lacks & BIT(SWNIC_LACK_RX_PAGE_SIZE))
		swnic_fewer_queue_ops.supported_params = 0;
}

/* Is a change of this accepted, but not to be made? */
bool swnic_forgets(enum swnic_setting setting)
{
	return READ_ONCE(forget) & BIT(setting);
}

/* Called where one or more settings, a mask, are about to change. May sleep. */
int swnic_may_set(u32 settings, struct netlink_ext_ack *extack)
{
	unsigned int ms = READ_ONCE(slow_ms);

	if (ms)
		msleep(ms);
	if (!(READ_ONCE(refuse) & settings))
		return 0;
	NL_SET_ERR_MSG_MOD(extack, "refused, as the module's parameter asks");
	return -EIO;
}

/* Rules beyond a table that became smaller stay, and can be deleted. */
u32 swnic_rule_slots(void)
{
	return min(READ_ONCE(rules), SWNIC_MAX_RULES);
}
