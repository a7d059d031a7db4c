// SPDX-License-Identifier: GPL-2.0
/* swnic: which rx queue a frame goes to: ntuple rules first, then RSS. */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/unaligned.h>
#include <net/ipv6.h>

#include "swnic.h"

/* The ports of TCP and UDP are in the same place. */
struct swnic_ports {
	__be16	src;
	__be16	dst;
};

static u32 swnic_toeplitz(const u8 *key, const u8 *data, u32 len)
{
	u32 window = get_unaligned_be32(key);
	u32 hash = 0;
	u32 i;
	int bit;

	for (i = 0; i < len; i++) {
		for (bit = 7; bit >= 0; bit--) {
			if (data[i] & BIT(bit))
				hash ^= window;
			window = window << 1 | (key[i + 4] >> bit & 1);
		}
	}
	return hash;
}

/* What the hash of one packet is made from. */
struct swnic_hash_input {
	u8	bytes[36];	/* addresses and ports of IPv6 */
	u32	len;
	u8	xfrm;
};

/* Source and destination, as far as they are wanted: @size bytes each, the one
 * after the other in the packet. RXH_XFRM_SYM_XOR puts their XOR in the place
 * of both, RXH_XFRM_SYM_OR_XOR their OR and their XOR, so that the two
 * directions of a flow hash alike.
 */
static void swnic_hash_add(struct swnic_hash_input *in, const u8 *fields,
			   u32 size, bool src, bool dst)
{
	u32 end, i, from;
	u8 other;

	for (end = 0; end < 2; end++) {
		if (!(end ? dst : src))
			continue;
		for (i = 0; i < size; i++) {
			from = end * size + i;
			other = fields[(from + size) % (2 * size)];
			in->bytes[in->len] = fields[from];
			if (in->xfrm & RXH_XFRM_SYM_OR_XOR && !end)
				in->bytes[in->len] |= other;
			else if (in->xfrm & (RXH_XFRM_SYM_XOR |
					     RXH_XFRM_SYM_OR_XOR))
				in->bytes[in->len] ^= other;
			in->len++;
		}
	}
}

static u32 swnic_hash_fields(const struct swnic_rss *rss,
			     const struct swnic_pkt *pkt)
{
	if (pkt->proto == IPPROTO_TCP)
		return rss->fields[pkt->ip == 4 ? SWNIC_HASH_TCP4 :
						  SWNIC_HASH_TCP6];
	if (pkt->proto == IPPROTO_UDP)
		return rss->fields[pkt->ip == 4 ? SWNIC_HASH_UDP4 :
						  SWNIC_HASH_UDP6];
	return RXH_IP_SRC | RXH_IP_DST;
}

static u32 swnic_hash(const struct swnic_rss *rss, u32 fields, const u8 *data,
		      const struct swnic_pkt *pkt, enum pkt_hash_types *type)
{
	struct swnic_hash_input in = { .xfrm = rss->input_xfrm };
	const u8 *l3 = data + pkt->l3;

	*type = PKT_HASH_TYPE_NONE;
	if (pkt->ip == 4)
		swnic_hash_add(&in, l3 + offsetof(struct iphdr, saddr), 4,
			       fields & RXH_IP_SRC, fields & RXH_IP_DST);
	else if (pkt->ip == 6)
		swnic_hash_add(&in, l3 + offsetof(struct ipv6hdr, saddr), 16,
			       fields & RXH_IP_SRC, fields & RXH_IP_DST);
	else
		return 0;

	*type = PKT_HASH_TYPE_L3;
	if (fields & (RXH_L4_B_0_1 | RXH_L4_B_2_3)) {
		*type = PKT_HASH_TYPE_L4;
		swnic_hash_add(&in, data + pkt->l4, 2, fields & RXH_L4_B_0_1,
			       fields & RXH_L4_B_2_3);
	}
	return swnic_toeplitz(rss->key, in.bytes, in.len);
}

static bool swnic_match4(const struct ethtool_tcpip4_spec *want,
			 const struct ethtool_tcpip4_spec *mask,
			 const struct iphdr *ip, const struct swnic_ports *p)
{
	return !((want->ip4src ^ ip->saddr) & mask->ip4src) &&
	       !((want->ip4dst ^ ip->daddr) & mask->ip4dst) &&
	       !((want->psrc ^ p->src) & mask->psrc) &&
	       !((want->pdst ^ p->dst) & mask->pdst);
}

static bool swnic_match6(const struct ethtool_tcpip6_spec *want,
			 const struct ethtool_tcpip6_spec *mask,
			 const struct ipv6hdr *ip6, const struct swnic_ports *p)
{
	return !ipv6_masked_addr_cmp((struct in6_addr *)want->ip6src,
				     (struct in6_addr *)mask->ip6src,
				     &ip6->saddr) &&
	       !ipv6_masked_addr_cmp((struct in6_addr *)want->ip6dst,
				     (struct in6_addr *)mask->ip6dst,
				     &ip6->daddr) &&
	       !((want->psrc ^ p->src) & mask->psrc) &&
	       !((want->pdst ^ p->dst) & mask->pdst);
}

static bool swnic_match_ip4(const struct ethtool_usrip4_spec *want,
			    const struct ethtool_usrip4_spec *mask,
			    const struct iphdr *ip)
{
	return !((want->ip4src ^ ip->saddr) & mask->ip4src) &&
	       !((want->ip4dst ^ ip->daddr) & mask->ip4dst) &&
	       !((want->proto ^ ip->protocol) & mask->proto);
}

static bool swnic_match_ip6(const struct ethtool_usrip6_spec *want,
			    const struct ethtool_usrip6_spec *mask,
			    const struct ipv6hdr *ip6)
{
	return !ipv6_masked_addr_cmp((struct in6_addr *)want->ip6src,
				     (struct in6_addr *)mask->ip6src,
				     &ip6->saddr) &&
	       !ipv6_masked_addr_cmp((struct in6_addr *)want->ip6dst,
				     (struct in6_addr *)mask->ip6dst,
				     &ip6->daddr) &&
	       !((want->l4_proto ^ ip6->nexthdr) & mask->l4_proto);
}

static bool swnic_match_ether(const struct ethhdr *want,
			      const struct ethhdr *mask,
			      const struct ethhdr *eth)
{
	return ether_addr_equal_masked(want->h_dest, eth->h_dest,
				       mask->h_dest) &&
	       ether_addr_equal_masked(want->h_source, eth->h_source,
				       mask->h_source) &&
	       !((want->h_proto ^ eth->h_proto) & mask->h_proto);
}

static bool swnic_rule_match(const struct ethtool_rx_flow_spec *fs,
			     const u8 *data, const struct swnic_pkt *pkt)
{
	const struct swnic_ports *ports = (const void *)(data + pkt->l4);
	const void *l3 = data + pkt->l3;
	u8 proto;

	switch (fs->flow_type & ~FLOW_RSS) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
		proto = (fs->flow_type & ~FLOW_RSS) == TCP_V4_FLOW ?
			IPPROTO_TCP : IPPROTO_UDP;
		return pkt->ip == 4 && pkt->proto == proto &&
		       swnic_match4(&fs->h_u.tcp_ip4_spec,
				    &fs->m_u.tcp_ip4_spec, l3, ports);
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
		proto = (fs->flow_type & ~FLOW_RSS) == TCP_V6_FLOW ?
			IPPROTO_TCP : IPPROTO_UDP;
		return pkt->ip == 6 && pkt->proto == proto &&
		       swnic_match6(&fs->h_u.tcp_ip6_spec,
				    &fs->m_u.tcp_ip6_spec, l3, ports);
	case IP_USER_FLOW:
		return pkt->ip == 4 && swnic_match_ip4(&fs->h_u.usr_ip4_spec,
						       &fs->m_u.usr_ip4_spec,
						       l3);
	case IPV6_USER_FLOW:
		return pkt->ip == 6 && swnic_match_ip6(&fs->h_u.usr_ip6_spec,
						       &fs->m_u.usr_ip6_spec,
						       l3);
	case ETHER_FLOW:
		return swnic_match_ether(&fs->h_u.ether_spec,
					 &fs->m_u.ether_spec,
					 (const void *)data);
	}
	return false;
}

/* The rule of the lowest location wins, among those with the most fields where
 * the driver has it so.
 */
static const struct swnic_rule *swnic_rule_find(const struct swnic *sw,
						const u8 *data,
						const struct swnic_pkt *pkt)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	const struct swnic_rule *best = NULL;
	u32 i, fields, most = 0;

	if (driver->off_error && !(sw->dev->features & NETIF_F_NTUPLE))
		return NULL;
	for (i = 0; i < sw->rules_end; i++) {
		if (!sw->rules[i].used ||
		    !swnic_rule_match(&sw->rules[i].fs, data, pkt))
			continue;
		if (!driver->most_fields_win)
			return &sw->rules[i];
		fields = hweight32(swnic_rule_fields(&sw->rules[i].fs));
		if (best && fields <= most)
			continue;
		best = &sw->rules[i];
		most = fields;
	}
	return best;
}

/* Returns the rx queue, or a negative number for a frame to discard. */
int swnic_steer(struct swnic *sw, const u8 *data, u32 len, u32 *hash,
		enum pkt_hash_types *hash_type)
{
	const struct swnic_rss *rss, *key, *fields;
	const struct swnic_rule *rule;
	struct swnic_pkt pkt;
	int queue = 0;

	swnic_parse(data, len, &pkt);
	spin_lock(&sw->steer_lock);
	rss = &sw->rss;
	rule = swnic_rule_find(sw, data, &pkt);
	if (rule && rule->fs.ring_cookie == RX_CLS_FLOW_DISC) {
		queue = -1;
		goto out;
	}
	if (rule)
		queue = ethtool_get_flow_spec_ring(rule->fs.ring_cookie);
	if (rule && rule->fs.flow_type & FLOW_RSS && rule->rss_context)
		rss = sw->ctx[rule->rss_context];

	/* What contexts do not have of their own they have of the device. */
	key = swnic_driver->rss.context_key ? rss : &sw->rss;
	fields = swnic_driver->rss.context_fields ? rss : &sw->rss;
	*hash = swnic_hash(key, swnic_hash_fields(fields, &pkt), data, &pkt,
			   hash_type);
	if (!rule || rule->fs.flow_type & FLOW_RSS)
		queue += rss->indir[*hash % sw->rss_entries];
	if (queue >= sw->max_queues)
		queue = -1;
out:
	spin_unlock(&sw->steer_lock);
	if (queue < 0)
		atomic64_inc(&sw->rx_missed);
	return queue;
}

void swnic_rss_default(struct swnic *sw, u32 queues)
{
	u32 i;

	spin_lock_bh(&sw->steer_lock);
	for (i = 0; i < sw->rss_entries; i++)
		sw->rss.indir[i] = ethtool_rxfh_indir_default(i, queues);
	spin_unlock_bh(&sw->steer_lock);
}

static void swnic_rss_unfold(struct swnic_rss *rss, u32 from, u32 to)
{
	u32 i;

	for (i = from; i < to; i++)
		rss->indir[i] = rss->indir[i % from];
}

/* Longer tables repeat what was there, shorter ones were a repetition. */
void swnic_rss_resize(struct swnic *sw, u32 entries)
{
	u32 i;

	spin_lock_bh(&sw->steer_lock);
	swnic_rss_unfold(&sw->rss, sw->rss_entries, entries);
	for (i = 1; i < SWNIC_MAX_RSS_CTX; i++)
		if (sw->ctx[i])
			swnic_rss_unfold(sw->ctx[i], sw->rss_entries, entries);
	sw->rss_entries = entries;
	spin_unlock_bh(&sw->steer_lock);
}

int swnic_steer_init(struct swnic *sw)
{
	u32 i;

	sw->rules = kvcalloc(swnic_driver->rules.slots, sizeof(*sw->rules),
			     GFP_KERNEL);
	if (!sw->rules)
		return -ENOMEM;

	spin_lock_init(&sw->steer_lock);
	for (i = 0; i < SWNIC_HASH_FLOWS; i++)
		sw->rss.fields[i] = RXH_IP_SRC | RXH_IP_DST |
				    RXH_L4_B_0_1 | RXH_L4_B_2_3;
	netdev_rss_key_fill(sw->rss.key, swnic_driver->rss.key);
	sw->rss_entries = swnic_rss_entries(sw->max_queues);
	swnic_rss_default(sw, sw->max_queues);
	return 0;
}

void swnic_steer_free(struct swnic *sw)
{
	u32 i;

	for (i = 1; i < SWNIC_MAX_RSS_CTX; i++)
		kvfree(sw->ctx[i]);
	kvfree(sw->rules);
}
