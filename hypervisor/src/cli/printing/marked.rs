//! Several domains on one screen: each line is marked with the name of the domain that it is of.
//!
//! A line is written once it is whole, so that lines of several domains never mix. On a terminal, one that is not whole
//! (a prompt) is shown once its domain pauses, and stays *open*: what its domain adds is shown at once. Where another
//! line comes in between, the open line is wiped out and drawn again below. Elsewhere nothing can be wiped out, so lines
//! are written when they are whole only: each stands there once.

use std::io::{self, Write};

/// A longer line is broken: no domain makes the hypervisor keep more for it.
const LONGEST: usize = 4096;

/// Goes to the start of the line and wipes it out.
const WIPE: &[u8] = b"\r\x1b[K";

/// What is kept of a domain.
#[derive(Debug)]
struct Speaker {
    mark: String,
    /// What it said since its last whole line.
    rest: Vec<u8>,
    /// How much of that is on the screen, if its line is the open one.
    shown: usize,
    /// It said a carriage return, and nothing since.
    returned: bool,
}

/// The lines of several domains, written to `out`.
#[derive(Debug)]
pub struct MarkedLines<W> {
    out: W,
    is_terminal: bool,
    speakers: Vec<Speaker>,
    /// The index of the domain whose line is open; none where no line is.
    open: Option<usize>,
}

impl<W: Write> MarkedLines<W> {
    /// For domains that are marked so.
    pub fn new(out: W, is_terminal: bool, marks: impl IntoIterator<Item = String>) -> Self {
        let speaker = |mark| Speaker { mark, rest: Vec::new(), shown: 0, returned: false };
        Self { out, is_terminal, speakers: marks.into_iter().map(speaker).collect(), open: None }
    }

    /// A domain says something.
    pub fn say(&mut self, who: usize, bytes: &[u8]) -> io::Result<()> {
        let Some(speaker) = self.speakers.get_mut(who) else { return Ok(()) };
        let lines = speaker.hear(bytes);
        if !lines.is_empty() {
            self.lines(who, &lines)?;
        }
        if self.open == Some(who) {
            self.show(who)?;
        }
        self.out.flush()
    }

    /// A domain pauses: a terminal shows what it said last, whole or not.
    pub fn pause(&mut self, who: usize) -> io::Result<()> {
        if !self.is_terminal
            || self.open == Some(who)
            || self.speakers.get(who).is_none_or(|speaker| speaker.rest.is_empty())
        {
            return Ok(());
        }
        if self.close().is_some() {
            self.out.write_all(b"\n")?;
        }
        self.open = Some(who);
        self.show(who)?;
        self.out.flush()
    }

    /// A domain says no more: its last line is whole as it is.
    pub fn end(&mut self, who: usize) -> io::Result<()> {
        match self.speakers.get(who) {
            Some(speaker) if !speaker.rest.is_empty() => self.say(who, b"\n"),
            _ => Ok(()),
        }
    }

    /// Lets somebody else write to the same terminal.
    pub fn interrupted_by(&mut self, write: impl FnOnce()) -> io::Result<()> {
        let open = self.make_way()?;
        self.out.flush()?;
        write();
        self.draw_again(open)?;
        self.out.flush()
    }

    /// Writes whole lines of `who`.
    fn lines(&mut self, who: usize, lines: &[Vec<u8>]) -> io::Result<()> {
        let Some(speaker) = self.speakers.get(who) else { return Ok(()) };
        let (mark, shown) = (speaker.mark.clone(), speaker.shown);
        let mut lines = lines.iter();
        let mut wiped = None;
        if self.open == Some(who) {
            // Its mark is there, and the beginning of its first line.
            let first = lines.next().map_or(&[][..], |line| line);
            self.out.write_all(first.get(shown..).unwrap_or_default())?;
            self.close();
        } else {
            wiped = self.make_way()?;
        }
        for line in lines {
            self.out.write_all(mark.as_bytes())?;
            self.out.write_all(line)?;
        }
        self.draw_again(wiped)
    }

    /// Shows what is not shown yet of the open line.
    fn show(&mut self, who: usize) -> io::Result<()> {
        let Some(speaker) = self.speakers.get_mut(who) else { return Ok(()) };
        let new = speaker.rest.get(speaker.shown..).unwrap_or_default();
        if speaker.shown == 0 && !new.is_empty() {
            self.out.write_all(speaker.mark.as_bytes())?;
        }
        self.out.write_all(new)?;
        speaker.shown = speaker.rest.len();
        Ok(())
    }

    /// No line is open any more; whose it was.
    fn close(&mut self) -> Option<usize> {
        let who = self.open.take()?;
        if let Some(speaker) = self.speakers.get_mut(who) {
            speaker.shown = 0;
        }
        Some(who)
    }

    /// Wipes out the open line; whose it was.
    fn make_way(&mut self) -> io::Result<Option<usize>> {
        let open = self.close();
        if open.is_some() {
            self.out.write_all(WIPE)?;
        }
        Ok(open)
    }

    /// Shows a line again that was wiped out.
    fn draw_again(&mut self, who: Option<usize>) -> io::Result<()> {
        match who {
            Some(who) => {
                self.open = Some(who);
                self.show(who)
            }
            None => Ok(()),
        }
    }
}

impl Speaker {
    /// Takes bytes in, and returns the lines that they make whole, each with its newline. A carriage return ends a
    /// line as well, with or without one: what followed it would overwrite the mark.
    fn hear(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for &byte in bytes {
            let returned = std::mem::replace(&mut self.returned, byte == b'\r');
            if returned && byte != b'\r' || byte == b'\n' || self.rest.len() >= LONGEST {
                let mut line = std::mem::take(&mut self.rest);
                line.push(b'\n');
                lines.push(line);
            }
            if !matches!(byte, b'\r' | b'\n') {
                self.rest.push(byte);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(is_terminal: bool) -> MarkedLines<Vec<u8>> {
        MarkedLines::new(Vec::new(), is_terminal, ["a| ".to_owned(), "b| ".to_owned()])
    }

    /// `a` and `b` say these, one after the other; a lone `.` is a pause.
    fn written(is_terminal: bool, said: &[(usize, &str)]) -> String {
        let mut lines = lines(is_terminal);
        for &(who, text) in said {
            let done = if text == "." { lines.pause(who) } else { lines.say(who, text.as_bytes()) };
            done.expect("a vector takes everything");
        }
        String::from_utf8(lines.out).expect("text")
    }

    #[test]
    fn lines_are_written_once_they_are_whole() {
        let said = [(0, "on"), (1, "two\n"), (0, "e\nand "), (1, "more\r\n"), (0, "on\n")];
        assert_eq!(written(false, &said), "b| two\na| one\nb| more\na| and on\n");
        assert_eq!(written(true, &said), written(false, &said));
    }

    #[test]
    fn a_prompt_is_shown_at_a_pause_and_goes_on_from_there() {
        let said = [(0, "$ "), (0, "."), (0, "ls"), (0, "."), (0, "\nfile\n$ "), (0, ".")];
        assert_eq!(written(true, &said), "a| $ ls\na| file\na| $ ");
        assert_eq!(written(false, &said), "a| $ ls\na| file\n");
    }

    #[test]
    fn a_line_that_interrupts_a_prompt_leaves_it_readable() {
        let said = [(0, "$ l"), (0, "."), (1, "tick\n"), (0, "s\n")];
        assert_eq!(written(false, &said), "b| tick\na| $ ls\n");
        assert_eq!(written(true, &said), "a| $ l\r\x1b[Kb| tick\na| $ ls\n");
    }

    #[test]
    fn two_prompts_stand_on_two_lines() {
        let said = [(0, "$ "), (0, "."), (1, "# "), (1, "."), (0, "x")];
        assert_eq!(written(true, &said), "a| $ \nb| # ");
        let more = [&said[..], &[(0, ".")]].concat();
        assert_eq!(written(true, &more), "a| $ \nb| # \na| $ x");
    }

    /// Whatever is said in how many pieces, and whoever interrupts and pauses.
    #[test]
    fn elsewhere_each_line_stands_once() {
        const DOMAINS: usize = 60;
        let marks = (0..DOMAINS).map(|who| format!("d{who}| "));
        let mut lines = MarkedLines::new(Vec::new(), false, marks);
        for piece in ["one ", "two", "\nthree", " four\n"] {
            for who in 0..DOMAINS {
                lines.say(who, piece.as_bytes()).and_then(|()| lines.pause(who)).expect("written");
                lines.interrupted_by(|| ()).expect("written");
            }
        }
        let mut written: Vec<_> = std::str::from_utf8(&lines.out).expect("text").lines().collect();
        written.sort_unstable();
        let both = |who| [format!("d{who}| one two"), format!("d{who}| three four")];
        let mut expected: Vec<_> = (0..DOMAINS).flat_map(both).collect();
        expected.sort_unstable();
        assert_eq!(written, expected);
    }

    #[test]
    fn a_carriage_return_cannot_overwrite_a_mark() {
        assert_eq!(written(true, &[(0, "10 %\r"), (0, "20 %\r\r"), (0, "\n")]), "a| 10 %\na| 20 %\n");
    }

    #[test]
    fn a_line_without_an_end_is_broken() {
        let mut lines = lines(false);
        for _ in 0..3 {
            lines.say(0, &[b'x'; LONGEST]).expect("a vector takes everything");
        }
        assert_eq!(lines.out.iter().filter(|&&byte| byte == b'\n').count(), 2);
        assert!(lines.speakers[0].rest.len() <= LONGEST);
    }

    #[test]
    fn the_last_words_are_a_line() {
        let mut lines = lines(false);
        lines.say(0, b"bye").and_then(|()| lines.end(0)).and_then(|()| lines.end(1)).expect("written");
        assert_eq!(lines.out, b"a| bye\n");
    }

    #[test]
    fn messages_interrupt_a_terminal_only() {
        for (is_terminal, expected) in [(true, "a| $ \r\x1b[Ka| $ "), (false, "")] {
            let mut lines = lines(is_terminal);
            lines.say(0, b"$ ").and_then(|()| lines.pause(0)).expect("written");
            let mut told = false;
            lines.interrupted_by(|| told = true).expect("written");
            assert!(told);
            assert_eq!(lines.out, expected.as_bytes());
        }
    }
}
