//! A console being served.

use super::Input;
use super::ring::RingEnd;
use crate::Disconnect;
use crate::bell::Bell;
use crate::host::{Access, Host};
use crate::patience::Patience;
use pv_abi::{DomId, EventPort, GrantRef};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A sink is flushed once its front-end has written nothing for so long: what stands there without a newline is a
/// prompt, and not half a message.
const QUIET: Duration = Duration::from_millis(10);

/// Why a console is served no more.
#[derive(Debug)]
pub enum End {
    /// It was asked to stop, and all output that the front-end had left was written.
    Stopped,
    /// Its front-end cannot be served.
    Disconnected(Disconnect),
    /// Nobody takes the output any more.
    Sink(io::Error),
}

impl From<Disconnect> for End {
    fn from(reason: Disconnect) -> Self {
        Self::Disconnected(reason)
    }
}

/// The back-end of one domain's console.
pub struct Console<H: Host> {
    host: Arc<H>,
    ring: RingEnd<H::Page>,
    port: EventPort,
    input: Arc<Input>,
    output: Vec<u8>,
    /// The sink has something that was not flushed.
    unflushed: bool,
}

impl<H: Host> Console<H> {
    /// Connects to the ring and the port that a domain has for its console.
    ///
    /// # Errors
    /// What the domain does not have.
    pub fn connect(
        host: Arc<H>,
        domain: DomId,
        reference: GrantRef,
        port: EventPort,
        input: Arc<Input>,
    ) -> Result<Self, Disconnect> {
        let ring = RingEnd::new(host.map_grant(domain, reference, Access::ReadWrite)?)?;
        let port = host.bind_port(domain, port, Arc::clone(input.bell()))?;
        Ok(Self { host, ring, port, input, output: Vec::new(), unflushed: false })
    }

    /// Moves what there is to move, once; true where that was anything.
    ///
    /// # Errors
    /// Why the console cannot be served any more.
    pub fn serve(&mut self, sink: &mut dyn Write) -> Result<bool, End> {
        self.output.clear();
        let taken = self.ring.take_output(&mut self.output)?;
        let put = self.ring.put_input(|room| self.input.take(room))?;
        if taken == 0 && put == 0 {
            return Ok(false);
        }
        self.host.notify(self.port).map_err(Disconnect::from)?;
        if taken != 0 {
            sink.write_all(&self.output).map_err(End::Sink)?;
            self.unflushed = true;
        }
        Ok(true)
    }

    /// Serves the console until `stop` is set and the input's bell rung, or it cannot go on.
    pub fn run(mut self, sink: &mut dyn Write, stop: &AtomicBool) -> End {
        match self.serve_until(sink, stop) {
            Ok(()) => End::Stopped,
            Err(end) => end,
        }
    }

    fn serve_until(&mut self, sink: &mut dyn Write, stop: &AtomicBool) -> Result<(), End> {
        let bell: Arc<Bell> = Arc::clone(self.input.bell());
        let mut patience = Patience::default();
        loop {
            // Read before serving: what the front-end wrote before the stop is written after all.
            let stopping = stop.load(Ordering::SeqCst);
            if self.serve(sink)? {
                continue;
            }
            if stopping {
                return self.flush(sink);
            }
            if patience.poll(|| self.serve(sink))? {
                continue;
            }
            let asleep = Instant::now();
            self.sleep(&bell, sink)?;
            patience.slept(asleep.elapsed());
        }
    }

    /// Sleeps until there may be work, or the front-end was quiet long enough for a flush.
    fn sleep(&mut self, bell: &Bell, sink: &mut dyn Write) -> Result<(), End> {
        if !self.unflushed {
            bell.listen();
        } else if !bell.listen_for(QUIET) {
            self.flush(sink)?;
        }
        Ok(())
    }

    fn flush(&mut self, sink: &mut dyn Write) -> Result<(), End> {
        self.unflushed = false;
        sink.flush().map_err(End::Sink)
    }
}
