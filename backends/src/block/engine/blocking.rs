//! Calls made at once, one after the other: for every image and every host.

use super::{Call, Engine, Transfer};
use crate::block::image::Image;
use crate::host::Page;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Few: what was done is shown to the front-end before more is done.
pub(super) const BATCH: u32 = 4;

/// The engine that waits for each call.
pub(crate) struct Blocking {
    image: Arc<dyn Image>,
    finished: VecDeque<(u32, io::Result<usize>)>,
}

impl Blocking {
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, finished: VecDeque::new() }
    }
}

fn slices<P: Page>(transfer: &Transfer<P>) -> io::Result<Vec<VolatileSlice<'_>>> {
    transfer.buffer.slices(transfer.from).map_err(io::Error::other)
}

/// Makes a call, and waits for its end.
pub(super) fn make<P: Page>(image: &dyn Image, call: &Call<P>) -> io::Result<usize> {
    match call {
        Call::Read(transfer) => image.read(transfer.offset, &slices(transfer)?),
        Call::Write(transfer) => image.write(transfer.offset, &slices(transfer)?),
        Call::Flush => image.flush().map(|()| 0),
        Call::Discard { offset, length } => image.discard(*offset, *length).map(|()| 0),
    }
}

impl<P: Page> Engine<P> for Blocking {
    fn start(&mut self, token: u32, call: Call<P>) {
        let result = make(&*self.image, &call);
        self.finished.push_back((token, result));
    }

    fn batch(&self) -> u32 {
        BATCH
    }

    fn submit(&mut self) {}

    fn finished(&mut self) -> Option<(u32, io::Result<usize>)> {
        self.finished.pop_front()
    }

    fn wait(&mut self) {}

    fn prepare_to_sleep(&mut self) -> bool {
        !self.finished.is_empty()
    }
}
