// SPDX-License-Identifier: GPL-2.0
/* swnic: ethtool: ntuple rules. */
#include <linux/ethtool.h>
#include <linux/netdevice.h>

#include "swnic.h"

int swnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
		    u32 *rule_locs)
{
	struct swnic *sw = netdev_priv(dev);
	u32 i, n = 0;

	switch (cmd->cmd) {
	case ETHTOOL_GRXCLSRLCNT:
		for (i = 0; i < SWNIC_MAX_RULES; i++)
			n += sw->rules[i].used;
		cmd->rule_cnt = n;
		cmd->data = swnic_rule_slots() | RX_CLS_LOC_SPECIAL;
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
		cmd->data = swnic_rule_slots();
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
	int slots = swnic_rule_slots();
	int i;

	if (location < slots)
		return location;
	switch (location) {
	case RX_CLS_LOC_ANY:
	case RX_CLS_LOC_FIRST:
		for (i = 0; i < slots; i++)
			if (!sw->rules[i].used)
				return i;
		return -ENOSPC;
	case RX_CLS_LOC_LAST:
		for (i = slots - 1; i >= 0; i--)
			if (!sw->rules[i].used)
				return i;
		return -ENOSPC;
	}
	return -EINVAL;
}

/* Where the rule may send packets: every queue must exist. With a context the
 * queue is an offset to those of the context's table.
 */
static int swnic_rule_check_target(const struct swnic *sw,
				   const struct ethtool_rxnfc *cmd)
{
	const struct ethtool_rx_flow_spec *fs = &cmd->fs;
	const struct swnic_rss *rss = &sw->rss;
	u64 queue = ethtool_get_flow_spec_ring(fs->ring_cookie);
	u32 i, last = 0;

	if (fs->ring_cookie == RX_CLS_FLOW_DISC)
		return 0;
	if (fs->flow_type & FLOW_RSS) {
		if (cmd->rss_context >= SWNIC_MAX_RSS_CTX)
			return -EINVAL;
		if (cmd->rss_context)
			rss = sw->ctx[cmd->rss_context];
		if (!rss)
			return -EINVAL;
		for (i = 0; i < SWNIC_RSS_INDIR; i++)
			last = max(last, rss->indir[i]);
	}
	if (ethtool_get_flow_spec_ring_vf(fs->ring_cookie) ||
	    queue + last >= sw->dev->real_num_rx_queues)
		return -EINVAL;
	return 0;
}

/* Two rules for the same packets: the second would never be used. */
static bool swnic_rule_exists(const struct swnic *sw,
			      const struct ethtool_rx_flow_spec *fs, u32 place)
{
	const struct ethtool_rx_flow_spec *old;
	u32 i;

	for (i = 0; i < SWNIC_MAX_RULES; i++) {
		old = &sw->rules[i].fs;
		if (sw->rules[i].used && i != place &&
		    !((old->flow_type ^ fs->flow_type) & ~FLOW_RSS) &&
		    !memcmp(&old->h_u, &fs->h_u, sizeof(fs->h_u)) &&
		    !memcmp(&old->m_u, &fs->m_u, sizeof(fs->m_u)))
			return true;
	}
	return false;
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
	err = swnic_rule_check_target(sw, cmd);
	if (err)
		return err;
	place = swnic_rule_place(sw, fs->location);
	if (place < 0)
		return place;
	if (swnic_rule_exists(sw, fs, place))
		return -EEXIST;
	err = swnic_may_set(BIT(SWNIC_SET_RULE), NULL);
	if (err)
		return err;

	fs->location = place;
	if (swnic_forgets(SWNIC_SET_RULE))
		return 0;
	if (swnic_forgets(SWNIC_SET_RULE_QUEUE))
		fs->ring_cookie = 0;
	spin_lock_bh(&sw->steer_lock);
	sw->rules[place].fs = *fs;
	sw->rules[place].rss_context = cmd->rss_context;
	sw->rules[place].used = true;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

static int swnic_rule_delete(struct swnic *sw, u32 location)
{
	int err;

	if (location >= SWNIC_MAX_RULES || !sw->rules[location].used)
		return -ENOENT;
	err = swnic_may_set(BIT(SWNIC_SET_RULE_DELETE), NULL);
	if (err || swnic_forgets(SWNIC_SET_RULE_DELETE))
		return err;
	spin_lock_bh(&sw->steer_lock);
	sw->rules[location].used = false;
	spin_unlock_bh(&sw->steer_lock);
	return 0;
}

int swnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd)
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

