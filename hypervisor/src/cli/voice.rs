//! What a domain says, and what is said of it: as it is where there is one domain, marked where there are several.
//!
//! `name| text` is the domain's own, on stdout; `name: text` is the hypervisor's about it, on stderr.

use super::marked::MarkedLines;
use super::say;
use super::screen::show;
use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A domain's voice. Clones are the same.
#[derive(Clone)]
pub struct Voice {
    name: String,
    index: usize,
    /// The others; none where there are none.
    company: Option<Arc<Company>>,
}

/// Several domains on one screen.
pub struct Company(Mutex<MarkedLines<Stdout>>);

impl Company {
    fn lines(&self) -> MutexGuard<'_, MarkedLines<Stdout>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to stderr, such that both can be read.
    fn show(&self, text: &str) {
        // Where stdout cannot be written, a console's thread will notice.
        let _ = self.lines().interrupted_by(|| show(text));
    }
}

/// The colours of names, in turns: all that there are but black and white.
const COLOURS: [u8; 6] = [36, 35, 34, 33, 32, 31];

/// A voice for each of these domains.
pub fn voices(names: &[String]) -> Vec<Voice> {
    let company = (names.len() > 1).then(|| {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let coloured = is_terminal && std::env::var_os("NO_COLOR").is_none();
        let mark = |(name, colour): (&String, u8)| match coloured {
            true => format!("\x1b[{colour}m{name}|\x1b[0m "),
            false => format!("{name}| "),
        };
        let marks: Vec<_> = names.iter().zip(COLOURS.into_iter().cycle()).map(mark).collect();
        Arc::new(Company(Mutex::new(MarkedLines::new(stdout, is_terminal, marks))))
    });
    let voice =
        |(index, name): (usize, &String)| Voice { name: name.clone(), index, company: company.clone() };
    names.iter().enumerate().map(voice).collect()
}

impl Voice {
    /// Whether it is marked.
    pub fn has_company(&self) -> bool {
        self.company.is_some()
    }

    /// The domain says something.
    pub fn speak(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(company) = &self.company {
            return company.lines().say(self.index, bytes);
        }
        // Unbuffered in effect: a guest's prompt has no newline.
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// The domain waits for something.
    pub fn pause(&self) -> io::Result<()> {
        self.company.as_ref().map_or(Ok(()), |company| company.lines().pause(self.index))
    }

    /// The domain has said its last.
    pub fn end(&self) {
        if let Some(company) = &self.company {
            // It is written or not: the domain is gone.
            let _ = company.lines().end(self.index);
        }
    }

    /// Tells lines about the domain.
    pub fn tell(&self, text: &str) {
        match &self.company {
            None => show(text),
            Some(company) => {
                let marked = |line| format!("{}: {line}\n", self.name);
                company.show(&text.lines().map(marked).collect::<String>());
            }
        }
    }

    /// Tells that something is wrong with the domain.
    pub fn warn(&self, message: &str) {
        match &self.company {
            None => say(message),
            Some(_) => self.tell(message),
        }
    }

    /// Tells that keys go to this domain, and shows what it waits with.
    pub fn attend(&self) {
        if let Some(company) = &self.company {
            company.show(&format!("keys go to {}\n", self.name));
            let _ = company.lines().pause(self.index);
        }
    }
}
