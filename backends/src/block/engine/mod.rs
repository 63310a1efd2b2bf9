//! Who makes the calls on an image: at once and one after the other ([`blocking`]), or many at a time through io_uring
//! ([`uring`]).
//!
//! An engine makes each call once and reports what came of it: short transfers, interruptions and errors included. What
//! those mean is for whoever started the call. The memory of a call belongs to the engine until it has reported.

pub(crate) mod blocking;
pub(crate) mod uring;

use super::buffer::Buffer;
use super::image::Image;
use crate::bell::Bell;
use crate::host::Page;
use blocking::Blocking;
use std::io;
use std::sync::Arc;
use uring::Uring;

/// A call on an image, which an engine makes.
pub enum Call<P> {
    /// Bytes of the image into memory.
    Read(Transfer<P>),
    /// Bytes from memory into the image.
    Write(Transfer<P>),
    /// All that was written is to be durable.
    Flush,
    /// Bytes nobody needs any more.
    Discard {
        /// The first byte of the range.
        offset: u64,
        /// How many bytes the range has.
        length: u64,
    },
}

/// Where from and where to.
pub struct Transfer<P> {
    /// The pages that are read into or written from.
    pub buffer: Arc<Buffer<P>>,
    /// Where in the memory to begin.
    pub from: usize,
    /// Where in the image that is.
    pub offset: u64,
}

/// Makes calls on one image.
pub trait Engine<P: Page>: Send {
    /// Starts a call, which is reported under `token`. Of calls that are under way, each has a token of its own, below
    /// the depth that the engine was made for.
    fn start(&mut self, token: u32, call: Call<P>);

    /// How many calls should be started before [`Self::submit`].
    fn batch(&self) -> u32;

    /// Sees to it that all started calls are being made.
    fn submit(&mut self);

    /// A call that has ended: of a transfer, how many bytes were moved.
    fn finished(&mut self) -> Option<(u32, io::Result<usize>)>;

    /// Waits until a call has ended, if any is under way.
    fn wait(&mut self);

    /// From now on, until the next [`Self::submit`], the bell that the engine was made with is rung when a call ends.
    /// True where one has ended already.
    fn prepare_to_sleep(&mut self) -> bool;

    /// Why calls are made in another way than before, once: the host does not make them any more as the engine asks for.
    fn take_failure(&mut self) -> Option<io::Error> {
        None
    }
}

/// The best engine that there is for an image on this host: for `depth` calls at a time, which ring `bell`.
pub(super) fn best<P: Page>(image: Arc<dyn Image>, depth: u32, bell: &Bell) -> Box<dyn Engine<P>> {
    if uring::is_available()
        && image.as_raw().is_some_and(|raw| uring::suits(raw.file()))
        && let Ok(engine) = Uring::new(Arc::clone(&image), depth, bell)
    {
        return Box::new(engine);
    }
    Box::new(Blocking::new(image))
}
