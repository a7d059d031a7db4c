// SPDX-License-Identifier: GPL-2.0
/* swnic: ethtool: ntuple rules. */
#include <linux/ethtool.h>
#include <linux/netdevice.h>

#include "swnic.h"

static int swnic_rule_get(const struct swnic *sw, struct ethtool_rxnfc *cmd)
{
	u32 at = cmd->fs.location;

	if (at >= sw->rules_end || !sw->rules[at].used)
		return swnic_driver->rules.get_error;
	cmd->fs = sw->rules[at].fs;
	cmd->rss_context = sw->rules[at].rss_context;
	return 0;
}

/* Drivers differ in what becomes of rule_cnt, the room that there is. */
static int swnic_rule_list(const struct swnic *sw, struct ethtool_rxnfc *cmd,
			   u32 *rule_locs)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	u32 room = cmd->rule_cnt;
	u32 i, at, n = 0;

	for (i = 0; i < sw->rules_end; i++) {
		at = driver->newest_first ? sw->rules_end - 1 - i : i;
		if (!sw->rules[at].used)
			continue;
		if (n == room) {
			if (driver->list == SWNIC_LIST_CUT ||
			    driver->list == SWNIC_LIST_EXACT)
				break;
			return -EMSGSIZE;
		}
		rule_locs[n++] = at;
	}
	if (n < room && driver->list == SWNIC_LIST_EXACT)
		return -EINVAL;
	cmd->data = driver->size_in_list ? swnic_rule_slots() : sw->rules_used;
	if (driver->list != SWNIC_LIST_UNCOUNTED)
		cmd->rule_cnt = n;
	return 0;
}

int swnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
		    u32 *rule_locs)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	struct swnic *sw = netdev_priv(dev);

	switch (cmd->cmd) {
	case ETHTOOL_GRXCLSRLCNT:
		cmd->rule_cnt = sw->rules_used;
		if (driver->size_in_count)
			cmd->data = swnic_rule_slots();
		if (driver->chooser != SWNIC_CHOOSES_USER)
			cmd->data |= RX_CLS_LOC_SPECIAL;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		return swnic_rule_get(sw, cmd);
	case ETHTOOL_GRXCLSRLALL:
		return swnic_rule_list(sw, cmd, rule_locs);
	}
	return -EOPNOTSUPP;
}

static int swnic_rule_free_place(const struct swnic *sw, bool from_top)
{
	u32 slots = swnic_rule_slots();
	u32 i, at;

	for (i = 0; i < slots; i++) {
		at = from_top ? slots - 1 - i : i;
		if (!sw->rules[at].used)
			return at;
	}
	return swnic_driver->rules.full_error;
}

static int swnic_rule_place(const struct swnic *sw, u32 location)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;

	if (driver->chooser == SWNIC_CHOOSES_DRIVER) {
		if (location != RX_CLS_LOC_ANY)
			return driver->place_error;
		return swnic_rule_free_place(sw, driver->from_top);
	}
	if (location < swnic_rule_slots()) {
		if (sw->rules[location].used && !driver->replaces)
			return driver->place_error;
		return location;
	}
	if (driver->chooser == SWNIC_CHOOSES_USER)
		return driver->place_error;
	switch (location) {
	case RX_CLS_LOC_ANY:
	case RX_CLS_LOC_FIRST:
		return swnic_rule_free_place(sw, false);
	case RX_CLS_LOC_LAST:
		return swnic_rule_free_place(sw, true);
	}
	return driver->place_error;
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
		for (i = 0; i < sw->rss_entries; i++)
			last = max(last, rss->indir[i]);
	}
	if (ethtool_get_flow_spec_ring_vf(fs->ring_cookie) ||
	    queue + last >= sw->dev->real_num_rx_queues)
		return -EINVAL;
	return 0;
}

/* Two rules for the same packets: the second would never be used. */
static int swnic_rule_check_others(const struct swnic *sw,
				   const struct ethtool_rx_flow_spec *fs,
				   u32 place)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	const struct ethtool_rx_flow_spec *old;
	u32 i;

	for (i = 0; i < sw->rules_end; i++) {
		old = &sw->rules[i].fs;
		if (!sw->rules[i].used ||
		    (old->flow_type ^ fs->flow_type) & ~FLOW_RSS ||
		    memcmp(&old->h_u, &fs->h_u, sizeof(fs->h_u)) ||
		    memcmp(&old->m_u, &fs->m_u, sizeof(fs->m_u)))
			continue;
		if (i != place)
			return driver->duplicate_error;
		if (old->ring_cookie == fs->ring_cookie)
			return driver->again_error;
	}
	return 0;
}

static void swnic_rule_put(struct swnic *sw, u32 place,
			   const struct ethtool_rxnfc *cmd)
{
	struct swnic_rule *rule = &sw->rules[place];

	spin_lock_bh(&sw->steer_lock);
	sw->rules_used += !rule->used;
	rule->fs = cmd->fs;
	rule->rss_context = cmd->fs.flow_type & FLOW_RSS ? cmd->rss_context : 0;
	rule->used = true;
	sw->rules_end = max(sw->rules_end, place + 1);
	spin_unlock_bh(&sw->steer_lock);
}

static void swnic_rule_remove(struct swnic *sw, u32 place)
{
	spin_lock_bh(&sw->steer_lock);
	sw->rules_used -= sw->rules[place].used;
	sw->rules[place].used = false;
	while (sw->rules_end && !sw->rules[sw->rules_end - 1].used)
		sw->rules_end--;
	spin_unlock_bh(&sw->steer_lock);
}

void swnic_rules_flush(struct swnic *sw)
{
	while (sw->rules_end)
		swnic_rule_remove(sw, sw->rules_end - 1);
}

static int swnic_rule_insert(struct swnic *sw, struct ethtool_rxnfc *cmd)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	struct ethtool_rx_flow_spec *fs = &cmd->fs;
	int err, place;

	if (driver->down_error && !netif_running(sw->dev))
		return driver->down_error;
	if (driver->off_error && !(sw->dev->features & NETIF_F_NTUPLE))
		return driver->off_error;
	err = swnic_rule_check(sw, fs);
	if (err)
		return err;
	err = swnic_rule_check_target(sw, cmd);
	if (err)
		return err;
	place = swnic_rule_place(sw, fs->location);
	if (place < 0)
		return place;
	err = swnic_rule_check_others(sw, fs, place);
	if (err && driver->replaces_first)
		swnic_rule_remove(sw, place);
	if (err)
		return err;
	err = swnic_may_set(BIT(SWNIC_SET_RULE), NULL);
	if (err)
		return err;

	fs->location = place;
	if (swnic_forgets(SWNIC_SET_RULE))
		return 0;
	if (swnic_forgets(SWNIC_SET_RULE_QUEUE))
		fs->ring_cookie = 0;
	swnic_rule_put(sw, place, cmd);
	return 0;
}

static int swnic_rule_delete(struct swnic *sw, u32 location)
{
	int err;

	if (location >= sw->rules_end || !sw->rules[location].used)
		return swnic_driver->rules.delete_error;
	err = swnic_may_set(BIT(SWNIC_SET_RULE_DELETE), NULL);
	if (err || swnic_forgets(SWNIC_SET_RULE_DELETE))
		return err;
	swnic_rule_remove(sw, location);
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
