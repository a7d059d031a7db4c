// SPDX-License-Identifier: GPL-2.0
/*
 * swnic: pairs of Ethernet devices joined by a wire, with what a NIC needs for
 * devmem TCP: header split into page pools of unreadable memory, queue
 * management, flow steering, and transmission out of a dmabuf.
 *
 * "DMA" is a copy to or from phys_to_virt(dma_to_phys()), so the machine must
 * have no IOMMU between this device and its memory, and a dmabuf must be RAM.
 */
#include <linux/etherdevice.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <net/netdev_lock.h>
#include <net/netdev_queues.h>
#include <net/rtnetlink.h>

#include "swnic.h"

#ifndef CONFIG_64BIT
#error "counters and phys_to_virt() assume a 64-bit machine"
#endif

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "Number of device pairs (1 to 16)");

static unsigned int queues = 16;
module_param(queues, uint, 0444);
MODULE_PARM_DESC(queues, "Combined channels of each device (1 to 128)");

unsigned int swnic_unsplit_every;
module_param_named(unsplit_every, swnic_unsplit_every, uint, 0644);
MODULE_PARM_DESC(unsplit_every, "Leave every Nth TCP data packet of a queue unsplit (0: none)");

unsigned int swnic_unsplit_bytes;
module_param_named(unsplit_bytes, swnic_unsplit_bytes, uint, 0644);
MODULE_PARM_DESC(unsplit_bytes, "Payload bytes that stay in host memory when unsplit_every hits (0: all)");

static struct swnic *swnic_ends[SWNIC_MAX_PAIRS][2];

static void swnic_update_carrier(struct swnic *sw, bool up)
{
	struct net_device *peer = sw->peer->dev;

	ASSERT_RTNL();
	if (up && netif_running(peer)) {
		netif_carrier_on(sw->dev);
		netif_carrier_on(peer);
	} else {
		netif_carrier_off(sw->dev);
		netif_carrier_off(peer);
	}
}

static int swnic_open(struct net_device *dev)
{
	struct swnic *sw = netdev_priv(dev);
	int err;

	err = swnic_channels_up(sw, 0, swnic_live_channels(dev));
	if (err)
		return err;
	netif_tx_start_all_queues(dev);
	swnic_update_carrier(sw, true);
	return 0;
}

static int swnic_stop(struct net_device *dev)
{
	struct swnic *sw = netdev_priv(dev);

	swnic_update_carrier(sw, false);
	netif_tx_stop_all_queues(dev);
	swnic_channels_down(sw, 0, swnic_live_channels(dev));
	return 0;
}

static int swnic_change_mtu(struct net_device *dev, int new_mtu)
{
	struct swnic *sw = netdev_priv(dev);

	if (sw->xdp_prog && !swnic_xdp_fits(sw->xdp_prog, new_mtu))
		return -EBUSY;
	WRITE_ONCE(dev->mtu, new_mtu);
	return 0;
}

static void swnic_get_stats64(struct net_device *dev,
			      struct rtnl_link_stats64 *s)
{
	struct swnic *sw = netdev_priv(dev);
	u32 i;

	for (i = 0; i < sw->max_queues; i++) {
		const struct swnic_stats *q = &sw->ch[i].stats;

		s->rx_packets += READ_ONCE(q->rx_packets);
		s->rx_bytes += READ_ONCE(q->rx_bytes);
		s->rx_dropped += READ_ONCE(q->rx_hw_drops);
		s->tx_packets += READ_ONCE(q->tx_packets);
		s->tx_bytes += READ_ONCE(q->tx_bytes);
		s->tx_dropped += READ_ONCE(q->tx_drops);
	}
	s->rx_missed_errors = atomic64_read(&sw->rx_missed);
}

static netdev_features_t swnic_fix_features(struct net_device *dev,
					    netdev_features_t features)
{
	struct swnic *sw = netdev_priv(dev);

	if (swnic_driver->rings.split != SWNIC_SPLIT_GRO)
		return features;
	if (sw->xdp_prog)
		features &= ~(NETIF_F_LRO | NETIF_F_GRO_HW);
	if (dev->cfg_pending &&
	    dev->cfg_pending->hds_config == ETHTOOL_TCP_DATA_SPLIT_ENABLED)
		features |= NETIF_F_GRO_HW;
	return features;
}

/* The core keeps the new features if this succeeds. */
static int swnic_set_features(struct net_device *dev,
			      netdev_features_t features)
{
	if (dev->features & ~features & NETIF_F_NTUPLE &&
	    swnic_driver->rules.off_flushes)
		swnic_rules_flush(netdev_priv(dev));
	return 0;
}

static int swnic_get_phys_port_name(struct net_device *dev, char *name,
				    size_t len)
{
	struct swnic *sw = netdev_priv(dev);

	if (!swnic_driver->port)
		return -EOPNOTSUPP;
	return snprintf(name, len, "p%d", sw->pdev->id) < len ? 0 : -EINVAL;
}

static const struct net_device_ops swnic_netdev_ops = {
	.ndo_open		= swnic_open,
	.ndo_stop		= swnic_stop,
	.ndo_start_xmit		= swnic_start_xmit,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_change_mtu		= swnic_change_mtu,
	.ndo_get_stats64	= swnic_get_stats64,
	.ndo_fix_features	= swnic_fix_features,
	.ndo_set_features	= swnic_set_features,
	.ndo_get_phys_port_name	= swnic_get_phys_port_name,
	.ndo_bpf		= swnic_bpf,
};

static void swnic_fill_rx_stats(const struct swnic_stats *q,
				struct netdev_queue_stats_rx *s)
{
	s->packets += READ_ONCE(q->rx_packets);
	s->bytes += READ_ONCE(q->rx_bytes);
	s->alloc_fail += READ_ONCE(q->rx_alloc_fail);
	s->hw_drops += READ_ONCE(q->rx_hw_drops);
	s->csum_unnecessary += READ_ONCE(q->rx_csum_good);
	s->csum_none += READ_ONCE(q->rx_csum_none);
	s->csum_bad += READ_ONCE(q->rx_csum_bad);
	s->hw_gro_packets += READ_ONCE(q->gro_packets);
	s->hw_gro_bytes += READ_ONCE(q->gro_bytes);
	s->hw_gro_wire_packets += READ_ONCE(q->gro_wire_packets);
	s->hw_gro_wire_bytes += READ_ONCE(q->gro_wire_bytes);
}

static void swnic_fill_tx_stats(const struct swnic_stats *q,
				struct netdev_queue_stats_tx *s)
{
	s->packets += READ_ONCE(q->tx_packets);
	s->bytes += READ_ONCE(q->tx_bytes);
	s->hw_drops += READ_ONCE(q->tx_drops);
	s->csum_none += READ_ONCE(q->tx_csum_none);
	s->needs_csum += READ_ONCE(q->tx_needs_csum);
	s->hw_gso_packets += READ_ONCE(q->gso_packets);
	s->hw_gso_bytes += READ_ONCE(q->gso_bytes);
	s->hw_gso_wire_packets += READ_ONCE(q->gso_wire_packets);
	s->hw_gso_wire_bytes += READ_ONCE(q->gso_wire_bytes);
	s->stop += READ_ONCE(q->tx_stop);
	s->wake += READ_ONCE(q->tx_wake);
}

/* The core leaves counters that a driver lacks undefined: clear only ours. */
static void swnic_zero_rx_stats(struct netdev_queue_stats_rx *s)
{
	s->packets = 0;
	s->bytes = 0;
	s->alloc_fail = 0;
	s->hw_drops = 0;
	s->csum_unnecessary = 0;
	s->csum_none = 0;
	s->csum_bad = 0;
	s->hw_gro_packets = 0;
	s->hw_gro_bytes = 0;
	s->hw_gro_wire_packets = 0;
	s->hw_gro_wire_bytes = 0;
}

static void swnic_zero_tx_stats(struct netdev_queue_stats_tx *s)
{
	s->packets = 0;
	s->bytes = 0;
	s->hw_drops = 0;
	s->csum_none = 0;
	s->needs_csum = 0;
	s->hw_gso_packets = 0;
	s->hw_gso_bytes = 0;
	s->hw_gso_wire_packets = 0;
	s->hw_gso_wire_bytes = 0;
	s->stop = 0;
	s->wake = 0;
}

static void swnic_get_queue_stats_rx(struct net_device *dev, int idx,
				     struct netdev_queue_stats_rx *s)
{
	struct swnic *sw = netdev_priv(dev);

	swnic_zero_rx_stats(s);
	swnic_fill_rx_stats(&sw->ch[idx].stats, s);
}

static void swnic_get_queue_stats_tx(struct net_device *dev, int idx,
				     struct netdev_queue_stats_tx *s)
{
	struct swnic *sw = netdev_priv(dev);

	swnic_zero_tx_stats(s);
	swnic_fill_tx_stats(&sw->ch[idx].stats, s);
}

/* What belongs to no live queue: channels since taken away, lost frames. */
static void swnic_get_base_stats(struct net_device *dev,
				 struct netdev_queue_stats_rx *rx,
				 struct netdev_queue_stats_tx *tx)
{
	struct swnic *sw = netdev_priv(dev);
	u32 i;

	swnic_zero_rx_stats(rx);
	swnic_zero_tx_stats(tx);
	for (i = dev->real_num_rx_queues; i < sw->max_queues; i++)
		swnic_fill_rx_stats(&sw->ch[i].stats, rx);
	for (i = dev->real_num_tx_queues; i < sw->max_queues; i++)
		swnic_fill_tx_stats(&sw->ch[i].stats, tx);
	rx->hw_drops += atomic64_read(&sw->rx_missed);
}

static const struct netdev_stat_ops swnic_stat_ops = {
	.get_queue_stats_rx	= swnic_get_queue_stats_rx,
	.get_queue_stats_tx	= swnic_get_queue_stats_tx,
	.get_base_stats		= swnic_get_base_stats,
};

static void swnic_setup(struct swnic *sw, const u8 *mac)
{
	struct net_device *dev = sw->dev;

	dev->netdev_ops = &swnic_netdev_ops;
	dev->ethtool_ops = &swnic_ethtool_ops;
	dev->stat_ops = &swnic_stat_ops;
	dev->queue_mgmt_ops = &swnic_queue_mgmt_ops;
	dev->xdp_features = NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_RX_SG;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = SWNIC_MAX_MTU;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_UNICAST_FLT;

	dev->hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_ALL_TSO |
			   NETIF_F_GSO_ACCECN | NETIF_F_RXHASH | NETIF_F_NTUPLE;
	dev->features = dev->hw_features | NETIF_F_RXCSUM | NETIF_F_HIGHDMA;
	dev->vlan_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_ALL_TSO |
			     NETIF_F_GSO_ACCECN | NETIF_F_HIGHDMA;
	swnic_driver_play(dev);

	netdev_lockdep_set_classes(dev);
	eth_hw_addr_set(dev, mac);
	netif_carrier_off(dev);
}

/* A binding's dmabuf is unmapped when the last socket with frags of it goes,
 * which may be long after this module has. So a device that memory was mapped
 * for is never freed: the reference taken here is not given back.
 */
static struct platform_device *swnic_dma_parent(int id)
{
	const struct platform_device_info info = {
		.name		= KBUILD_MODNAME,
		.id		= id,
		.dma_mask	= DMA_BIT_MASK(64),
	};
	struct platform_device *pdev;

	pdev = platform_device_register_full(&info);
	if (IS_ERR(pdev))
		return pdev;
	if (device_iommu_mapped(&pdev->dev)) {
		dev_err(&pdev->dev, "behind an IOMMU: cannot reach memory\n");
		platform_device_unregister(pdev);
		return ERR_PTR(-EOPNOTSUPP);
	}
	get_device(&pdev->dev);
	return pdev;
}

static struct swnic *swnic_create(u8 pair, u8 end)
{
	const u8 mac[ETH_ALEN] = { 0x02, 's', 'w', 'n', pair, end };
	struct net_device *dev;
	struct swnic *sw;
	int err;

	dev = alloc_etherdev_mqs(sizeof(*sw), queues, queues);
	if (!dev)
		return ERR_PTR(-ENOMEM);
	sw = netdev_priv(dev);
	sw->dev = dev;
	sw->max_queues = queues;
	sw->apart = swnic_driver->channels.kind == SWNIC_CHANNELS_APART;
	sw->hds_thresh = swnic_driver->rings.hds_thresh;
	sw->rx_ring = SWNIC_WIRE_SLOTS;
	sw->tx_ring = SWNIC_TX_SLOTS;

	sw->pdev = swnic_dma_parent(pair * 2 + end);
	if (IS_ERR(sw->pdev)) {
		err = PTR_ERR(sw->pdev);
		goto err_free_netdev;
	}
	SET_NETDEV_DEV(dev, &sw->pdev->dev);

	err = swnic_channels_alloc(sw);
	if (err)
		goto err_unregister_parent;
	err = swnic_steer_init(sw);
	if (err)
		goto err_free_channels;
	swnic_setup(sw, mac);
	return sw;

err_free_channels:
	swnic_channels_free(sw);
err_unregister_parent:
	platform_device_unregister(sw->pdev);
err_free_netdev:
	free_netdev(dev);
	return ERR_PTR(err);
}

static void swnic_destroy(struct swnic *sw)
{
	struct platform_device *pdev = sw->pdev;

	swnic_steer_free(sw);
	swnic_channels_free(sw);
	free_netdev(sw->dev);
	platform_device_unregister(pdev);
}

static int swnic_pair_add(u8 pair)
{
	struct swnic *a, *b;
	int err;

	a = swnic_create(pair, 0);
	if (IS_ERR(a))
		return PTR_ERR(a);
	b = swnic_create(pair, 1);
	if (IS_ERR(b)) {
		err = PTR_ERR(b);
		goto err_destroy_a;
	}
	a->peer = b;
	b->peer = a;

	err = register_netdev(a->dev);
	if (err)
		goto err_destroy_b;
	err = register_netdev(b->dev);
	if (err)
		goto err_unregister_a;
	swnic_ends[pair][0] = a;
	swnic_ends[pair][1] = b;
	return 0;

err_unregister_a:
	unregister_netdev(a->dev);
err_destroy_b:
	swnic_destroy(b);
err_destroy_a:
	swnic_destroy(a);
	return err;
}

/* Both ends go together: each looks into the other while it is up. */
static void swnic_pair_del(u8 pair)
{
	struct swnic *a = swnic_ends[pair][0], *b = swnic_ends[pair][1];
	LIST_HEAD(list);

	rtnl_lock();
	unregister_netdevice_queue(a->dev, &list);
	unregister_netdevice_queue(b->dev, &list);
	unregister_netdevice_many(&list);
	rtnl_unlock();

	swnic_destroy(a);
	swnic_destroy(b);
}

static int __init swnic_init(void)
{
	unsigned int i;
	int err;

	if (!in_range(pairs, 1, SWNIC_MAX_PAIRS) ||
	    !in_range(queues, 1, SWNIC_MAX_QUEUES)) {
		pr_err("swnic: pairs must be 1 to %u, queues 1 to %u\n",
		       SWNIC_MAX_PAIRS, SWNIC_MAX_QUEUES);
		return -EINVAL;
	}
	err = swnic_driver_choose();
	if (err)
		return err;
	for (i = 0; i < pairs; i++) {
		err = swnic_pair_add(i);
		if (err)
			goto err_del;
	}
	return 0;

err_del:
	while (i--)
		swnic_pair_del(i);
	return err;
}

static void __exit swnic_exit(void)
{
	unsigned int i;

	for (i = 0; i < pairs; i++)
		swnic_pair_del(i);
}

module_init(swnic_init);
module_exit(swnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Software NIC for devmem TCP");
