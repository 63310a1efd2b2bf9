//! The back-end's end of a ring: takes requests, puts responses.

use super::index::{ahead, must_notify, offset, slot_bytes, slots};
use super::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, RingError, RingMemory};
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The back-end's end. Requests that were taken and not yet answered are never more than the ring has slots.
#[derive(Debug)]
pub struct BackRing<Memory, Request, Response> {
    memory: Memory,
    slots: u32,
    /// The requests' consumer index: how many were taken, modulo 2^32.
    taken: u32,
    /// Responses put; those beyond `published` are not shown yet.
    put: u32,
    published: u32,
    messages: PhantomData<fn(Request) -> Response>,
}

impl<Memory, Request, Response> BackRing<Memory, Request, Response>
where
    Memory: RingMemory,
    Request: FromBytes + IntoBytes,
    Response: IntoBytes + Immutable,
{
    const SLOT_BYTES: usize = slot_bytes::<Request, Response>();

    /// Takes up the ring in `bytes` of memory where its last back-end has left it; the front-end has initialised it.
    ///
    /// # Errors
    /// Where the indices do not fit, the memory is too small, or an access fails.
    pub fn attach(memory: Memory, bytes: usize) -> Result<Self, RingError<Memory::Error>> {
        let slots = slots(bytes, Self::SLOT_BYTES);
        if slots == 0 {
            return Err(RingError::TooSmall);
        }
        let put = memory.load_u32(RSP_PROD)?;
        let ring = Self { memory, slots, taken: put, put, published: put, messages: PhantomData };
        ring.waiting()?;
        Ok(ring)
    }

    /// How many requests the ring can hold.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests that were taken and not answered.
    pub fn unanswered(&self) -> u32 {
        self.taken.wrapping_sub(self.put)
    }

    fn slot(&self, index: u32) -> usize {
        offset(index, self.slots, Self::SLOT_BYTES)
    }

    /// Requests that wait to be taken.
    ///
    /// # Errors
    /// [`RingError::Overrun`] where the front-end says there are more than there can be.
    pub fn waiting(&self) -> Result<u32, RingError<Memory::Error>> {
        let produced = self.memory.load_u32(REQ_PROD)?;
        // A request's slot is free again once its response was put, so what counts is the distance from there.
        let consumed = self.taken;
        match (ahead(produced, self.put, self.slots), ahead(produced, self.taken, self.slots)) {
            (Some(_), Some(waiting)) => Ok(waiting),
            _ => Err(RingError::Overrun { produced, consumed }),
        }
    }

    /// Takes the next request, of which the caller knows that it is there: it counts down what [`Self::waiting`] said.
    ///
    /// # Errors
    /// [`RingError::NoRoom`] where as many are unanswered as the ring has slots.
    pub fn take(&mut self) -> Result<Request, RingError<Memory::Error>> {
        if self.unanswered() >= self.slots {
            return Err(RingError::NoRoom);
        }
        let mut request = Request::new_zeroed();
        self.memory.read(self.slot(self.taken), request.as_mut_bytes())?;
        self.taken = self.taken.wrapping_add(1);
        Ok(request)
    }

    /// Puts a response, for the front-end to see at the next [`Self::publish`].
    ///
    /// # Errors
    /// [`RingError::NoRoom`] where no request is unanswered.
    pub fn put(&mut self, response: &Response) -> Result<(), RingError<Memory::Error>> {
        if self.unanswered() == 0 {
            return Err(RingError::NoRoom);
        }
        self.memory.write(self.slot(self.put), response.as_bytes())?;
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Shows the front-end what was put; true where it wants to be notified of that.
    ///
    /// # Errors
    /// Where an access fails.
    pub fn publish(&mut self) -> Result<bool, RingError<Memory::Error>> {
        let old = core::mem::replace(&mut self.published, self.put);
        if old == self.put {
            return Ok(false);
        }
        self.memory.store_u32(RSP_PROD, self.put)?;
        let event = self.memory.load_u32(RSP_EVENT)?;
        Ok(must_notify(old, self.put, event))
    }

    /// Asks to be notified of the next request. True where one waits already: then don't sleep.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub fn ask_for_notification(&mut self) -> Result<bool, RingError<Memory::Error>> {
        self.memory.store_u32(REQ_EVENT, self.taken.wrapping_add(1))?;
        Ok(self.waiting()? != 0)
    }
}
