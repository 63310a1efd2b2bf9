//! A connection to a back-end: its ring, the pages that are lent to it for data, and what is on its way.
//!
//! Invariants:
//! - A page for data is in `pages`, or belongs to one request that is on its way; it goes back when the response has
//!   come, whether or not anybody still waits for that.
//! - A response counts only if its request is on its way. A back-end that breaks the protocol is not used any more: what
//!   is on its way has failed.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};

use pv_abi::io::block::{MAX_SEGMENTS, Operation, Request, Response, Status};
use pv_abi::ring::FrontRing;
use pv_abi::{DomId, GrantRef, PAGE_SIZE};

use super::request::{Order, request};
use crate::block::Error;
use crate::event::{self, Port};
use crate::grant::{self, Grant};
use crate::sched::future::{Signal, note};

pub struct Connection {
    back_end: DomId,
    ring: FrontRing<Grant, Request, Response>,
    reference: GrantRef,
    port: Rc<Port>,
    /// Set when the connection is dropped: the task that waits for the port's events ends then.
    closed: Rc<Signal<()>>,
    /// Pages for data that are in no request.
    pages: Vec<Grant>,
    /// Pages for data that there are.
    lent: usize,
    on_their_way: BTreeMap<u64, Flight>,
    /// Who waits for a slot or for pages.
    waiting: Vec<Waker>,
    broken: bool,
}

/// A request that was put into the ring. It is kept until its outcome is known, and was taken or given up.
struct Flight {
    operation: Operation,
    pages: Vec<Grant>,
    outcome: Option<Status>,
    waker: Option<Waker>,
    /// Nobody waits for it any more.
    given_up: bool,
}

impl Connection {
    /// A ring, lent to `back_end`, and a port for it.
    pub fn new(back_end: DomId) -> Result<Self, grant::Error> {
        let page = Grant::new(back_end)?;
        let reference = page.reference();
        let Ok(ring) = FrontRing::initialise(page, PAGE_SIZE) else { unreachable!("a page holds a ring") };
        let port = Rc::new(event::alloc_unbound(back_end).map_err(grant::Error::Refused)?);
        Ok(Self {
            back_end,
            ring,
            reference,
            port,
            closed: Rc::new(Signal::new()),
            pages: Vec::new(),
            lent: 0,
            on_their_way: BTreeMap::new(),
            waiting: Vec::new(),
            broken: false,
        })
    }

    pub fn ring_reference(&self) -> GrantRef {
        self.reference
    }

    pub fn port(&self) -> &Rc<Port> {
        &self.port
    }

    pub fn closed(&self) -> &Rc<Signal<()>> {
        &self.closed
    }

    /// Puts a request into the ring once there is room, under a number that none on its way has.
    pub fn start(&mut self, id: u64, order: &Order, context: &Context) -> Poll<Result<(), Error>> {
        if self.broken {
            return Poll::Ready(Err(Error::Failed));
        }
        let count = if order.operation == Operation::DISCARD { 0 } else { order.length as usize };
        let count = count.div_ceil(PAGE_SIZE);
        if self.ring.room() == 0 || !self.lend(count) {
            if self.on_their_way.is_empty() {
                return Poll::Ready(Err(Error::Failed)); // there is no memory, and none will come back
            }
            note(&mut self.waiting, context);
            return Poll::Pending;
        }
        let pages = self.pages.split_off(self.pages.len() - count);
        for (page, bytes) in pages.iter().zip(order.data.chunks(PAGE_SIZE)) {
            page.page().write(0, bytes);
        }
        let put = self.ring.put(&request(id, order, &pages)).and_then(|()| self.ring.publish());
        let operation = order.operation;
        let flight = Flight { operation, pages, outcome: None, waker: None, given_up: false };
        self.on_their_way.insert(id, flight);
        match put {
            Ok(false) => {}
            Ok(true) => self.port.notify(),
            Err(_) => self.fail(),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there are so many pages for data that are in no request; more are lent where there may be more.
    fn lend(&mut self, count: usize) -> bool {
        let limit = self.ring.slots() as usize * MAX_SEGMENTS;
        while self.pages.len() < count && self.lent < limit {
            let Ok(page) = Grant::new(self.back_end) else { return false };
            self.pages.push(page);
            self.lent += 1;
        }
        self.pages.len() >= count
    }

    /// Whether a response is to be expected.
    pub fn expects(&self) -> bool {
        !self.broken && self.ring.outstanding() > 0
    }

    /// Takes the responses that have come. True where there was any.
    pub fn reap(&mut self) -> bool {
        let mut any = false;
        while !self.broken {
            match self.ring.take() {
                Ok(Some(response)) => self.finish(&response),
                Ok(None) => break,
                Err(_) => self.fail(),
            }
            any = true;
        }
        any
    }

    /// Wants an event for the next response. True where one has come meanwhile: then it was taken.
    pub fn ask(&mut self) -> bool {
        match self.ring.ask_for_notification() {
            _ if self.broken => false,
            Ok(false) => false,
            Ok(true) => self.reap(),
            Err(_) => {
                self.fail();
                true
            }
        }
    }

    fn finish(&mut self, response: &Response) {
        let known = self.on_their_way.get_mut(&response.id);
        let Some(flight) = known.filter(|flight| flight.outcome.is_none()) else { return self.fail() };
        flight.outcome = Some(response.status);
        flight.waker.take().into_iter().for_each(Waker::wake);
        if flight.given_up {
            self.give_up(response.id);
        }
    }

    /// What became of a request, once that is known; what was read goes to `into`. The request has ended then.
    pub fn poll(&mut self, id: u64, into: &mut [u8], context: &Context) -> Poll<Result<(), Error>> {
        self.reap();
        let Some(flight) = self.on_their_way.get_mut(&id) else { return Poll::Ready(Err(Error::Gone)) };
        let Some(outcome) = flight.outcome else {
            flight.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        if outcome == Status::OKAY && flight.operation == Operation::READ {
            for (page, bytes) in flight.pages.iter().zip(into.chunks_mut(PAGE_SIZE)) {
                page.page().read(0, bytes);
            }
        }
        self.give_up(id);
        Poll::Ready(match outcome {
            Status::OKAY => Ok(()),
            Status::EOPNOTSUPP => Err(Error::Unsupported),
            _ => Err(Error::Failed),
        })
    }

    /// Nobody waits for a request any more. Its pages stay its own until its response has come.
    pub fn give_up(&mut self, id: u64) {
        let Some(flight) = self.on_their_way.get_mut(&id) else { return };
        flight.given_up = true;
        if flight.outcome.is_some() {
            let flight = self.on_their_way.remove(&id);
            self.pages.extend(flight.into_iter().flat_map(|flight| flight.pages));
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// The back-end has broken the protocol. What it has of ours it may still use, so nothing of that is used again
    /// before it is taken back.
    fn fail(&mut self) {
        println!("the back-end in {} breaks the protocol of block devices", self.back_end);
        self.broken = true;
        for flight in self.on_their_way.values_mut() {
            flight.outcome.get_or_insert(Status::ERROR);
            flight.waker.take().into_iter().for_each(Waker::wake);
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed.set(());
        for flight in self.on_their_way.values_mut() {
            flight.waker.take().into_iter().for_each(Waker::wake);
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
