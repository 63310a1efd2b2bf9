//! The front-end's end of a ring: puts requests, takes responses.

use super::index::{ahead, must_notify, offset, slot_bytes, slots};
use super::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, RingError, RingMemory};
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The front-end's end. It does not trust its back-end either: a response is taken only where a request is
/// outstanding. Whether the response's id is one that was asked for is the caller's to check.
#[derive(Debug)]
pub struct FrontRing<Memory, Request, Response> {
    memory: Memory,
    slots: u32,
    /// Requests put; those beyond `published` are not shown yet.
    put: u32,
    published: u32,
    /// The responses' consumer index: how many were taken, modulo 2^32.
    taken: u32,
    messages: PhantomData<fn(Request) -> Response>,
}

impl<Memory, Request, Response> FrontRing<Memory, Request, Response>
where
    Memory: RingMemory,
    Request: IntoBytes + Immutable,
    Response: FromBytes + IntoBytes,
{
    const SLOT_BYTES: usize = slot_bytes::<Request, Response>();

    /// Makes an empty ring in `bytes` of memory, all zero, before any back-end knows of it.
    ///
    /// # Errors
    /// Where the memory is too small, or an access fails.
    pub fn initialise(memory: Memory, bytes: usize) -> Result<Self, RingError<Memory::Error>> {
        let slots = slots(bytes, Self::SLOT_BYTES);
        if slots == 0 {
            return Err(RingError::TooSmall);
        }
        for (offset, value) in [(REQ_PROD, 0), (REQ_EVENT, 1), (RSP_PROD, 0), (RSP_EVENT, 1)] {
            memory.store_u32(offset, value)?;
        }
        Ok(Self { memory, slots, put: 0, published: 0, taken: 0, messages: PhantomData })
    }

    /// How many requests the ring can hold.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests whose response was not taken.
    pub fn outstanding(&self) -> u32 {
        self.put.wrapping_sub(self.taken)
    }

    /// Requests that can be put now.
    pub fn room(&self) -> u32 {
        self.slots.saturating_sub(self.outstanding())
    }

    fn slot(&self, index: u32) -> usize {
        offset(index, self.slots, Self::SLOT_BYTES)
    }

    /// Puts a request, for the back-end to see at the next [`Self::publish`].
    ///
    /// # Errors
    /// [`RingError::NoRoom`] where the ring is full.
    pub fn put(&mut self, request: &Request) -> Result<(), RingError<Memory::Error>> {
        if self.room() == 0 {
            return Err(RingError::NoRoom);
        }
        self.memory.write(self.slot(self.put), request.as_bytes())?;
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Shows the back-end what was put; true where it wants to be notified of that.
    ///
    /// # Errors
    /// Where an access fails.
    pub fn publish(&mut self) -> Result<bool, RingError<Memory::Error>> {
        let old = core::mem::replace(&mut self.published, self.put);
        if old == self.put {
            return Ok(false);
        }
        self.memory.store_u32(REQ_PROD, self.put)?;
        let event = self.memory.load_u32(REQ_EVENT)?;
        Ok(must_notify(old, self.put, event))
    }

    /// Responses that wait to be taken.
    ///
    /// # Errors
    /// [`RingError::Overrun`] where the back-end says there are more than were asked for.
    pub fn waiting(&self) -> Result<u32, RingError<Memory::Error>> {
        let produced = self.memory.load_u32(RSP_PROD)?;
        let asked_for = self.published.wrapping_sub(self.taken);
        ahead(produced, self.taken, asked_for).ok_or(RingError::Overrun { produced, consumed: self.taken })
    }

    /// Takes the next response, if there is one.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub fn take(&mut self) -> Result<Option<Response>, RingError<Memory::Error>> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let mut response = Response::new_zeroed();
        self.memory.read(self.slot(self.taken), response.as_mut_bytes())?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks to be notified of the next response. True where one waits already: then don't sleep.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub fn ask_for_notification(&mut self) -> Result<bool, RingError<Memory::Error>> {
        self.memory.store_u32(RSP_EVENT, self.taken.wrapping_add(1))?;
        Ok(self.waiting()? != 0)
    }
}
