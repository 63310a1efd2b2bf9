//! Both ends against each other, and each against a peer that lies.

use super::*;
use core::cell::Cell;
use core::convert::Infallible;

const BYTES: usize = 128;

/// Four slots of 16 bytes.
struct Shared([Cell<u8>; BYTES]);

impl Default for Shared {
    fn default() -> Self {
        Self([const { Cell::new(0) }; BYTES])
    }
}

impl RingMemory for &Shared {
    type Error = Infallible;

    fn load_u32(&self, offset: usize) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), Infallible> {
        self.write(offset, &value.to_le_bytes())
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Infallible> {
        into.iter_mut().zip(&self.0[offset..]).for_each(|(to, from)| *to = from.get());
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), Infallible> {
        from.iter().zip(&self.0[offset..]).for_each(|(from, to)| to.set(*from));
        Ok(())
    }
}

type Front<'a> = FrontRing<&'a Shared, [u64; 2], u64>;
type Back<'a> = BackRing<&'a Shared, [u64; 2], u64>;

fn ends(shared: &Shared) -> (Front<'_>, Back<'_>) {
    (Front::initialise(shared, BYTES).unwrap(), Back::attach(shared, BYTES).unwrap())
}

#[test]
fn requests_and_responses_go_round_many_times() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    assert_eq!((front.slots(), back.slots()), (4, 4));
    let (mut asked, mut heard) = (0, 0);
    for round in 0..50 {
        for _ in 0..=round % 4 {
            front.put(&[asked, asked * 7]).unwrap();
            asked += 1;
        }
        front.publish().unwrap();
        for _ in 0..back.waiting().unwrap() {
            let [id, product] = back.take().unwrap();
            assert_eq!(product, id * 7);
            back.put(&id).unwrap();
        }
        back.publish().unwrap();
        while let Some(id) = front.take().unwrap() {
            assert_eq!(id, heard);
            heard += 1;
        }
        assert_eq!((heard, front.outstanding(), back.unanswered()), (asked, 0, 0));
    }
}

#[test]
fn nothing_is_seen_before_it_is_published() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    front.put(&[1, 1]).unwrap();
    assert_eq!(back.waiting(), Ok(0));
    assert!(front.publish().unwrap(), "the first request is always notified");
    assert!(!front.publish().unwrap(), "nothing new");
    back.take().unwrap();
    back.put(&1).unwrap();
    assert_eq!(front.take(), Ok(None));
    assert!(back.publish().unwrap());
    assert_eq!(front.take(), Ok(Some(1)));
}

#[test]
fn an_end_that_is_awake_is_not_notified_and_one_that_asked_is() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    front.put(&[0, 0]).unwrap();
    assert!(front.publish().unwrap());
    front.put(&[1, 1]).unwrap();
    assert!(!front.publish().unwrap(), "the back-end was told and has not asked again");
    assert_eq!(back.waiting(), Ok(2));
    back.take().unwrap();
    assert!(back.ask_for_notification().unwrap(), "the second one waits");
    back.take().unwrap();
    assert!(!back.ask_for_notification().unwrap());
    front.put(&[2, 2]).unwrap();
    assert!(front.publish().unwrap());
}

#[test]
fn neither_end_puts_more_than_there_is_room_for() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    (0..4).for_each(|id| front.put(&[id, 0]).unwrap());
    assert_eq!((front.put(&[4, 0]), front.room()), (Err(RingError::NoRoom), 0));
    assert_eq!(back.put(&0), Err(RingError::NoRoom), "nobody asked");
    front.publish().unwrap();
    (0..4).for_each(|_| assert!(back.take().is_ok()));
    assert_eq!(back.take(), Err(RingError::NoRoom));
    assert_eq!(back.waiting(), Ok(0));
}

#[test]
fn a_front_end_that_lies_is_an_overrun() {
    for lie in [5, u32::MAX, 1 << 31] {
        let shared = Shared::default();
        let (_, back) = ends(&shared);
        (&shared).store_u32(REQ_PROD, lie).unwrap();
        assert_eq!(back.waiting(), Err(RingError::Overrun { produced: lie, consumed: 0 }));
        assert!(matches!(Back::attach(&shared, BYTES), Err(RingError::Overrun { .. })));
    }
}

/// Taken requests still occupy their slots, and an index that goes back behind them is a lie too.
#[test]
fn requests_that_are_not_answered_count() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    (0..3).for_each(|id| front.put(&[id, 0]).unwrap());
    front.publish().unwrap();
    (0..3).for_each(|_| assert!(back.take().is_ok()));
    for (lie, fits) in [(4, true), (3, true), (5, false), (2, false), (7, false)] {
        (&shared).store_u32(REQ_PROD, lie).unwrap();
        assert_eq!(back.waiting().is_ok(), fits, "{lie}");
    }
}

#[test]
fn a_back_end_that_lies_is_an_overrun() {
    for lie in [2, u32::MAX, 1 << 31] {
        let shared = Shared::default();
        let (mut front, _) = ends(&shared);
        front.put(&[1, 1]).unwrap();
        front.publish().unwrap();
        (&shared).store_u32(RSP_PROD, lie).unwrap();
        assert_eq!(front.take(), Err(RingError::Overrun { produced: lie, consumed: 0 }));
    }
}

#[test]
fn a_new_back_end_goes_on_where_the_last_one_stopped() {
    let shared = Shared::default();
    let (mut front, mut back) = ends(&shared);
    (0..3).for_each(|id| front.put(&[id, 0]).unwrap());
    front.publish().unwrap();
    back.take().unwrap();
    back.put(&0).unwrap();
    back.publish().unwrap();
    let mut back = Back::attach(&shared, BYTES).unwrap();
    assert_eq!((back.waiting(), back.take()), (Ok(2), Ok([1, 0])));
}

#[test]
fn memory_without_a_slot_is_no_ring() {
    let shared = Shared::default();
    assert!(matches!(Front::initialise(&shared, 79), Err(RingError::TooSmall)));
    assert!(matches!(Back::attach(&shared, 64), Err(RingError::TooSmall)));
}
