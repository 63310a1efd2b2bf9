//! Requests under way, and the order that some of them ask for.
//!
//! A flush begins when no write that stood before it in the ring is under way, and a barrier besides keeps everything
//! back until it has ended. A request that must wait is *held*, and while one is, no other is taken from the ring: so
//! there is at most one, and nothing passes it.

use super::flight::{Flight, Order};
use crate::host::Page;

pub(super) struct Queue<P> {
    /// Requests that are under way, by their tokens.
    flights: Vec<Option<Flight<P>>>,
    free: Vec<u32>,
    held: Option<Flight<P>>,
    writes: usize,
    alone: bool,
}

impl<P: Page> Queue<P> {
    /// For as many requests at a time.
    pub fn new(slots: u32) -> Self {
        let flights = (0..slots).map(|_| None).collect();
        Self { flights, free: (0..slots).rev().collect(), held: None, writes: 0, alone: false }
    }

    /// Nothing is under way or held.
    pub fn is_empty(&self) -> bool {
        self.held.is_none() && self.free.len() == self.flights.len()
    }

    /// No request can be taken now.
    pub fn is_blocked(&self) -> bool {
        self.held.is_some() || self.free.is_empty()
    }

    /// Takes a request, to be released when its order allows. Not while the queue is blocked.
    pub fn hold(&mut self, flight: Flight<P>) {
        debug_assert!(!self.is_blocked());
        self.held = Some(flight);
    }

    /// The held request, if it may begin: it is under way from now on.
    pub fn release(&mut self) -> Option<(u32, &Flight<P>)> {
        let may_begin = match self.held.as_ref()?.order {
            Order::Free | Order::Write => !self.alone,
            Order::BehindWrites | Order::Alone => self.writes == 0 && !self.alone,
        };
        let token = if may_begin { self.free.pop()? } else { return None };
        let flight = self.held.take()?;
        self.writes = self.writes.saturating_add(usize::from(flight.order == Order::Write));
        self.alone |= flight.order == Order::Alone;
        let place = self.flights.get_mut(token as usize)?;
        Some((token, place.insert(flight)))
    }

    /// A request that is under way.
    pub fn flight(&mut self, token: u32) -> Option<&mut Flight<P>> {
        self.flights.get_mut(token as usize)?.as_mut()
    }

    /// A request is under way no more.
    pub fn end(&mut self, token: u32) -> Option<Flight<P>> {
        let flight = self.flights.get_mut(token as usize)?.take()?;
        self.free.push(token);
        self.writes = self.writes.saturating_sub(usize::from(flight.order == Order::Write));
        self.alone &= flight.order != Order::Alone;
        Some(flight)
    }
}
