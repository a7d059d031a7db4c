// SPDX-License-Identifier: GPL-2.0
/* swnic: what a driver can lack, or do wrong when it is set up, on demand. */
#include <linux/bitops.h>
#include <linux/delay.h>
#include <linux/moduleparam.h>
#include <linux/sysfs.h>
#include <net/netdev_queues.h>

#include "swnic.h"

/* Names of bits, in the order of the bits, as a module parameter takes them. */
struct swnic_names {
	const char *const	*names;
	u32			count;
	unsigned long		bits;
};

static int swnic_names_set(const char *value, const struct kernel_param *kp)
{
	struct swnic_names *names = kp->arg;
	unsigned long bits = 0;
	size_t len;
	u32 i;

	for (;; value += len + 1) {
		len = strcspn(value, ",\n");
		for (i = 0; len && i < names->count; i++)
			if (strlen(names->names[i]) == len &&
			    !memcmp(names->names[i], value, len))
				break;
		if (len && i == names->count) {
			pr_err("swnic: %s: unknown name %.*s\n", kp->name,
			       (int)len, value);
			return -EINVAL;
		}
		if (len)
			bits |= BIT(i);
		if (value[len] != ',')
			break;
	}
	WRITE_ONCE(names->bits, bits);
	return 0;
}

static int swnic_names_get(char *buffer, const struct kernel_param *kp)
{
	const struct swnic_names *names = kp->arg;
	unsigned long bits = READ_ONCE(names->bits);
	int at = 0;
	u32 i;

	for_each_set_bit(i, &bits, names->count)
		at += sysfs_emit_at(buffer, at, "%s%s", at ? "," : "",
				    names->names[i]);
	return at + sysfs_emit_at(buffer, at, "\n");
}

static const struct kernel_param_ops swnic_names_ops = {
	.set	= swnic_names_set,
	.get	= swnic_names_get,
};

enum swnic_lack {
	SWNIC_LACK_QUEUE_OPS,
	SWNIC_LACK_SPLIT,
	SWNIC_LACK_NTUPLE,
	SWNIC_LACK_NETMEM_TX,
	SWNIC_LACK_RSS,
	SWNIC_LACK_RX_PAGE_SIZE,
	SWNIC_LACK_NTUPLE_ON,
};

static const char *const swnic_lack_names[] = {
	[SWNIC_LACK_QUEUE_OPS]		= "queue-ops",
	[SWNIC_LACK_SPLIT]		= "split",
	[SWNIC_LACK_NTUPLE]		= "ntuple",
	[SWNIC_LACK_NETMEM_TX]		= "netmem-tx",
	[SWNIC_LACK_RSS]		= "rss",
	[SWNIC_LACK_RX_PAGE_SIZE]	= "rx-page-size",
	[SWNIC_LACK_NTUPLE_ON]		= "ntuple-on",
};

static const char *const swnic_setting_names[] = {
	[SWNIC_SET_SPLIT]	= "split",
	[SWNIC_SET_HDS_THRESH]	= "hds-thresh",
	[SWNIC_SET_RINGS]	= "rings",
	[SWNIC_SET_CHANNELS]	= "channels",
	[SWNIC_SET_RSS]		= "rss",
	[SWNIC_SET_RULE]	= "rule",
	[SWNIC_SET_RULE_QUEUE]	= "rule-queue",
	[SWNIC_SET_RULE_DELETE]	= "rule-delete",
	[SWNIC_SET_CTX_CREATE]	= "context",
	[SWNIC_SET_CTX_DELETE]	= "context-delete",
};

static struct swnic_names swnic_lacks = {
	.names	= swnic_lack_names,
	.count	= ARRAY_SIZE(swnic_lack_names),
};
module_param_cb(lacks, &swnic_names_ops, &swnic_lacks, 0444);
MODULE_PARM_DESC(lacks, "What the driver does not have (names, see README)");

static struct swnic_names swnic_forget = {
	.names	= swnic_setting_names,
	.count	= ARRAY_SIZE(swnic_setting_names),
};
module_param_cb(forget, &swnic_names_ops, &swnic_forget, 0644);
MODULE_PARM_DESC(forget, "Settings that are accepted and not kept (names, see README)");

static struct swnic_names swnic_refuse = {
	.names	= swnic_setting_names,
	.count	= ARRAY_SIZE(swnic_setting_names),
};
module_param_cb(refuse, &swnic_names_ops, &swnic_refuse, 0644);
MODULE_PARM_DESC(refuse, "Settings that are refused with EIO (names, see README)");

static unsigned int slow_ms;
module_param(slow_ms, uint, 0644);
MODULE_PARM_DESC(slow_ms, "Milliseconds that each setting takes");

static int rules = -1;
module_param(rules, int, 0644);
MODULE_PARM_DESC(rules, "Size of the table of ntuple rules, at most the driver's (-1: the driver's)");

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

/* Takes from a device, before it is registered, what it is to lack. Its
 * operations are its own.
 */
void swnic_lack(struct net_device *dev, struct ethtool_ops *ops,
		struct netdev_queue_mgmt_ops *queue_ops)
{
	unsigned long lacks = swnic_lacks.bits;

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
		queue_ops->supported_params = 0;
}

/* Is a change of this accepted, but not to be made? */
bool swnic_forgets(enum swnic_setting setting)
{
	return READ_ONCE(swnic_forget.bits) & BIT(setting);
}

/* Called where one or more settings, a mask, are about to change. May sleep. */
int swnic_may_set(u32 settings, struct netlink_ext_ack *extack)
{
	unsigned int ms = READ_ONCE(slow_ms);

	if (ms)
		msleep(ms);
	if (!(READ_ONCE(swnic_refuse.bits) & settings))
		return 0;
	NL_SET_ERR_MSG_MOD(extack, "refused, as the module's parameter asks");
	return -EIO;
}

/* Rules beyond a table that became smaller stay, and can be deleted. */
u32 swnic_rule_slots(void)
{
	int asked = READ_ONCE(rules);
	u32 slots = swnic_driver->rules.slots;

	return asked < 0 ? slots : min_t(u32, asked, slots);
}
