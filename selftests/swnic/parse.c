// SPDX-License-Identifier: GPL-2.0
/* swnic: what the hardware knows about a frame: headers and checksums. */
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>

#include "swnic.h"

static bool swnic_parse_ipv4(const u8 *data, u32 len, struct swnic_pkt *pkt)
{
	const struct iphdr *ip = (const struct iphdr *)(data + pkt->l3);

	if (pkt->l3 + sizeof(*ip) > len || ip->version != 4 || ip->ihl < 5)
		return false;
	pkt->l4 = pkt->l3 + ip->ihl * 4;
	pkt->l3_end = pkt->l3 + ntohs(ip->tot_len);
	pkt->ip = 4;
	if (!ip_is_fragment(ip))
		pkt->proto = ip->protocol;
	return true;
}

/* Extension headers are beyond this hardware: such a packet has no ports. */
static bool swnic_parse_ipv6(const u8 *data, u32 len, struct swnic_pkt *pkt)
{
	const struct ipv6hdr *ip6 = (const struct ipv6hdr *)(data + pkt->l3);

	if (pkt->l3 + sizeof(*ip6) > len || ip6->version != 6)
		return false;
	pkt->l4 = pkt->l3 + sizeof(*ip6);
	pkt->l3_end = pkt->l4 + ntohs(ip6->payload_len);
	pkt->ip = 6;
	pkt->proto = ip6->nexthdr;
	return true;
}

/* @len bytes of a frame lie at @data, at least its headers: the lengths that
 * the headers claim are checked by swnic_csum_ok(), on a whole frame.
 */
void swnic_parse(const u8 *data, u32 len, struct swnic_pkt *pkt)
{
	const struct ethhdr *eth = (const struct ethhdr *)data;
	__be16 type;
	bool ok = false;

	memset(pkt, 0, sizeof(*pkt));
	if (len < sizeof(*eth))
		return;
	type = eth->h_proto;
	pkt->l3 = ETH_HLEN;
	if (type == htons(ETH_P_8021Q) && len >= VLAN_ETH_HLEN) {
		type = ((const struct vlan_ethhdr *)data)->h_vlan_encapsulated_proto;
		pkt->l3 = VLAN_ETH_HLEN;
	}
	if (type == htons(ETH_P_IP))
		ok = swnic_parse_ipv4(data, len, pkt);
	else if (type == htons(ETH_P_IPV6))
		ok = swnic_parse_ipv6(data, len, pkt);
	if (!ok)
		return;

	if (pkt->proto == IPPROTO_TCP) {
		const struct tcphdr *th = (void *)(data + pkt->l4);

		if (pkt->l4 + sizeof(*th) > len || th->doff < 5 ||
		    pkt->l4 + th->doff * 4 > len) {
			pkt->proto = 0;
			return;
		}
		pkt->payload = pkt->l4 + th->doff * 4;
		if (pkt->l3_end > pkt->payload)
			pkt->payload_len = pkt->l3_end - pkt->payload;
	} else if (pkt->proto != IPPROTO_UDP ||
		   pkt->l4 + sizeof(struct udphdr) > len) {
		pkt->proto = 0;
	}
}

/* Whether the TCP or UDP checksum of a whole frame is right. */
bool swnic_csum_ok(const u8 *data, const struct swnic_pkt *pkt)
{
	u32 len = pkt->l3_end - pkt->l4;
	__wsum csum;

	if (pkt->proto == IPPROTO_UDP &&
	    !((const struct udphdr *)(data + pkt->l4))->check)
		return false;	/* none to check */
	csum = csum_partial(data + pkt->l4, len, 0);
	if (pkt->ip == 4) {
		const struct iphdr *ip = (const struct iphdr *)(data + pkt->l3);

		return !csum_tcpudp_magic(ip->saddr, ip->daddr, len, pkt->proto,
					  csum);
	} else {
		const struct ipv6hdr *ip6 = (void *)(data + pkt->l3);

		return !csum_ipv6_magic(&ip6->saddr, &ip6->daddr, len,
					pkt->proto, csum);
	}
}
