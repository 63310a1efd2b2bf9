//! Lines of input: edited on a terminal, or plain from a pipe.

use alloc::string::String;
use alloc::vec::Vec;

use crate::driver::console;

const CONTROL_C: u8 = 0x03;
const END_OF_TRANSMISSION: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CONTROL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// Longer lines are cut off.
const LIMIT: usize = 1024;

/// Prompts for a line and lets the user edit it. Ctrl-C starts over, Ctrl-U clears the line.
pub async fn edit(prompt: &str) -> String {
    let mut line: Vec<u8> = Vec::new();
    print!("{prompt}");
    loop {
        match console::next_byte().await {
            b'\r' | b'\n' => {
                println!();
                return String::from_utf8_lossy(&line).into_owned();
            }
            CONTROL_C => {
                line.clear();
                print!("^C\n{prompt}");
            }
            CONTROL_U => {
                line.drain(..).for_each(|_| print!("\x08 \x08"));
            }
            BACKSPACE | DELETE if line.pop().is_some() => print!("\x08 \x08"),
            ESCAPE => skip_escape_sequence().await,
            byte @ b' '..=b'~' if line.len() < LIMIT => {
                line.push(byte);
                print!("{}", char::from(byte));
            }
            _ => {}
        }
    }
}

/// Swallows what a cursor or function key sends after its escape: `[`, then up to a letter or `~`.
async fn skip_escape_sequence() {
    if console::next_byte().await == b'[' {
        while !matches!(console::next_byte().await, b'A'..=b'Z' | b'a'..=b'z' | b'~') {}
    }
}

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

    /// The next line, without its end; none at the end of the input.
    pub async fn next(&mut self) -> Option<String> {
        let mut line: Vec<u8> = Vec::new();
        while !self.ended {
            let byte = console::next_byte().await;
            self.ended = byte == END_OF_TRANSMISSION;
            self.received |= !self.ended;
            match byte {
                END_OF_TRANSMISSION if line.is_empty() => break,
                b'\r' | b'\n' | END_OF_TRANSMISSION => {
                    return Some(String::from_utf8_lossy(&line).into_owned());
                }
                byte if line.len() < LIMIT => line.push(byte),
                _ => {}
            }
        }
        None
    }
}
