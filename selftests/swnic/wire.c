// SPDX-License-Identifier: GPL-2.0
/* swnic: the wire: frames on their way to one rx queue of the peer. */
#include <linux/etherdevice.h>
#include <linux/slab.h>

#include "swnic.h"

/* Consumes @frame if there was room. Softirqs are off: this is NAPI. */
bool swnic_wire_push(struct swnic_channel *to, struct swnic_frame *frame)
{
	struct swnic_wire *wire = &to->wire;
	bool room;

	spin_lock(&wire->lock);
	/* the receiver is done with the slot: pairs with swnic_wire_pop() */
	room = wire->head - smp_load_acquire(&wire->tail) <
	       READ_ONCE(to->sw->rx_ring);
	if (room) {
		wire->slots[wire->head % SWNIC_WIRE_SLOTS] = frame;
		/* the slot before the index: pairs with swnic_wire_pop() */
		smp_store_release(&wire->head, wire->head + 1);
	}
	spin_unlock(&wire->lock);
	return room;
}

/* Only the receiver's NAPI calls this, or who has disabled it. */
struct swnic_frame *swnic_wire_pop(struct swnic_wire *wire)
{
	struct swnic_frame *frame;

	/* the index before the slot: pairs with swnic_wire_push() */
	if (smp_load_acquire(&wire->head) == wire->tail)
		return NULL;
	frame = wire->slots[wire->tail % SWNIC_WIRE_SLOTS];
	/* the slot may be filled again: pairs with swnic_wire_push() */
	smp_store_release(&wire->tail, wire->tail + 1);
	return frame;
}

/* The receiver made room: whoever waited for it goes on. */
void swnic_wire_wake(struct swnic_channel *ch)
{
	struct swnic *peer = ch->sw->peer;
	u32 i;

	/* Pairs with the barrier in swnic_wire_wait(): either we see the bit
	 * or the sender sees the room.
	 */
	smp_mb();
	for_each_set_bit(i, ch->wire.waiting, SWNIC_MAX_QUEUES)
		if (test_and_clear_bit(i, ch->wire.waiting))
			swnic_kick(&peer->ch[i]);
}

/* Returns false if room appeared while we were about to wait. */
bool swnic_wire_wait(struct swnic_channel *to, u32 txq)
{
	struct swnic_wire *wire = &to->wire;

	set_bit(txq, wire->waiting);
	/* the bit before the look at the room: pairs with swnic_wire_wake() */
	smp_mb__after_atomic();
	if (!READ_ONCE(to->active))
		return false;
	return READ_ONCE(wire->head) - READ_ONCE(wire->tail) >=
	       READ_ONCE(to->sw->rx_ring);
}

struct swnic_frame *swnic_frame_alloc(u32 len)
{
	struct swnic_frame *frame;
	u32 wire_len = max_t(u32, len, ETH_ZLEN);

	frame = kmalloc(struct_size(frame, data, wire_len),
			GFP_ATOMIC | __GFP_NOWARN);
	if (!frame)
		return NULL;
	frame->len = wire_len;
	if (wire_len > len)
		memset(frame->data + len, 0, wire_len - len);
	return frame;
}

