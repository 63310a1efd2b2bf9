//! The arithmetic of a ring's indices.

/// Bytes of a slot, which holds a request and later its response.
pub const fn slot_bytes<Request, Response>() -> usize {
    let (request, response) = (size_of::<Request>(), size_of::<Response>());
    if request > response { request } else { response }
}

/// Slots of a ring in `bytes` of memory: as many as fit, rounded down to a power of two.
pub const fn slots(bytes: usize, slot_bytes: usize) -> u32 {
    match bytes.saturating_sub(super::SLOTS).checked_div(slot_bytes) {
        None | Some(0) => 0,
        Some(fit) if fit > u32::MAX as usize => 0,
        Some(fit) => 1 << fit.ilog2(),
    }
}

/// Where the slot of `index` lies in the memory of a ring of so many slots, a power of two.
pub const fn offset(index: u32, slots: u32, slot_bytes: usize) -> usize {
    let slot = (index & slots.saturating_sub(1)) as usize;
    super::SLOTS.saturating_add(slot.saturating_mul(slot_bytes))
}

/// An end has moved its index from `old` to `new`; must it notify its peer, who asked for that at `event`?
pub const fn must_notify(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// How far the peer's producer index is ahead of `consumed`; None where that is more than `limit`, which no honest
/// peer does.
pub const fn ahead(produced: u32, consumed: u32, limit: u32) -> Option<u32> {
    let ahead = produced.wrapping_sub(consumed);
    if ahead > limit { None } else { Some(ahead) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_a_power_of_two_of_slots() {
        assert_eq!((slots(4096, 112), slots(8192, 112), slots(65536, 112)), (32, 64, 512));
        assert_eq!((slots(64, 16), slots(0, 16), slots(80, 16)), (0, 0, 1));
    }

    #[test]
    fn slots_lie_behind_the_header_and_come_round() {
        assert_eq!((offset(0, 32, 112), offset(31, 32, 112), offset(32, 32, 112)), (64, 64 + 31 * 112, 64));
        assert_eq!(offset(u32::MAX, 4, 16), 64 + 3 * 16);
    }

    /// Against the definition: a notification is due if the peer's index is one of those that were passed.
    #[test]
    fn a_notification_is_due_where_the_event_index_was_passed() {
        for start in [0, u32::MAX - 3, 1 << 31] {
            for moved in 0..8 {
                for event in 0..16 {
                    let (new, event) = (u32::wrapping_add(start, moved), u32::wrapping_add(start, event));
                    let passed = (1..=moved).any(|step| start.wrapping_add(step) == event);
                    assert_eq!(must_notify(start, new, event), passed, "{start} {moved} {event}");
                }
            }
        }
    }

    #[test]
    fn a_producer_cannot_be_further_than_the_limit() {
        assert_eq!(ahead(5, u32::MAX - 4, 32), Some(10));
        assert_eq!(ahead(33, 0, 32), None);
        assert_eq!(ahead(0, 1, 32), None, "backwards");
    }
}
