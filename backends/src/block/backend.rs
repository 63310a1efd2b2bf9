//! A disk being served to one front-end.
//!
//! The way of a request: [`super::request`] checks it, [`super::grants`] maps its pages, it becomes a
//! [`Flight`](super::flight::Flight) that [`super::queue`] starts when its order allows, an
//! [`Engine`](super::engine::Engine) makes its calls, and its response goes back.
//!
//! Invariants:
//! - a flight's token is its place in `flights`, never anything that the front-end chose;
//! - requests that were taken and not answered are in `flights` or held by the queue: never more than the ring has slots;
//! - what a request has mapped stays mapped until its last call has been reported.

use super::disk::Disk;
use super::engine::{self, Engine};
use super::flight::{Flight, Order};
use super::grants::Grants;
use super::parameters::{MAX_INDIRECT_SEGMENTS, MAX_RING_PAGES, RingParameters};
use super::queue::Queue;
use super::request::{Limits, Refused};
use super::{prepare, request};
use crate::Disconnect;
use crate::bell::Bell;
use crate::driver::{Device, Sleep};
use crate::failures::Failure;
use crate::host::{Access, Host};
use crate::pages::Pages;
use crate::port::Port;
use pv_abi::DomId;
use pv_abi::io::block::{MAX_SEGMENTS, Operation, Request, Response, Status};
use pv_abi::ring::BackRing;
use std::io;
use std::sync::Arc;

/// A disk that is connected to a front-end.
pub struct Backend<H: Host> {
    port: Port<H>,
    ring: BackRing<Pages<H::Page>, Request, Response>,
    grants: Grants<H>,
    disk: Arc<Disk>,
    limits: Limits,
    queue: Queue<H::Page>,
    engine: Box<dyn Engine<H::Page>>,
    /// Responses that are not in the ring yet. They are put there together: each is a line of memory that the front-end's
    /// processor has to give away, and they come faster when they are asked for one behind the other.
    responses: Vec<Response>,
    /// The image was looked at in this turn, and still is what it was.
    image_checked: bool,
    last_refusal: Option<Refused>,
}

impl<H: Host> Backend<H> {
    /// Connects to the ring and the port of a front-end of `domain`; `bell` is rung by its notifications.
    ///
    /// # Errors
    /// What the front-end does not have, or has said wrongly.
    pub fn connect(
        host: Arc<H>,
        domain: DomId,
        ring: &RingParameters,
        disk: Arc<Disk>,
        bell: Arc<Bell>,
    ) -> Result<Self, Disconnect> {
        let image = Arc::clone(disk.image());
        Self::with_engine(host, domain, ring, disk, bell, |depth, bell| engine::best(image, depth, bell))
    }

    /// As [`Self::connect`], with an engine of the caller's choice, made for that many calls at a time.
    pub(super) fn with_engine(
        host: Arc<H>,
        domain: DomId,
        parameters: &RingParameters,
        disk: Arc<Disk>,
        bell: Arc<Bell>,
        engine: impl FnOnce(u32, &Bell) -> Box<dyn Engine<H::Page>>,
    ) -> Result<Self, Disconnect> {
        let refs = &parameters.ring_refs;
        if !refs.len().is_power_of_two() || refs.len() > MAX_RING_PAGES {
            return Err(Disconnect::Protocol(format!("a ring of {} pages", refs.len())));
        }
        let pages = refs.iter().map(|&reference| host.map_grant(domain, reference, Access::ReadWrite));
        let pages = Pages::new(pages.collect::<Result<_, _>>()?);
        let bytes = pages.bytes();
        let ring = BackRing::attach(pages, bytes)?;
        let port = Port::bind(&host, domain, parameters.port, Arc::clone(&bell))?;
        let slots = ring.slots();
        let keep =
            if parameters.persistent_grants { (slots as usize).saturating_mul(MAX_SEGMENTS) } else { 0 };
        let limits = Limits {
            sectors: disk.sectors(),
            writable: disk.is_writable(),
            indirect_segments: MAX_INDIRECT_SEGMENTS,
        };
        Ok(Self {
            grants: Grants::new(host, domain, keep),
            port,
            engine: engine(slots, &bell),
            ring,
            disk,
            limits,
            queue: Queue::new(slots),
            responses: Vec::new(),
            image_checked: false,
            last_refusal: None,
        })
    }

    /// The last request that was not even tried, and why.
    pub fn last_refusal(&self) -> Option<Refused> {
        self.last_refusal
    }

    /// Requests that were taken and not answered.
    pub fn unanswered(&self) -> u32 {
        self.ring.unanswered()
    }

    /// Takes and starts requests, up to a batch; true where there was any.
    fn start(&mut self) -> Result<bool, Disconnect> {
        let mut any = self.start_held();
        let waiting = self.ring.waiting()?.min(self.engine.batch());
        for _ in 0..waiting {
            if self.queue.is_blocked() || !self.disk.delay().is_zero() {
                break;
            }
            let request = self.ring.take()?;
            self.accept(&request);
            any = true;
        }
        Ok(any)
    }

    /// Checks a request, and starts it or answers that it cannot be.
    fn accept(&mut self, request: &Request) {
        let flight = request::check(request, self.limits)
            .and_then(|task| prepare::prepare(request::id(request), task, &mut self.grants, self.limits));
        match flight {
            Ok(flight) => {
                self.disk.charge(flight.bytes());
                self.queue.hold(flight);
                self.start_held();
            }
            Err(refused) => {
                self.disk.charge(0);
                self.last_refusal = Some(refused);
                self.respond(request::id(request), request::operation(request), refused.status);
            }
        }
    }

    /// Starts the request that is held, where its order allows; true where there was one.
    fn start_held(&mut self) -> bool {
        let Some((token, flight)) = self.queue.release() else { return false };
        let changes = flight.order != Order::Free;
        let call = flight.call();
        match if changes { self.check_for_writing() } else { Ok(()) } {
            Err(error) => self.end(token, Err(error)),
            Ok(()) => match call {
                Some(call) => self.engine.start(token, call),
                None => self.end(token, Ok(())),
            },
        }
        true
    }

    /// Looks before a write, or what makes writes durable; at the image itself once a turn.
    fn check_for_writing(&mut self) -> io::Result<()> {
        self.disk.check_flushes()?;
        if !self.image_checked {
            self.disk.image().check()?;
            self.image_checked = true;
        }
        Ok(())
    }

    /// Tells whoever runs the guest where the engine had to change its way.
    fn tell_of_engine(&mut self) {
        if let Some(error) = &self.engine.take_failure() {
            let outcome = "the disk goes on without it, one call after the other";
            self.disk.failures().add(&Failure {
                operation: "io_uring",
                place: String::new(),
                error,
                outcome,
            });
        }
    }

    /// Takes what the engine has finished, no more than the ring has slots; true where there was anything.
    fn complete(&mut self) -> bool {
        self.tell_of_engine();
        let mut any = false;
        for _ in 0..self.ring.slots() {
            let Some((token, result)) = self.engine.finished() else { break };
            any = true;
            let Some(flight) = self.queue.flight(token) else { continue };
            match flight.advance(result).map(|()| flight.call()) {
                Ok(Some(call)) => self.engine.start(token, call),
                Ok(None) => self.end(token, Ok(())),
                Err(error) => self.end(token, Err(error)),
            }
        }
        any
    }

    /// A request is done, or has failed.
    fn end(&mut self, token: u32, result: io::Result<()>) {
        let Some(flight) = self.queue.end(token) else { return };
        let status = match &result {
            Ok(()) => Status::OKAY,
            Err(error) => self.failed(&flight, error),
        };
        self.respond(flight.id, flight.operation, status);
    }

    fn failed(&self, flight: &Flight<H::Page>, error: &io::Error) -> Status {
        let unsupported = error.kind() == io::ErrorKind::Unsupported;
        if unsupported && flight.operation == Operation::DISCARD {
            return Status::EOPNOTSUPP;
        }
        if flight.is_flushing() {
            self.disk.flush_failed();
        }
        let (operation, place) = flight.describe();
        self.disk.failures().add(&Failure {
            operation,
            place,
            error,
            outcome: "the guest was told of an error",
        });
        Status::ERROR
    }

    fn respond(&mut self, id: u64, operation: Operation, status: Status) {
        self.responses.push(Response::new(id, operation, status));
    }

    fn publish(&mut self) -> Result<(), Disconnect> {
        for response in self.responses.drain(..) {
            self.ring.put(&response)?;
        }
        if self.ring.publish()? {
            self.port.notify()?;
        }
        Ok(())
    }
}

impl<H: Host> Device for Backend<H> {
    fn serve(&mut self) -> Result<bool, Disconnect> {
        self.image_checked = false;
        let started = self.start()?;
        self.engine.submit();
        let finished = self.complete();
        self.publish()?;
        Ok(started || finished)
    }

    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect> {
        if self.engine.prepare_to_sleep() {
            return Ok(Sleep::No);
        }
        if self.queue.is_blocked() {
            return Ok(Sleep::UntilRung); // by the end of what it waits for
        }
        let delay = self.disk.delay();
        if !delay.is_zero() {
            return Ok(Sleep::AtMost(delay));
        }
        Ok(if self.ring.ask_for_notification()? { Sleep::No } else { Sleep::UntilRung })
    }

    fn quiesce(&mut self) -> Result<(), Disconnect> {
        while !self.queue.is_empty() {
            self.start_held();
            self.engine.submit();
            self.engine.wait();
            self.complete();
        }
        self.publish()
    }
}
