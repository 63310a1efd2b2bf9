//! A line that is edited on a terminal: keys in, what is to be sent to the screen out.
//!
//! The cursor is moved by writing the line again up to it, so nothing depends on how wide a terminal shows a character. It
//! stays within one row: of a longer line, what is around the cursor is shown.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// Characters that a line has at most. Further ones ring the bell.
pub const LIMIT: usize = 1024;
/// Columns that are used: those of any terminal, and room for a ^C.
const COLUMNS: usize = 77;
/// Lines that are remembered.
const REMEMBERED: usize = 100;

const BELL: char = '\x07';
const TO_END_OF_ROW: &str = "\x1b[K";
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

const BACKSPACE: u8 = 0x08;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// The byte of a letter that is typed with the control key.
const fn control(letter: u8) -> u8 {
    letter & 0x1f
}

/// What the user has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// A line, ended by a carriage return or a line feed, which it does not contain.
    Line(String),
    /// The end of all input: Ctrl-D on an empty line.
    End,
}

/// The words that can stand where the last one of this text is, each whole.
pub type Complete<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// Where in a key's sequence of bytes the input is.
#[derive(Clone, Copy)]
enum Sequence {
    None,
    /// After the byte 0x1b (ESC).
    Escape,
    /// After an escape and `O`, or `[`, with the number that follows the latter.
    Function(u16),
}

/// The line, the cursor, and what was entered before.
pub struct Editor {
    prompt: &'static str,
    line: Vec<char>,
    cursor: usize,
    sequence: Sequence,
    /// The bytes of a character of which more must come.
    partial: Vec<u8>,
    /// Whether the last byte was a carriage return: a line feed behind it is no line of its own.
    returned: bool,
    history: Vec<Vec<char>>,
    /// Which line of the history is shown; its length is the new one.
    shown: usize,
    /// The new line, while an older one is shown.
    new: Vec<char>,
    screen: String,
}

impl Editor {
    /// An empty line, behind a prompt.
    pub fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            line: Vec::new(),
            cursor: 0,
            sequence: Sequence::None,
            partial: Vec::new(),
            returned: false,
            history: Vec::new(),
            shown: 0,
            new: Vec::new(),
            screen: String::new(),
        }
    }

    /// Begins a new, empty line: the prompt goes to the screen.
    pub fn begin(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.new.clear();
        self.shown = self.history.len();
        self.screen.push_str(self.prompt);
    }

    /// What is to be sent to the screen.
    pub fn take_screen(&mut self) -> String {
        core::mem::take(&mut self.screen)
    }

    /// Takes a byte that was typed.
    pub fn type_byte(&mut self, byte: u8, complete: Complete) -> Option<Entered> {
        let follows_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match self.sequence {
            Sequence::None => {}
            Sequence::Escape => {
                let is_function = matches!(byte, b'[' | b'O');
                self.sequence = if is_function { Sequence::Function(0) } else { Sequence::None };
                return None;
            }
            Sequence::Function(number) => {
                self.function_key(number, byte);
                return None;
            }
        }
        match byte {
            b'\n' if follows_return => {}
            b'\r' | b'\n' => return Some(self.enter()),
            _ if byte == control(b'D') && self.line.is_empty() => {
                self.screen.push('\n');
                return Some(Entered::End);
            }
            b'\t' => self.complete(complete),
            0..b' ' | DELETE => self.control_key(byte),
            _ => self.character(byte),
        }
        None
    }

    fn enter(&mut self) -> Entered {
        self.move_to(self.line.len());
        self.screen.push('\n');
        let line = core::mem::take(&mut self.line);
        self.cursor = 0;
        let text = line.iter().collect();
        if !line.is_empty() && self.history.last() != Some(&line) {
            self.history.push(line);
            let surplus = self.history.len().saturating_sub(REMEMBERED);
            self.history.drain(..surplus);
        }
        Entered::Line(text)
    }

    fn control_key(&mut self, byte: u8) {
        self.partial.clear();
        match byte | 0x60 {
            _ if byte == ESCAPE => self.sequence = Sequence::Escape,
            _ if byte == BACKSPACE || byte == DELETE => {
                self.erase(self.cursor.saturating_sub(1)..self.cursor)
            }
            b'a' => self.move_to(0),
            b'b' => self.move_to(self.cursor.saturating_sub(1)),
            b'c' => {
                self.screen.push_str("^C\n");
                self.begin();
            }
            b'd' => self.erase(self.cursor..self.cursor + 1),
            b'e' => self.move_to(self.line.len()),
            b'f' => self.move_to(self.cursor + 1),
            b'k' => self.erase(self.cursor..self.line.len()),
            b'l' => {
                self.screen.push_str(CLEAR_SCREEN);
                self.draw();
            }
            b'n' => self.recall(self.shown + 1),
            b'p' => self.recall(self.shown.wrapping_sub(1)),
            b'u' => self.erase(0..self.cursor),
            b'w' => self.erase(self.word_start()..self.cursor),
            _ => {}
        }
    }

    /// A byte of a function key's sequence: part of a number, or the end, which says with it what key that was.
    fn function_key(&mut self, number: u16, byte: u8) {
        if let b'0'..=b'9' = byte {
            let number = number.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
            self.sequence = Sequence::Function(number);
            return;
        }
        // Up to the last byte there are others, of which nothing is to be known.
        if !matches!(byte, b'@'..=b'~') {
            if byte < b' ' {
                self.sequence = if byte == ESCAPE { Sequence::Escape } else { Sequence::None };
            }
            return;
        }
        self.sequence = Sequence::None;
        match (byte, number) {
            (b'A', _) => self.recall(self.shown.wrapping_sub(1)),
            (b'B', _) => self.recall(self.shown + 1),
            (b'C', _) => self.move_to(self.cursor + 1),
            (b'D', _) => self.move_to(self.cursor.saturating_sub(1)),
            (b'H', _) | (b'~', 1 | 7) => self.move_to(0),
            (b'F', _) | (b'~', 4 | 8) => self.move_to(self.line.len()),
            (b'~', 3) => self.erase(self.cursor..self.cursor + 1),
            _ => {}
        }
    }

    /// A byte of a character. What is no UTF-8 is dropped.
    fn character(&mut self, byte: u8) {
        self.partial.push(byte);
        match core::str::from_utf8(&self.partial) {
            Ok(text) => {
                let character = text.chars().next();
                self.partial.clear();
                character.filter(|it| !it.is_control()).into_iter().for_each(|it| self.insert(&[it]));
            }
            Err(error) if error.error_len().is_some() => {
                // The byte may begin another character.
                let was_first = self.partial.len() == 1;
                self.partial.clear();
                if !was_first {
                    self.character(byte);
                }
            }
            Err(_) => {}
        }
    }

    fn insert(&mut self, text: &[char]) {
        if self.line.len() + text.len() > LIMIT {
            self.screen.push(BELL);
            return;
        }
        let at_end = self.cursor == self.line.len();
        self.line.splice(self.cursor..self.cursor, text.iter().copied());
        self.cursor += text.len();
        if at_end && self.window() == (0..self.line.len()) {
            self.screen.extend(text);
        } else {
            self.draw();
        }
    }

    fn erase(&mut self, range: Range<usize>) {
        let range = range.start..range.end.min(self.line.len());
        if range.is_empty() {
            return;
        }
        self.cursor = range.start;
        self.line.drain(range);
        self.draw();
    }

    fn move_to(&mut self, place: usize) {
        let place = place.min(self.line.len());
        if place != self.cursor {
            self.cursor = place;
            self.draw();
        }
    }

    /// Shows a line of the history, or the new one behind it.
    fn recall(&mut self, index: usize) {
        if index > self.history.len() {
            return;
        }
        if self.shown == self.history.len() {
            self.new = self.line.clone();
        }
        self.shown = index;
        self.line = self.history.get(index).unwrap_or(&self.new).clone();
        self.cursor = self.line.len();
        self.draw();
    }

    /// Where the word before the cursor begins, spaces behind it included.
    fn word_start(&self) -> usize {
        let is_space = |index: &usize| self.line[index - 1] == ' ';
        let end = (1..=self.cursor).rev().find(|index| !is_space(index)).unwrap_or(0);
        (1..=end).rev().find(is_space).unwrap_or(0)
    }

    /// Completes the word before the cursor as far as there is one way to do so; otherwise lists the ways.
    fn complete(&mut self, complete: Complete) {
        let text: String = self.line[..self.cursor].iter().collect();
        let before = &self.line[..self.cursor];
        let start = before.iter().rposition(|it| matches!(it, ' ' | ';')).map_or(0, |place| place + 1);
        let typed = self.cursor - start;
        let words: Vec<Vec<char>> = complete(&text).iter().map(|word| word.chars().collect()).collect();
        let Some(first) = words.first() else { return self.screen.push(BELL) };
        let same = |word: &Vec<char>| first.iter().zip(word).take_while(|(a, b)| a == b).count();
        let common = words.iter().map(same).min().unwrap_or(0).max(typed);
        let mut more = first.get(typed..common).unwrap_or_default().to_vec();
        match words.len() {
            1 if first.last() != Some(&'/') => more.push(' '),
            1 => {}
            _ if more.is_empty() => self.list(&words),
            _ => {}
        }
        if !more.is_empty() {
            self.insert(&more);
        }
    }

    fn list(&mut self, words: &[Vec<char>]) {
        self.screen.push('\n');
        for word in words {
            self.screen.extend(word);
            self.screen.push_str("  ");
        }
        self.screen.push('\n');
        self.draw();
    }

    /// Which characters are shown: all, or as many as there is room for up to the cursor and behind.
    fn window(&self) -> Range<usize> {
        // What may be shown in two columns counts as two.
        let columns = |character: &char| if *character < '\u{1100}' { 1 } else { 2 };
        let room = COLUMNS - self.prompt.len();
        let fits = |characters: &mut dyn Iterator<Item = &char>| {
            let mut used = 0;
            characters.take_while(|character| (used += columns(character), used <= room).1).count()
        };
        let start = self.cursor - fits(&mut self.line[..self.cursor].iter().rev());
        start..start + fits(&mut self.line[start..].iter())
    }

    fn draw(&mut self) {
        let window = self.window();
        for end in [window.end, self.cursor] {
            self.screen.push('\r');
            self.screen.push_str(self.prompt);
            self.screen.extend(&self.line[window.start..end]);
            if end == window.end {
                self.screen.push_str(TO_END_OF_ROW);
            }
            if self.cursor == window.end {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "> ";

    /// A terminal of one row that matters: the last. Everything above is kept as text.
    #[derive(Default)]
    struct Screen {
        above: String,
        row: Vec<char>,
        column: usize,
        bells: u32,
    }

    impl Screen {
        fn columns(character: char) -> usize {
            match character {
                '\u{300}'..'\u{370}' => 0,
                '\u{1100}'.. => 2,
                _ => 1,
            }
        }

        /// The second column of a wide character holds '\0'; a combining one is not kept.
        fn show(&mut self, text: &str) {
            let mut characters = text.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\r' => self.column = 0,
                    '\n' => {
                        self.above += &(self.text() + "\n");
                        (self.row, self.column) = (Vec::new(), 0);
                    }
                    BELL => self.bells += 1,
                    '\x1b' => {
                        assert_eq!(characters.next(), Some('['));
                        match characters.next() {
                            Some('K') => self.row.truncate(self.column),
                            Some('H') => self.column = 0,
                            Some('2') => {
                                assert_eq!(characters.next(), Some('J'));
                                (self.above, self.row) = Default::default();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    _ => {
                        for place in 0..Self::columns(character) {
                            let shown = if place == 0 { character } else { '\0' };
                            self.row.resize(self.row.len().max(self.column + 1), ' ');
                            self.row[self.column] = shown;
                            self.column += 1;
                        }
                        assert!(self.column <= 80, "it leaves the row");
                    }
                }
            }
        }

        fn text(&self) -> String {
            self.row.iter().filter(|it| **it != '\0').collect()
        }
    }

    struct Session {
        editor: Editor,
        screen: Screen,
        entered: Vec<Entered>,
    }

    fn words(_: &str) -> Vec<String> {
        ["sync", "sleep", "spawn"].map(String::from).into()
    }

    impl Session {
        fn new() -> Self {
            let mut session =
                Self { editor: Editor::new(PROMPT), screen: Screen::default(), entered: Vec::new() };
            session.editor.begin();
            session
        }

        fn keys_completed(&mut self, bytes: impl AsRef<[u8]>, complete: Complete) -> &mut Self {
            for byte in bytes.as_ref() {
                if let Some(entered) = self.editor.type_byte(*byte, complete) {
                    self.entered.push(entered);
                    self.editor.begin();
                }
            }
            let screen = self.editor.take_screen();
            self.screen.show(&screen);
            self
        }

        fn keys(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
            self.keys_completed(bytes, &|_| Vec::new())
        }

        /// The row without the prompt, and the column of the cursor behind it.
        #[track_caller]
        fn shows(&mut self, text: &str, column: usize) -> &mut Self {
            let row = self.screen.text();
            assert_eq!((row.strip_prefix(PROMPT), self.screen.column), (Some(text), column + PROMPT.len()));
            self
        }

        #[track_caller]
        fn entered(&mut self, lines: &[&str]) -> &mut Self {
            let lines: Vec<_> = lines.iter().map(|line| Entered::Line((*line).into())).collect();
            assert_eq!(self.entered, lines);
            self.entered.clear();
            self
        }
    }

    const LEFT: &str = "\x1b[D";
    const RIGHT: &str = "\x1b[C";
    const UP: &str = "\x1b[A";
    const DOWN: &str = "\x1b[B";

    #[test]
    fn what_is_typed_is_shown_and_entered() {
        Session::new().keys("version").shows("version", 7).keys("\r").shows("", 0).entered(&["version"]);
        // As pastes from elsewhere end lines.
        Session::new().keys("a\r\nb\nc\r\r").entered(&["a", "b", "c", ""]);
    }

    #[test]
    fn the_line_is_edited_at_the_cursor() {
        let mut session = Session::new();
        session.keys("vrsion").keys(LEFT.repeat(5)).shows("vrsion", 1).keys("e").shows("version", 2);
        session.keys("\x1b[H").shows("version", 0).keys("x").shows("xversion", 1);
        session.keys("\x08").shows("version", 0).keys("\x08").shows("version", 0);
        session.keys("\x1b[3~").shows("ersion", 0).keys("\x04").shows("rsion", 0);
        session.keys("\x05").shows("rsion", 5).keys("\x04\x1b[3~").shows("rsion", 5);
        session.keys(RIGHT).shows("rsion", 5).keys("\x02\x02").shows("rsion", 3);
        session.keys("\x0b").shows("rsi", 3).keys("\x06\x01\x06").shows("rsi", 1);
        session.keys("\x15").shows("si", 0).keys("\x1b[F\x7f").shows("s", 1).keys("\r").entered(&["s"]);
    }

    #[test]
    fn keys_are_known_in_each_form() {
        for (home, end) in [
            ("\x1b[H", "\x1b[F"),
            ("\x1b[1~", "\x1b[4~"),
            ("\x1b[7~", "\x1b[8~"),
            ("\x1bOH", "\x1bOF"),
            ("\x01", "\x05"),
        ] {
            Session::new().keys("abc").keys(home).shows("abc", 0).keys(end).shows("abc", 3);
        }
        Session::new().keys("abc\x1bOD\x1bOD").shows("abc", 1).keys("\x1bOC").shows("abc", 2);
        // With a modifier, and keys that mean nothing.
        Session::new()
            .keys("abc\x1b[1;5D")
            .shows("abc", 2)
            .keys("\x1b[15~\x1b[Z\x1bx\x1b[?1;2c")
            .shows("abc", 2);
        Session::new().keys("\x1b[\x1b[99999999999~ab").shows("ab", 2);
    }

    #[test]
    fn words_are_erased() {
        let mut session = Session::new();
        session.keys("dd read  xvda  \x17").shows("dd read  ", 9).keys("\x17").shows("dd ", 3);
        session.keys("\x17\x17").shows("", 0);
        session.keys("dd read xvda").keys(LEFT.repeat(2)).keys("\x17").shows("dd read da", 8);
    }

    #[test]
    fn characters_are_edited_whole() {
        let mut session = Session::new();
        session.keys("é漢🙂").shows("é漢🙂", 5).keys(LEFT).shows("é漢🙂", 3).keys("\x7f").shows("é🙂", 1);
        session.keys("ß").shows("éß🙂", 2).keys("\x1b[3~").shows("éß", 2).keys("\r").entered(&["éß"]);
        // A character whose bytes come one by one, as keys do.
        let mut session = Session::new();
        "grüße".bytes().for_each(|byte| {
            session.keys([byte]);
        });
        session.shows("grüße", 5);
    }

    #[test]
    fn what_is_no_utf_8_is_dropped() {
        Session::new().keys(b"a\xff\xfeb").shows("ab", 2);
        Session::new().keys(b"a\xc3b\xe6\xbc").shows("ab", 2).keys("c").shows("abc", 3);
        Session::new().keys(b"\xe6\xbc\xc3\xa9").shows("é", 1);
        // A C1 control character, which a terminal might obey.
        Session::new().keys("a\u{9b}b\u{85}").shows("ab", 2);
        Session::new().keys(b"\xc3\x08\xa9x").shows("x", 1);
    }

    #[test]
    fn lines_are_remembered() {
        let mut session = Session::new();
        session.keys(UP).shows("", 0).keys("one\rtwo\r\rtwo\rthree\r").keys("ne").keys(UP).shows("three", 5);
        session.keys(UP).shows("two", 3).keys(UP).shows("one", 3).keys(UP).shows("one", 3);
        session.keys(DOWN).shows("two", 3).keys(DOWN).shows("three", 5).keys(DOWN).shows("ne", 2);
        session.keys(DOWN).shows("ne", 2).keys("w\x10\x10\x10").shows("one", 3).keys(" more\r");
        session.entered.drain(..5);
        session.entered(&["one more"]);
        session.keys(UP).shows("one more", 8).keys("\x0e").shows("", 0);
        // What was changed and not entered is not remembered.
        session.keys(UP).keys("!").keys(UP).keys(DOWN).shows("one more", 8);
    }

    #[test]
    fn so_many_lines_are_remembered() {
        let mut session = Session::new();
        (0..REMEMBERED + 50).for_each(|number| {
            session.keys(format!("{number}\r"));
        });
        session.keys(UP.repeat(REMEMBERED + 50)).shows("50", 2);
    }

    #[test]
    fn words_are_completed() {
        let mut session = Session::new();
        session.keys_completed("x; s\t", &words).shows("x; s", 4);
        assert!(session.screen.above.ends_with("x; s\nsync  sleep  spawn  \n"), "{}", session.screen.above);
        let one = |text: &str| {
            assert_eq!(text, "x; sp");
            vec![String::from("spawn")]
        };
        session.keys_completed("p\t", &one).shows("x; spawn ", 9);
        let both = |_: &str| ["/xvda/", "/xvda2"].map(String::from).into();
        session.keys_completed("/x\t", &both).shows("x; spawn /xvda", 14);
        let directory = |_: &str| ["/xvda/"].map(String::from).into();
        session.keys_completed("\t", &directory).shows("x; spawn /xvda/", 15);
        session.keys("\t").shows("x; spawn /xvda/", 15);
        assert_eq!(session.screen.bells, 1, "there is nothing to complete");
        // In the middle of a line.
        Session::new()
            .keys("hel x")
            .keys(LEFT.repeat(2))
            .keys_completed("\t", &|_| vec!["hello".into()])
            .shows("hello  x", 6);
    }

    #[test]
    fn the_end_and_starting_over() {
        let mut session = Session::new();
        session.keys("abc\x03").shows("", 0);
        assert!(session.screen.above.ends_with("abc^C\n"));
        session.keys("\x04");
        assert_eq!(session.entered, [Entered::End]);
        let mut session = Session::new();
        session.keys("abc\x0c").shows("abc", 3);
        assert_eq!(session.screen.above, "");
    }

    #[test]
    fn a_long_line_is_shown_around_the_cursor() {
        let mut session = Session::new();
        let line: String = (0..LIMIT).map(|index| char::from(b'a' + (index % 26) as u8)).collect();
        session.keys(&line);
        let room = COLUMNS - PROMPT.len();
        session.shows(&line[LIMIT - room..], room).keys("xyz");
        assert_eq!(session.screen.bells, 3);
        session.keys("\x01").shows(&line[..room], 0).keys("\x05\r").entered(&[&line]);
        // Wide characters never leave the row, which the screen checks.
        session.keys("漢a".repeat(100)).keys(LEFT.repeat(150)).keys("x").keys(RIGHT.repeat(60)).keys("\x7f");
    }

    /// Whatever is typed: the line is what the keys make of it, and the row is left by nothing.
    #[test]
    fn nothing_that_is_typed_upsets_it() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut session = Session::new();
        for _ in 0..200_000 {
            let byte = match next() % 4 {
                0 => (next() % 32) as u8,
                1 => *b"\x1b[ABCD~3"[..].get((next() % 8) as usize).unwrap(),
                2 => (next() % 256) as u8,
                _ => b'a' + (next() % 26) as u8,
            };
            session.keys_completed([byte], &words);
            assert!(session.editor.cursor <= session.editor.line.len());
            assert!(session.editor.line.len() <= LIMIT);
            assert!(session.editor.line.iter().all(|it| !it.is_control()));
            session.entered.clear();
            session.screen.above.clear();
        }
    }
}
