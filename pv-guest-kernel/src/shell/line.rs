//! Lines of input: edited on a terminal, or plain from a pipe.

use alloc::string::String;
use alloc::vec::Vec;

use super::command;
use super::editor::{Editor, Entered, LIMIT};
use crate::driver::console;

const END_OF_TRANSMISSION: u8 = 0x04;

/// Lets the user edit a line, to its end or that of all input.
pub async fn edit(editor: &mut Editor) -> Entered {
    editor.begin();
    loop {
        print!("{}", editor.take_screen());
        if let Some(entered) = editor.type_byte(console::next_byte().await, &command::completions) {
            print!("{}", editor.take_screen());
            return entered;
        }
    }
}

/// A line has more than [`LIMIT`] bytes.
pub struct TooLong;

/// Lines of a pipe, up to an end-of-transmission byte.
#[derive(Default)]
pub struct Piped {
    received: bool,
    ended: bool,
}

impl Piped {
    /// Whether any byte came before the end.
    pub fn anything_received(&self) -> bool {
        self.received
    }

    /// The next line, without its end; none at the end of the input. One that is too long is an error.
    pub async fn next(&mut self) -> Option<Result<String, TooLong>> {
        let mut line: Vec<u8> = Vec::new();
        let mut length = 0;
        while !self.ended {
            let byte = console::next_byte().await;
            self.ended = byte == END_OF_TRANSMISSION;
            self.received |= !self.ended;
            match byte {
                END_OF_TRANSMISSION if line.is_empty() => break,
                b'\r' | b'\n' | END_OF_TRANSMISSION => {
                    let text = || String::from_utf8_lossy(&line).into_owned();
                    return Some(if length > LIMIT { Err(TooLong) } else { Ok(text()) });
                }
                byte => {
                    length += 1;
                    if length <= LIMIT {
                        line.push(byte);
                    }
                }
            }
        }
        None
    }
}
