//! What the guest says, on its way to the screen.

use super::domain_output::DomainOutput;
use hypervisor::domain::Console;
use std::io::{self, Write};

/// A guest's output: by its console's ring, whose thread waits for room, or by the emergency console, whose vCPU does.
#[derive(Clone, Debug)]
pub struct Output(pub DomainOutput);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.speak(bytes);
        Ok(bytes.len())
    }

    /// The guest pauses: a terminal shows what it has said, whether or not the line is whole.
    fn flush(&mut self) -> io::Result<()> {
        self.0.pause();
        Ok(())
    }
}

impl Console for Output {
    fn write(&self, bytes: &[u8]) -> usize {
        self.0.offer(bytes)
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }
}
