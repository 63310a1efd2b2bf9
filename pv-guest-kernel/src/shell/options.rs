//! The kernel's command line: words, and `exec="..."` with words of its own.

use alloc::string::String;

/// What the shell takes from it.
#[derive(Default)]
pub struct Options {
    /// `exec="COMMAND; COMMAND"`: run these and power off.
    pub commands: Option<String>,
    /// `stdin=pipe`: the console is not a terminal.
    pub piped: bool,
}

impl Options {
    /// Reads the command line; words that mean nothing here are somebody else's.
    pub fn from_command_line(text: &str) -> Self {
        let mut options = Self::default();
        let mut rest = text;
        if let Some((before, after)) = text.split_once("exec=\"") {
            let (commands, after) = after.split_once('"').unwrap_or((after, ""));
            options.commands = Some(commands.into());
            options.piped = before.split_whitespace().any(is_piped);
            rest = after;
        }
        options.piped |= rest.split_whitespace().any(is_piped);
        options
    }
}

fn is_piped(word: &str) -> bool {
    word == "stdin=pipe"
}
