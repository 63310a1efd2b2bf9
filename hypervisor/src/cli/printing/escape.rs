//! Text that a guest may have written, on its way to a terminal: what would do something there is shown instead.

/// A text of lines: of control characters, only the ends of lines stay.
pub fn escape_lines(text: &str) -> String {
    escape(text, |character| character == '\n')
}

/// A value that stands in one line, and may be no text.
pub fn escape_value(value: &[u8]) -> String {
    value.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text += &escape(chunk.valid(), |_| false);
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        text
    })
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        // Those that turn the direction of what follows hide things, too.
        let turns =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match stays(character) || !(character.is_control() || turns) {
            true => escaped.push(character),
            false if character.is_ascii() => escaped += &format!("\\x{:02x}", u32::from(character)),
            false => escaped.extend(character.escape_unicode()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_does_anything_to_a_terminal() {
        assert_eq!(
            escape_lines("a\x1b[2Jb\r\nc\u{9b}1m\x7f\u{202e}é"),
            "a\\x1b[2Jb\\x0d\nc\\u{9b}1m\\x7f\\u{202e}é"
        );
        assert_eq!(escape_value(b"a\n\xffb\xc3\xa9\x00"), "a\\x0a\\xffbé\\x00");
        for byte in 0..=255 {
            assert!(!escape_value(&[byte, b'x']).contains(char::is_control));
        }
    }
}
