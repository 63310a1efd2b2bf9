//! What can stand where the cursor is, as the usages of the commands say.
//!
//! A usage is the command's name and a word for each argument: what stands there in capitals is a kind of name, which the
//! caller knows; anything else is that itself. `|` lies between alternatives, `[` and `]` around what can be left out.

use alloc::string::String;
use alloc::vec::Vec;

/// The words that can be the last one of `line`, each whole. `names` gives those of a kind that begin with what was typed,
/// and may give others.
pub fn candidates(line: &str, usages: &[&str], names: &dyn Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let command = line.rsplit(';').next().unwrap_or_default().trim_start();
    let (before, typed) = command.rsplit_once(' ').unwrap_or(("", command));
    let before: Vec<&str> = before.split_whitespace().collect();
    let words_of = |usage: &&str| -> Vec<String> { usage.split(' ').map(String::from).collect() };
    let mut found: Vec<String> = Vec::new();
    for usage in usages.iter().map(words_of) {
        let is_meant = before.first().is_none_or(|name| *name == usage[0]);
        let Some(slot) = usage.get(before.len()).filter(|_| is_meant) else { continue };
        for word in slot.trim_matches(['[', ']']).split('|') {
            match word.bytes().all(|byte| byte.is_ascii_uppercase()) {
                true => found.extend(names(word, typed)),
                false => found.push(word.into()),
            }
        }
    }
    // A name with such a character in it could not be typed.
    found.retain(|word| word.starts_with(typed) && !word.contains([' ', ';', '\t']));
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGES: [&str; 6] = [
        "help",
        "spawn PROGRAM [NUMBER] [&]",
        "dd read|write DISK [MIB]",
        "sha256 FILE|DISK [MIB]",
        "sync",
        "write FILE WORD...",
    ];

    fn names(kind: &str, typed: &str) -> Vec<String> {
        let names: &[&str] = match kind {
            "PROGRAM" => &["hello", "count", "spin"],
            "DISK" => &["xvda", "xvdb"],
            "FILE" if typed.starts_with('/') => &["/xvda/a", "/xvda/a b", "/xvda/c;d"],
            "FILE" => &["/xvda/"],
            _ => &[],
        };
        names.iter().copied().map(String::from).collect()
    }

    #[test]
    fn words_fit_their_place() {
        for (line, words) in [
            ("", &["dd", "help", "sha256", "spawn", "sync", "write"][..]),
            ("s", &["sha256", "spawn", "sync"]),
            ("help; s", &["sha256", "spawn", "sync"]),
            ("x", &[]),
            ("spawn ", &["count", "hello", "spin"]),
            ("spawn  h", &["hello"]),
            ("a;b; spawn sp", &["spin"]),
            ("spawn count ", &[]),
            ("spawn count 1 ", &["&"]),
            ("dd ", &["read", "write"]),
            ("dd w", &["write"]),
            ("dd read ", &["xvda", "xvdb"]),
            ("sha256 ", &["/xvda/", "xvda", "xvdb"]),
            ("sha256 x", &["xvda", "xvdb"]),
            ("write /xvda/", &["/xvda/a"]),
            ("write /xvda/a b", &[]),
            ("spa x", &[]),
            ("sync ", &[]),
            ("sync now and ", &[]),
        ] {
            assert_eq!(candidates(line, &USAGES, &names), words, "{line:?}");
        }
    }
}
