/* SPDX-License-Identifier: GPL-2.0 */
/* swnic: in what drivers differ. DRIVERS.md names the driver's function for
 * each value in driver.c.
 */
#ifndef SWNIC_DRIVER_H
#define SWNIC_DRIVER_H

#include <linux/netdevice.h>
#include <linux/types.h>

/* Who chooses the place of a rule. */
enum swnic_rule_chooser {
	SWNIC_CHOOSES_EITHER,	/* a place, or RX_CLS_LOC_ANY, FIRST, LAST */
	SWNIC_CHOOSES_DRIVER,	/* RX_CLS_LOC_ANY only */
	SWNIC_CHOOSES_USER,	/* a place only */
};

/* What ETHTOOL_GRXCLSRLALL says where there is room for more rules than there
 * are, or for fewer.
 */
enum swnic_rule_list {
	SWNIC_LIST_COUNTED,	/* how many there are; EMSGSIZE */
	SWNIC_LIST_UNCOUNTED,	/* as many as fit, the rest being 0; EMSGSIZE */
	SWNIC_LIST_CUT,		/* how many there are; the first ones */
	SWNIC_LIST_EXACT,	/* EINVAL; the first ones */
};

/* A rule with FLOW_RSS. */
enum swnic_rule_rss {
	SWNIC_RSS_ADDS,		/* the queue is an offset to the table's */
	SWNIC_RSS_TABLE,	/* the table alone */
	SWNIC_RSS_UNSEEN,	/* a rule for the queue */
	SWNIC_RSS_REFUSED,	/* EINVAL */
};

/* NETIF_F_NTUPLE, when the device is new. */
enum swnic_ntuple {
	SWNIC_NTUPLE_ON,
	SWNIC_NTUPLE_OFF,
	SWNIC_NTUPLE_FIXED,	/* on, cannot be switched */
};

/* Errors are negative numbers. Where one may be 0, nothing is refused. */
struct swnic_rules_driver {
	u32	slots;			/* places there are */
	enum swnic_rule_chooser chooser;
	enum swnic_rule_list	list;
	enum swnic_rule_rss	rss;
	enum swnic_ntuple	ntuple;

	bool	size_in_count;		/* ETHTOOL_GRXCLSRLCNT tells it */
	bool	size_in_list;		/* ETHTOOL_GRXCLSRLALL tells it */
	bool	from_top;		/* where the driver chooses */
	bool	newest_first;		/* order of the list */
	bool	replaces;		/* what has the place */
	bool	replaces_first;		/* also if the new one then fails */
	bool	most_fields_win;	/* or else the lowest place */
	bool	same_fields;		/* for all rules of a flow type */
	bool	whole_fields;		/* or none: no masks of a part */
	bool	off_flushes;		/* ntuple off removes all rules */
	u32	addresses;		/* this many sources and destinations */

	u32	flows;			/* BIT(TCP_V4_FLOW) and so on */
	int	flow_error;		/* all others */
	int	tos_error;		/* 0: it is not looked at */
	int	any_error;		/* no field at all; 0: all packets */
	int	drop_error;		/* RX_CLS_FLOW_DISC */
	int	place_error;		/* not one that can be chosen */
	int	full_error;		/* no place is left */
	int	duplicate_error;	/* same packets, another place */
	int	again_error;		/* same packets, place and queue */
	int	get_error;		/* no rule there */
	int	delete_error;		/* no rule there */
	int	off_error;		/* while ntuple is off; 0: rules work */
	int	down_error;		/* while the device is down */
};

struct swnic_rss_driver {
	/* Entries of a table: a number; or else, rounded up to a power of two,
	 * @spread a channel, or @step for each @step channels or part of it;
	 * at least @entries.
	 */
	u32	entries;
	u32	spread;
	u32	step;
	u32	key;			/* bytes */
	u32	contexts;		/* the device's own included; 0: none */
	u8	xfrm;			/* RXH_XFRM_* */
	bool	context_key;		/* each context has its own */
	bool	context_fields;		/* each context has its own */
	bool	fields;			/* of the hash, can be looked at */
	bool	restarts;		/* all queues, for a new table or key */
	int	down_error;		/* a context while the device is down */
};

/* How rx and tx queues can be told apart. */
enum swnic_channels {
	SWNIC_CHANNELS_COMBINED,	/* not at all */
	SWNIC_CHANNELS_APART,		/* there are no combined ones */
	SWNIC_CHANNELS_EITHER,		/* either all combined, or none */
	SWNIC_CHANNELS_MIXED,		/* rx or tx beyond the combined ones */
	SWNIC_CHANNELS_ANY,		/* the same, or none combined */
};

struct swnic_channels_driver {
	enum swnic_channels kind;
	u32	other;			/* vectors, of which none can go */
	bool	restarts;		/* all queues, not only those that go */
	int	rules_error;		/* while there are rules */
};

/* What header split hangs on, and how it is told. */
enum swnic_split {
	SWNIC_SPLIT_SET,	/* what is set; auto is off */
	SWNIC_SPLIT_KEPT,	/* what is set; auto leaves it as it is */
	SWNIC_SPLIT_GRO,	/* set while GRO_HW is on; not told by the driver */
	SWNIC_SPLIT_AUTO,	/* on or auto, which is on for large packets */
	SWNIC_SPLIT_FIXED,	/* always on */
};

/* A size that is asked for. */
enum swnic_round {
	SWNIC_ROUND_NOT,
	SWNIC_ROUND_UP,		/* to a power of two */
	SWNIC_ROUND_REFUSE,	/* what is not a power of two: EINVAL */
	SWNIC_ROUND_MULTIPLE,	/* up to a multiple of 32 */
};

struct swnic_rings_driver {
	u32	params;			/* ETHTOOL_RING_USE_* */
	enum swnic_split split;
	enum swnic_round round;
	u32	rx_min;
	u32	tx_min;
	u32	hds_thresh;		/* at first */
	u32	hds_thresh_max;
	bool	restarts;		/* all queues, for a new setting */
};

enum swnic_offload {
	SWNIC_OFFLOAD_NONE,
	SWNIC_OFFLOAD_OFF,	/* at first */
	SWNIC_OFFLOAD_ON,
};

struct swnic_queues_driver {
	bool	ops;			/* one can be restarted by itself */
	bool	rx_page_size;		/* can be chosen */
	u32	first;			/* that can be: others ERANGE */
	int	down_error;		/* while the device is down */
};

struct swnic_driver {
	const char			*name;
	struct swnic_rules_driver	rules;
	struct swnic_rss_driver		rss;
	struct swnic_channels_driver	channels;
	struct swnic_rings_driver	rings;
	struct swnic_queues_driver	queues;
	enum swnic_offload		gro_hw;
	enum swnic_offload		lro;
	enum netmem_tx_mode		netmem_tx;
	bool				port;	/* ndo_get_phys_port_name */
};

/* The one that is played. */
extern const struct swnic_driver *swnic_driver;

#endif
