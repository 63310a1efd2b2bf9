//! Calls made at once, one after the other: for every image and every host.

use super::{Call, Engine};
use crate::block::image::Image;
use crate::host::Page;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// The engine that waits for each call.
pub(crate) struct Blocking {
    image: Arc<dyn Image>,
    finished: VecDeque<(u32, io::Result<usize>)>,
}

impl Blocking {
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, finished: VecDeque::new() }
    }

    fn call<P: Page>(&self, call: Call<P>) -> io::Result<usize> {
        match call {
            Call::Read(transfer) => {
                let slices = transfer.buffer.slices(transfer.from).map_err(io::Error::other)?;
                self.image.read(transfer.offset, &slices)
            }
            Call::Write(transfer) => {
                let slices = transfer.buffer.slices(transfer.from).map_err(io::Error::other)?;
                self.image.write(transfer.offset, &slices)
            }
            Call::Flush => self.image.flush().map(|()| 0),
            Call::Discard { offset, length } => self.image.discard(offset, length).map(|()| 0),
        }
    }
}

impl<P: Page> Engine<P> for Blocking {
    fn start(&mut self, token: u32, call: Call<P>) {
        let result = self.call(call);
        self.finished.push_back((token, result));
    }

    /// Few: what was done is shown to the front-end before more is done.
    fn batch(&self) -> u32 {
        4
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
