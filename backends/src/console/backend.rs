//! A console being served.

use super::Input;
use super::ring::RingEnd;
use crate::Disconnect;
use crate::bell::Bell;
use crate::driver::{Device, Sleep};
use crate::host::{Access, Host};
use crate::port::Port;
use pv_abi::{DomId, EventPort, GrantRef};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sink is flushed once its front-end has written nothing for so long: what stands there without a newline is a
/// prompt, and not half a message.
const QUIET: Duration = Duration::from_millis(10);

/// The back-end of one domain's console. What the domain writes goes to `W`.
pub struct Console<H: Host, W> {
    ring: RingEnd<H::Page>,
    port: Port<H>,
    input: Arc<Input>,
    sink: W,
    output: Vec<u8>,
    /// When the sink was last given something, where it was not flushed since.
    unflushed: Option<Instant>,
}

impl<H: Host, W: Write> Console<H, W> {
    /// Connects to the ring and the port that a domain has for its console.
    ///
    /// # Errors
    /// What the domain does not have.
    pub fn connect(
        host: &Arc<H>,
        domain: DomId,
        reference: GrantRef,
        port: EventPort,
        input: Arc<Input>,
        sink: W,
    ) -> Result<Self, Disconnect> {
        let ring = RingEnd::new(host.map_grant(domain, reference, Access::ReadWrite)?)?;
        let port = Port::bind(host, domain, port, Arc::clone(input.bell()))?;
        Ok(Self { ring, port, input, sink, output: Vec::new(), unflushed: None })
    }

    /// What wakes whoever serves it.
    pub fn bell(&self) -> &Arc<Bell> {
        self.input.bell()
    }

    fn flush(&mut self) -> Result<(), Disconnect> {
        self.unflushed = None;
        self.sink.flush().map_err(Disconnect::Output)
    }
}

impl<H: Host, W: Write + Send> Device for Console<H, W> {
    /// Moves what there is to move, once.
    fn serve(&mut self) -> Result<bool, Disconnect> {
        self.output.clear();
        let taken = self.ring.take_output(&mut self.output)?;
        let put = self.ring.put_input(|room| self.input.take(room))?;
        if taken == 0 && put == 0 {
            return Ok(false);
        }
        self.port.notify()?;
        if taken != 0 {
            self.sink.write_all(&self.output).map_err(Disconnect::Output)?;
            self.unflushed = Some(Instant::now());
        }
        Ok(true)
    }

    fn prepare_to_sleep(&mut self) -> Result<Sleep, Disconnect> {
        let Some(written) = self.unflushed else { return Ok(Sleep::UntilRung) };
        match QUIET.checked_sub(written.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => Ok(Sleep::AtMost(left)),
            None => self.flush().map(|()| Sleep::UntilRung),
        }
    }

    /// What the front-end has written before is written out.
    fn quiesce(&mut self) -> Result<(), Disconnect> {
        self.serve()?;
        self.flush()
    }
}
