// SPDX-License-Identifier: GPL-2.0
/* swnic: which rules the driver takes. */
#include <linux/etherdevice.h>
#include <linux/ethtool.h>

#include "swnic.h"

/* Where a field of a rule is in the unions h_u and m_u. */
struct swnic_field {
	u8	at;
	u8	len;
};

#define SWNIC_FIELD(spec, field) {					\
	.at	= offsetof(struct spec, field),				\
	.len	= sizeof_field(struct spec, field),			\
}

/* Addresses come first, the source before the destination. */
#define SWNIC_SRC	0
#define SWNIC_DST	1

#define SWNIC_RULE_FIELDS	4

static const struct swnic_field swnic_fields_l4_ip4[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_tcpip4_spec, ip4src),
	SWNIC_FIELD(ethtool_tcpip4_spec, ip4dst),
	SWNIC_FIELD(ethtool_tcpip4_spec, psrc),
	SWNIC_FIELD(ethtool_tcpip4_spec, pdst),
};

static const struct swnic_field swnic_fields_l4_ip6[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_tcpip6_spec, ip6src),
	SWNIC_FIELD(ethtool_tcpip6_spec, ip6dst),
	SWNIC_FIELD(ethtool_tcpip6_spec, psrc),
	SWNIC_FIELD(ethtool_tcpip6_spec, pdst),
};

static const struct swnic_field swnic_fields_spi_ip4[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_ah_espip4_spec, ip4src),
	SWNIC_FIELD(ethtool_ah_espip4_spec, ip4dst),
	SWNIC_FIELD(ethtool_ah_espip4_spec, spi),
};

static const struct swnic_field swnic_fields_spi_ip6[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_ah_espip6_spec, ip6src),
	SWNIC_FIELD(ethtool_ah_espip6_spec, ip6dst),
	SWNIC_FIELD(ethtool_ah_espip6_spec, spi),
};

static const struct swnic_field swnic_fields_ip4[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_usrip4_spec, ip4src),
	SWNIC_FIELD(ethtool_usrip4_spec, ip4dst),
	SWNIC_FIELD(ethtool_usrip4_spec, proto),
};

static const struct swnic_field swnic_fields_ip6[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethtool_usrip6_spec, ip6src),
	SWNIC_FIELD(ethtool_usrip6_spec, ip6dst),
	SWNIC_FIELD(ethtool_usrip6_spec, l4_proto),
};

static const struct swnic_field swnic_fields_ether[SWNIC_RULE_FIELDS] = {
	SWNIC_FIELD(ethhdr, h_source),
	SWNIC_FIELD(ethhdr, h_dest),
	SWNIC_FIELD(ethhdr, h_proto),
};

static const struct swnic_field *swnic_fields_of(u32 flow_type)
{
	switch (flow_type & ~FLOW_RSS) {
	case TCP_V4_FLOW:
	case UDP_V4_FLOW:
	case SCTP_V4_FLOW:
		return swnic_fields_l4_ip4;
	case TCP_V6_FLOW:
	case UDP_V6_FLOW:
	case SCTP_V6_FLOW:
		return swnic_fields_l4_ip6;
	case AH_V4_FLOW:
	case ESP_V4_FLOW:
		return swnic_fields_spi_ip4;
	case AH_V6_FLOW:
	case ESP_V6_FLOW:
		return swnic_fields_spi_ip6;
	case IP_USER_FLOW:
		return swnic_fields_ip4;
	case IPV6_USER_FLOW:
		return swnic_fields_ip6;
	case ETHER_FLOW:
		return swnic_fields_ether;
	}
	return NULL;
}

static bool swnic_flow_is_ip4(u32 flow_type)
{
	const struct swnic_field *fields = swnic_fields_of(flow_type);

	return fields && fields[SWNIC_SRC].len == sizeof(__be32);
}

static bool swnic_flow_is_ip6(u32 flow_type)
{
	const struct swnic_field *fields = swnic_fields_of(flow_type);

	return fields && fields[SWNIC_SRC].len == sizeof(struct in6_addr);
}

/* The type of service: in the same place of all that are IPv4 or IPv6. */
static u8 *swnic_rule_tos(const struct ethtool_rx_flow_spec *fs,
			  union ethtool_flow_union *fields)
{
	if (swnic_flow_is_ip4(fs->flow_type))
		return &fields->tcp_ip4_spec.tos;
	if (swnic_flow_is_ip6(fs->flow_type))
		return &fields->tcp_ip6_spec.tclass;
	return NULL;
}

/* A bit for each field of which the rule asks for anything. */
u32 swnic_rule_fields(const struct ethtool_rx_flow_spec *fs)
{
	const struct swnic_field *fields = swnic_fields_of(fs->flow_type);
	const u8 *mask = (const void *)&fs->m_u;
	u32 i, used = 0;

	for (i = 0; fields && i < SWNIC_RULE_FIELDS; i++)
		if (memchr_inv(mask + fields[i].at, 0, fields[i].len))
			used |= BIT(i);
	return used;
}

static bool swnic_rule_is_whole(const struct ethtool_rx_flow_spec *fs)
{
	const struct swnic_field *fields = swnic_fields_of(fs->flow_type);
	const u8 *mask = (const void *)&fs->m_u;
	u32 i;

	for (i = 0; i < SWNIC_RULE_FIELDS; i++)
		if (memchr_inv(mask + fields[i].at, 0, fields[i].len) &&
		    memchr_inv(mask + fields[i].at, 0xff, fields[i].len))
			return false;
	return true;
}

/* More than addresses, ports and a protocol: nothing that is matched. */
static bool swnic_rule_asks_for_more(const struct ethtool_rx_flow_spec *fs)
{
	switch (fs->flow_type & ~FLOW_RSS) {
	case IP_USER_FLOW:
		return fs->m_u.usr_ip4_spec.l4_4_bytes ||
		       fs->h_u.usr_ip4_spec.ip_ver != ETH_RX_NFC_IP4;
	case IPV6_USER_FLOW:
		return fs->m_u.usr_ip6_spec.l4_4_bytes;
	}
	return false;
}

/* One address, as the table of them holds it. */
static bool swnic_same_address(const struct ethtool_rx_flow_spec *a,
			       const struct ethtool_rx_flow_spec *b, u32 end)
{
	const struct swnic_field *fields = swnic_fields_of(a->flow_type);
	u32 at = fields[end].at, len = fields[end].len;

	return swnic_flow_is_ip4(a->flow_type) ==
	       swnic_flow_is_ip4(b->flow_type) &&
	       !memcmp(a->h_u.hdata + at, b->h_u.hdata + at, len) &&
	       !memcmp(a->m_u.hdata + at, b->m_u.hdata + at, len);
}

static bool swnic_has_address(const struct ethtool_rx_flow_spec *fs, u32 end)
{
	return (fs->flow_type & ~FLOW_RSS) != ETHER_FLOW &&
	       swnic_rule_fields(fs) & BIT(end);
}

/* Would the table of sources, or of destinations, hold one too many? */
static bool swnic_addresses_full(const struct swnic *sw,
				 const struct ethtool_rx_flow_spec *fs, u32 end)
{
	const struct ethtool_rx_flow_spec *a;
	u32 i, j, different = 1;

	if (!swnic_has_address(fs, end))
		return false;
	for (i = 0; i < sw->rules_end; i++) {
		a = &sw->rules[i].fs;
		if (!sw->rules[i].used || !swnic_has_address(a, end))
			continue;
		if (swnic_same_address(a, fs, end))
			return false;
		for (j = 0; j < i; j++)
			if (sw->rules[j].used &&
			    swnic_has_address(&sw->rules[j].fs, end) &&
			    swnic_same_address(a, &sw->rules[j].fs, end))
				break;
		different += j == i;
	}
	return different > swnic_driver->rules.addresses;
}

static bool swnic_other_fields(const struct swnic *sw,
			       const struct ethtool_rx_flow_spec *fs)
{
	u32 fields = swnic_rule_fields(fs);
	u32 i;

	for (i = 0; i < sw->rules_end; i++)
		if (sw->rules[i].used &&
		    sw->rules[i].fs.flow_type == fs->flow_type &&
		    swnic_rule_fields(&sw->rules[i].fs) != fields)
			return true;
	return false;
}

/* Does the driver take a rule like that? It may take parts away that it does
 * not look at.
 */
int swnic_rule_check(const struct swnic *sw, struct ethtool_rx_flow_spec *fs)
{
	const struct swnic_rules_driver *driver = &swnic_driver->rules;
	u32 flow = fs->flow_type & ~FLOW_RSS;

	if (fs->flow_type & FLOW_RSS && driver->rss == SWNIC_RSS_REFUSED)
		return -EINVAL;
	if (fs->flow_type & FLOW_RSS && driver->rss == SWNIC_RSS_UNSEEN)
		fs->flow_type = flow;
	if (flow >= 32 || !(driver->flows & BIT(flow)) ||
	    swnic_rule_asks_for_more(fs))
		return driver->flow_error;
	if (fs->ring_cookie == RX_CLS_FLOW_DISC && driver->drop_error)
		return driver->drop_error;
	if (swnic_rule_tos(fs, &fs->m_u) && *swnic_rule_tos(fs, &fs->m_u)) {
		if (driver->tos_error)
			return driver->tos_error;
		*swnic_rule_tos(fs, &fs->h_u) = 0;
		*swnic_rule_tos(fs, &fs->m_u) = 0;
	}
	if (!swnic_rule_fields(fs) && driver->any_error)
		return driver->any_error;
	if (driver->whole_fields && !swnic_rule_is_whole(fs))
		return -EOPNOTSUPP;
	if (driver->same_fields && swnic_other_fields(sw, fs))
		return -EINVAL;
	if (driver->addresses && (swnic_addresses_full(sw, fs, SWNIC_SRC) ||
				  swnic_addresses_full(sw, fs, SWNIC_DST)))
		return driver->full_error;
	return 0;
}
