//! Text that comes in parts.

/// Bytes that a character has at most.
pub const MOST_CHARACTER_BYTES: usize = 4;

/// How many bytes there are without the beginning of a character that goes on behind them.
pub fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let begun = last.map_or(&[][..], |chunk| chunk.invalid());
    let goes_on = core::str::from_utf8(begun).is_err_and(|error| error.error_len().is_none());
    bytes.len() - if goes_on { begun.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_goes_on_is_left_for_later() {
        for (bytes, whole) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("grü".as_bytes(), 4),
            (b"gr\xc3", 2),
            (b"\xe6\xbc", 0),
            (b"a\xf0\x9f\x99", 1),
            // What can become no character.
            (b"a\xff", 2),
            (b"a\xc3b", 3),
            (b"\xe6\xbc\xff\xc3", 3),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:x?}");
        }
    }
}
