//! What the guest says, on its way to the screen.

use super::voice::Voice;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Once};

/// A guest's output. Clones are the same.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    voice: Voice,
    first: Once,
    at_first_words: Box<dyn Fn() + Send + Sync>,
}

impl Output {
    /// Output whose first words are preceded by `at_first_words`.
    pub fn new(voice: Voice, at_first_words: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { voice, first: Once::new(), at_first_words: Box::new(at_first_words) }))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.first.call_once(|| (self.0.at_first_words)());
        self.0.voice.speak(bytes)?;
        Ok(bytes.len())
    }

    /// The guest pauses.
    fn flush(&mut self) -> io::Result<()> {
        self.0.voice.pause()
    }
}
