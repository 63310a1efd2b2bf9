//! A request that is being done: which calls it takes, and what their results mean for it.

use super::buffer::Buffer;
use super::engine::{Call, Transfer};
use crate::host::Page;
use pv_abi::io::block::{Operation, SECTOR_BYTES};
use std::io::{self, ErrorKind};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    Flush,
    Discard,
}

/// How a request stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It may pass others and be passed.
    Free,
    /// It changes the disk: those of the other kinds wait for it.
    Write,
    /// It begins when no earlier write is under way.
    BehindWrites,
    /// The same, and nothing begins before it has ended.
    Alone,
}

/// A request with the calls that it still takes.
pub(super) struct Flight<P> {
    /// Its id, for the response.
    pub id: u64,
    /// Its operation, for the response.
    pub operation: Operation,
    /// How it stands to others.
    pub order: Order,
    steps: &'static [Step],
    buffer: Arc<Buffer<P>>,
    /// Where on the disk, in bytes.
    offset: u64,
    /// Bytes to be forgotten.
    length: u64,
    /// Bytes of the buffer that are moved.
    done: usize,
}

impl<P: Page> Flight<P> {
    /// Moves the buffer's bytes from or to `offset` on.
    pub fn read(id: u64, offset: u64, buffer: Buffer<P>) -> Self {
        Self::new(id, Operation::READ, Order::Free, &[Step::Read], offset, 0, buffer)
    }

    /// Moves the buffer's bytes to `offset` on.
    pub fn write(id: u64, offset: u64, buffer: Buffer<P>) -> Self {
        Self::new(id, Operation::WRITE, Order::Write, &[Step::Write], offset, 0, buffer)
    }

    /// A write that is durable, and all before it too, when it ends. One of nothing is a flush that nothing passes.
    pub fn barrier(id: u64, offset: u64, buffer: Buffer<P>) -> Self {
        let steps: &[Step] =
            if buffer.bytes() == 0 { &[Step::Flush] } else { &[Step::Flush, Step::Write, Step::Flush] };
        Self::new(id, Operation::WRITE_BARRIER, Order::Alone, steps, offset, 0, buffer)
    }

    pub fn flush(id: u64, nothing: Buffer<P>) -> Self {
        let order = Order::BehindWrites;
        Self::new(id, Operation::FLUSH_DISKCACHE, order, &[Step::Flush], 0, 0, nothing)
    }

    pub fn discard(id: u64, offset: u64, length: u64, nothing: Buffer<P>) -> Self {
        Self::new(id, Operation::DISCARD, Order::Write, &[Step::Discard], offset, length, nothing)
    }

    fn new(
        id: u64,
        operation: Operation,
        order: Order,
        steps: &'static [Step],
        offset: u64,
        length: u64,
        buffer: Buffer<P>,
    ) -> Self {
        Self { id, operation, order, steps, buffer: Arc::new(buffer), offset, length, done: 0 }
    }

    /// The call to be made now; none where the request is done.
    pub fn call(&self) -> Option<Call<P>> {
        let transfer = || Transfer {
            buffer: Arc::clone(&self.buffer),
            from: self.done,
            offset: self.offset.saturating_add(self.done as u64),
        };
        self.steps.first().map(|step| match step {
            Step::Read => Call::Read(transfer()),
            Step::Write => Call::Write(transfer()),
            Step::Flush => Call::Flush,
            Step::Discard => Call::Discard { offset: self.offset, length: self.length },
        })
    }

    /// What it is at, and where.
    pub fn describe(&self) -> (&'static str, String) {
        let at = self.offset.saturating_add(self.done as u64) / SECTOR_BYTES;
        let place = format!(" sector {at}");
        match self.steps.first() {
            Some(Step::Read) => ("reading", place),
            Some(Step::Write) => ("writing", place),
            Some(Step::Flush) => ("flushing", String::new()),
            Some(Step::Discard) => ("discarding", place),
            None => ("answering", String::new()),
        }
    }

    /// Bytes that the request moves.
    pub fn bytes(&self) -> u64 {
        self.buffer.bytes() as u64
    }

    /// Whether the call that it is at is a flush.
    pub fn is_flushing(&self) -> bool {
        self.steps.first() == Some(&Step::Flush)
    }

    /// Takes the result of the call: of a transfer, how many bytes were moved. A transfer that fell short goes on, one
    /// that was interrupted is made again.
    ///
    /// # Errors
    /// Why the request has failed.
    pub fn advance(&mut self, result: io::Result<usize>) -> io::Result<()> {
        // Also where it failed: nobody knows how much the host had read until then.
        if self.steps.first() == Some(&Step::Read) {
            self.buffer.written();
        }
        let moved = match result {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        };
        let Some((step, rest)) = self.steps.split_first() else { return Ok(()) };
        let transfers = matches!(step, Step::Read | Step::Write);
        if transfers && moved == 0 {
            let (kind, what) = match step {
                Step::Read => (ErrorKind::UnexpectedEof, "the image ends before the disk does"),
                _ => (ErrorKind::WriteZero, "the image takes no more"),
            };
            return Err(io::Error::new(kind, what));
        }
        if transfers {
            self.done = self.done.saturating_add(moved);
        }
        if !transfers || self.done >= self.buffer.bytes() {
            self.steps = rest;
        }
        Ok(())
    }
}
