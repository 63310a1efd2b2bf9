//! What a domain says, and what is said of it: as it is where there is one domain, marked where there are several.
//!
//! `name| text` is the domain's own, on stdout; `name: text` is the hypervisor's about it, on stderr.

use super::escape::escape_lines;
use super::marked::MarkedLines;
use super::printer::{Hook, Paper, Printer, Stdout};
use super::screen::show;
use super::stderr;
use crate::cli::say;
use std::io::{self, BufWriter, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

/// How long the end of a domain is not told, so that its last words come before.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines of a console that are told again: those of a panic of Linux, from its reason to its last register.
const LAST_LINES: usize = 48;
/// How long an open line waits for a message on the same terminal.
const MESSAGE: Duration = Duration::from_secs(1);

/// What a domain says, and what is said of it. Clones are the same.
#[derive(Clone, Debug)]
pub struct DomainOutput {
    name: String,
    index: usize,
    is_one_of_several: bool,
    /// Messages share the screen with open lines.
    is_terminal: bool,
    printer: Arc<Printer>,
}

/// The colours of names, in turns: all that there are but black and white.
const COLOURS: [u8; 6] = [36, 35, 34, 33, 32, 31];

/// The output of each of these domains, and what writes all that they say. `failed` is called where that cannot be
/// written any more.
pub fn domain_outputs(
    names: &[String],
    failed: impl FnOnce(&io::Error) + Send + 'static,
) -> io::Result<(Vec<DomainOutput>, Arc<Printer>)> {
    let printer = Arc::new(Printer::new(names.len()));
    let is_terminal = io::stdout().is_terminal();
    let (printing, paper) = (Arc::clone(&printer), paper(names, is_terminal)?);
    std::thread::Builder::new().name("stdout".into()).spawn(move || printing.print(paper, failed))?;
    let is_one_of_several = names.len() > 1;
    let domain_output = |(index, name): (usize, &String)| DomainOutput {
        name: name.clone(),
        index,
        is_one_of_several,
        is_terminal,
        printer: Arc::clone(&printer),
    };
    Ok((names.iter().enumerate().map(domain_output).collect(), printer))
}

fn paper(names: &[String], is_terminal: bool) -> io::Result<Paper<BufWriter<Stdout>>> {
    // What is written at a time is flushed.
    let stdout = BufWriter::new(Stdout::new());
    if names.len() < 2 {
        return Ok(Paper::Plain(stdout));
    }
    let coloured = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let mark = |(name, colour): (&String, u8)| match coloured {
        true => format!("\x1b[{colour}m{name}|\x1b[0m "),
        false => format!("{name}| "),
    };
    let marks: Vec<_> = names.iter().zip(COLOURS.into_iter().cycle()).map(mark).collect();
    Ok(Paper::Marked(MarkedLines::new(stdout, is_terminal, marks)))
}

impl DomainOutput {
    /// Whether the run has several domains, so that each line is marked with a name.
    pub fn is_one_of_several(&self) -> bool {
        self.is_one_of_several
    }

    /// The domain begins a life. `first` is called before its first words, `room` when it has room for more words where
    /// it had none.
    pub fn begin(&self, first: Hook, room: Hook) {
        self.printer.begin(self.index, first, room);
    }

    /// The domain says something. Waits until there is room for it.
    pub fn speak(&self, bytes: &[u8]) {
        self.printer.say(self.index, bytes);
    }

    /// The domain says something. Returns how many bytes there was room for.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        self.printer.offer(self.index, bytes)
    }

    /// Whether there is room for more words.
    pub fn has_room(&self) -> bool {
        self.printer.has_room(self.index)
    }

    /// The domain waits for something.
    pub fn pause(&self) {
        self.printer.pause(self.index);
    }

    /// The domain has said its last, which is now heard, if somebody listens.
    pub fn end(&self) {
        self.printer.end(self.index);
        self.printer.wait_for(self.index, LAST_WORDS);
    }

    /// Writes to stderr, such that both can be read.
    fn show(&self, text: String) {
        match self.is_terminal && self.is_one_of_several {
            true => self.printer.interrupt(move || {
                show(&text);
                stderr::settle(MESSAGE);
            }),
            false => show(&text),
        }
    }

    /// Tells lines about the domain. What the domain itself has written into them does nothing to a terminal.
    pub fn tell(&self, text: &str) {
        let text = escape_lines(text);
        match self.is_one_of_several {
            false => show(&text),
            true => self.show(text.lines().map(|line| format!("{}: {line}\n", self.name)).collect()),
        }
    }

    /// Tells the last lines of the domain's console again, for whoever has not just seen them on a terminal.
    pub fn tell_last_lines(&self) {
        let lines = last_lines(&self.printer.last(self.index));
        if !self.is_terminal && !lines.is_empty() {
            let lines: String = lines.iter().map(|line| format!("  | {line}\n")).collect();
            self.tell(&format!("the last lines of its console:\n{lines}"));
        }
    }

    /// Tells that something is wrong with the domain.
    pub fn warn(&self, message: &str) {
        match self.is_one_of_several {
            false => say(&escape_lines(message)),
            true => self.tell(message),
        }
    }

    /// Tells that keys go to this domain, and shows what it waits with.
    pub fn attend(&self) {
        if self.is_one_of_several {
            self.show(format!("keys go to {}\n", self.name));
            self.printer.pause(self.index);
        }
    }
}

/// The last lines of a text that has just been said, without those that are empty.
fn last_lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let dropped = lines.len().saturating_sub(LAST_LINES);
    lines.into_iter().skip(dropped).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_that_say_something() {
        let text: String = (0..80).map(|number| format!("line {number}\r\n\r\n")).collect();
        let lines = last_lines(text.as_bytes());
        assert_eq!((lines.len(), lines[0].as_str(), lines[47].as_str()), (48, "line 32", "line 79"));
        assert_eq!(last_lines(b"\r\n a\xff \n"), [" a\u{fffd}"]);
        assert_eq!(last_lines(b""), [""; 0]);
    }
}
