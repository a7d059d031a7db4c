/* SPDX-License-Identifier: GPL-2.0 */
/* swnic: a software NIC for devmem TCP. Shared declarations. */
#ifndef SWNIC_H
#define SWNIC_H

#include <linux/ethtool.h>
#include <linux/netdevice.h>
#include <linux/platform_device.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <net/netmem.h>
#include <net/netdev_queues.h>
#include <net/xdp.h>

#include "driver.h"

#define SWNIC_MAX_PAIRS		16
#define SWNIC_MAX_QUEUES	128
#define SWNIC_MAX_MTU		9000
#define SWNIC_MAX_RX_PAGE	SZ_64K

/* The largest rings, and the default. */
#define SWNIC_WIRE_SLOTS	1024	/* frames on the way to one rx queue */
#define SWNIC_TX_SLOTS		256	/* packets waiting in one tx queue */

/* As much as any driver has. */
#define SWNIC_MAX_RSS_INDIR	2048
#define SWNIC_MAX_RSS_KEY	52
#define SWNIC_MAX_RSS_CTX	64	/* context 0, the default, included */

/* What of a frame fits one page beside XDP's head- and tailroom. */
#define SWNIC_XDP_LINEAR						\
	SKB_WITH_OVERHEAD(PAGE_SIZE - XDP_PACKET_HEADROOM)

/* What crosses the wire: bytes, and what the receiver's hardware found when
 * it chose the queue.
 */
struct swnic_frame {
	u32			len;
	u32			hash;
	enum pkt_hash_types	hash_type;
	u8			data[];
};

/* Frames on their way to one rx queue. Many senders, one receiver (NAPI). */
struct swnic_wire {
	spinlock_t		lock;	/* serialises senders */
	u32			head;
	u32			tail;
	struct swnic_frame	**slots;
	/* the sender's queues that found the wire full */
	DECLARE_BITMAP(waiting, SWNIC_MAX_QUEUES);
};

/* Where things are in a frame. Offsets count from the Ethernet header. */
struct swnic_pkt {
	u16	l3;
	u16	l4;
	u16	payload;	/* TCP only: end of all headers */
	u16	payload_len;	/* TCP only: without Ethernet padding */
	u16	l3_end;
	u8	ip;		/* 4, 6, or 0: not IP */
	u8	proto;		/* TCP, UDP, or 0: other, or a fragment */
};

/* A payload buffer that several segments share. */
struct swnic_buf {
	netmem_ref	netmem;
	u8		*va;
	u32		off;
	u32		refs;	/* handed out so far */
};

/* Segments of one flow on their way to becoming one packet. */
struct swnic_agg {
	struct sk_buff		*skb;
	struct swnic_pkt	pkt;
	u32			hash;
	enum pkt_hash_types	hash_type;
	u32			next_seq;
	u32			payload;
	u16			mss;
	u16			segs;
};

/* Written by the queue's NAPI (stop and tx_drops also by the transmit path),
 * read by anyone: 64-bit words on a 64-bit machine.
 */
struct swnic_stats {
	u64	rx_packets;
	u64	rx_bytes;
	u64	rx_hw_drops;
	u64	rx_alloc_fail;
	u64	rx_csum_good;
	u64	rx_csum_none;
	u64	rx_csum_bad;
	u64	gro_packets;
	u64	gro_bytes;
	u64	gro_wire_packets;
	u64	gro_wire_bytes;
	u64	tx_packets;
	u64	tx_bytes;
	u64	tx_drops;
	u64	tx_csum_none;
	u64	tx_needs_csum;
	u64	gso_packets;
	u64	gso_bytes;
	u64	gso_wire_packets;
	u64	gso_wire_bytes;
	u64	tx_stop;
	u64	tx_wake;
};

struct swnic_txq {
	struct sk_buff		**slots;
	u32			head;	/* written by ndo_start_xmit */
	u32			tail;	/* written by NAPI */

	/* The packet at @tail, when some of it is out already. */
	bool			begun;
	int			rxq;	/* of the peer; negative: discard */
	u32			hash;
	enum pkt_hash_types	hash_type;
	u32			sent;	/* payload bytes */
	u32			segs;
	struct swnic_frame	*held;	/* built, but the wire was full */
};

/* One combined channel: an rx queue, a tx queue, and the NAPI of both. */
struct swnic_channel {
	struct napi_struct	napi;
	struct swnic		*sw;
	u32			idx;
	bool			active;

	struct swnic_wire	wire;
	struct page_pool	*hdr_pool;
	struct page_pool	*pool;		/* payload: maybe unreadable */
	u32			buf_size;	/* of one netmem of @pool */
	struct swnic_buf	buf;
	struct swnic_agg	agg;
	u32			tcp_data_seen;
	struct xdp_rxq_info	xdp_rxq;

	struct swnic_txq	tx;
	struct swnic_stats	stats;
};

/* Flow types whose hash fields can be chosen. */
enum swnic_hash_flow {
	SWNIC_HASH_TCP4,
	SWNIC_HASH_UDP4,
	SWNIC_HASH_TCP6,
	SWNIC_HASH_UDP6,
	SWNIC_HASH_FLOWS,
};

struct swnic_rss {
	u32	indir[SWNIC_MAX_RSS_INDIR];
	u8	key[SWNIC_MAX_RSS_KEY];
	u32	fields[SWNIC_HASH_FLOWS];	/* RXH_* */
	u8	input_xfrm;			/* RXH_XFRM_* */
};

struct swnic_rule {
	struct ethtool_rx_flow_spec	fs;
	u32				rss_context;
	bool				used;
};

struct swnic {
	struct net_device	*dev;
	struct platform_device	*pdev;
	struct swnic		*peer;
	struct swnic_channel	*ch;
	u32			max_queues;

	u32			rx_ring;	/* of SWNIC_WIRE_SLOTS */
	u32			tx_ring;	/* of SWNIC_TX_SLOTS */
	bool			hds;
	u32			hds_thresh;
	struct bpf_prog		*xdp_prog;
	atomic64_t		rx_missed;	/* reached no queue */

	bool			apart;		/* no channel is combined */

	spinlock_t		steer_lock;	/* all below */
	u32			rss_entries;	/* of each table */
	struct swnic_rss	rss;
	struct swnic_rss	*ctx[SWNIC_MAX_RSS_CTX];
	struct swnic_rule	*rules;		/* as many as the driver has */
	u32			rules_used;
	u32			rules_end;	/* behind the last used one */
};

static inline u32 swnic_live_channels(const struct net_device *dev)
{
	return max(dev->real_num_rx_queues, dev->real_num_tx_queues);
}

/* main.c */
extern unsigned int swnic_unsplit_every;
extern unsigned int swnic_unsplit_bytes;

static inline struct device *swnic_dma_dev(struct swnic *sw)
{
	return &sw->pdev->dev;
}

/* queue.c */
extern const struct netdev_queue_mgmt_ops swnic_queue_mgmt_ops;
int swnic_channels_alloc(struct swnic *sw);
void swnic_channels_free(struct swnic *sw);
int swnic_channels_up(struct swnic *sw, u32 from, u32 to);
void swnic_channels_down(struct swnic *sw, u32 from, u32 to);
int swnic_restart(struct swnic *sw);
void swnic_kick(struct swnic_channel *ch);

/* tx.c */
netdev_tx_t swnic_start_xmit(struct sk_buff *skb, struct net_device *dev);
bool swnic_tx_poll(struct swnic_channel *ch, int budget);
void swnic_tx_purge(struct swnic_channel *ch);
void *swnic_dma_to_virt(struct swnic *sw, dma_addr_t addr);

/* wire.c */
struct swnic_frame *swnic_frame_alloc(u32 len);
bool swnic_wire_push(struct swnic_channel *to, struct swnic_frame *frame);
struct swnic_frame *swnic_wire_pop(struct swnic_wire *wire);
bool swnic_wire_wait(struct swnic_channel *to, u32 txq);
void swnic_wire_wake(struct swnic_channel *ch);

/* rx.c */
int swnic_rx_poll(struct swnic_channel *ch, int budget);
void swnic_rx_purge(struct swnic_channel *ch);
struct sk_buff *swnic_rx_head(struct swnic_channel *ch, const void *data,
			      u32 len);
bool swnic_rx_payload(struct swnic_channel *ch, struct sk_buff *skb,
		      const u8 *data, u32 len, bool pack);
void swnic_rx_deliver(struct swnic_channel *ch, struct sk_buff *skb,
		      u32 hash, enum pkt_hash_types hash_type);
void swnic_rx_no_buffer(struct swnic_channel *ch);
void swnic_buf_retire(struct swnic_channel *ch, bool in_napi);

/* xdp.c */
int swnic_bpf(struct net_device *dev, struct netdev_bpf *bpf);
bool swnic_xdp_fits(const struct bpf_prog *prog, int mtu);
void swnic_rx_xdp(struct swnic_channel *ch, struct bpf_prog *prog,
		  const struct swnic_frame *frame, bool csum_ok);

/* coalesce.c */
bool swnic_coalesce(struct swnic_channel *ch, const struct swnic_frame *frame,
		    const struct swnic_pkt *pkt);
void swnic_coalesce_flush(struct swnic_channel *ch);

/* parse.c */
void swnic_parse(const u8 *data, u32 len, struct swnic_pkt *pkt);
bool swnic_csum_ok(const u8 *data, const struct swnic_pkt *pkt);

/* steer.c */
int swnic_steer(struct swnic *sw, const u8 *data, u32 len, u32 *hash,
		enum pkt_hash_types *hash_type);
int swnic_steer_init(struct swnic *sw);
void swnic_steer_free(struct swnic *sw);
void swnic_rss_default(struct swnic *sw, u32 queues);
void swnic_rss_resize(struct swnic *sw, u32 entries);

/* rss.c */
u32 swnic_get_rx_ring_count(struct net_device *dev);
u32 swnic_get_rxfh_key_size(struct net_device *dev);
u32 swnic_get_rxfh_indir_size(struct net_device *dev);
int swnic_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh);
int swnic_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		   struct netlink_ext_ack *extack);
int swnic_create_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int swnic_modify_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx,
			      const struct ethtool_rxfh_param *rxfh,
			      struct netlink_ext_ack *extack);
int swnic_remove_rxfh_context(struct net_device *dev,
			      struct ethtool_rxfh_context *ctx, u32 rss_context,
			      struct netlink_ext_ack *extack);
int swnic_get_rxfh_fields(struct net_device *dev,
			  struct ethtool_rxfh_fields *fields);
int swnic_set_rxfh_fields(struct net_device *dev,
			  const struct ethtool_rxfh_fields *fields,
			  struct netlink_ext_ack *extack);

/* ntuple.c */
int swnic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd,
		    u32 *rule_locs);
int swnic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *cmd);
void swnic_rules_flush(struct swnic *sw);

/* rule.c */
u32 swnic_rule_fields(const struct ethtool_rx_flow_spec *fs);
int swnic_rule_check(const struct swnic *sw, struct ethtool_rx_flow_spec *fs);

/* driver.c */
int swnic_driver_choose(void);
void swnic_driver_play(struct net_device *dev);
u32 swnic_rss_entries(u32 queues);

/* fault.c */
enum swnic_setting {			/* names of two module parameters */
	SWNIC_SET_SPLIT,
	SWNIC_SET_HDS_THRESH,
	SWNIC_SET_RINGS,
	SWNIC_SET_CHANNELS,
	SWNIC_SET_RSS,
	SWNIC_SET_RULE,
	SWNIC_SET_RULE_QUEUE,		/* forget only: queue 0 instead */
	SWNIC_SET_RULE_DELETE,
	SWNIC_SET_CTX_CREATE,		/* refuse only */
	SWNIC_SET_CTX_DELETE,		/* refuse only */
};

void swnic_lack(struct net_device *dev, struct ethtool_ops *ops,
		struct netdev_queue_mgmt_ops *queue_ops);
bool swnic_forgets(enum swnic_setting setting);
int swnic_may_set(u32 settings, struct netlink_ext_ack *extack);
u32 swnic_rule_slots(void);

/* ethtool.c */
bool swnic_splits(const struct swnic *sw);
extern const struct ethtool_ops swnic_ethtool_ops;

#endif
