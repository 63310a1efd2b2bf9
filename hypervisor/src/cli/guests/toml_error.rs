//! What is wrong with a domain file, for a person: file, line, column and key, what to write instead, and where it stands.

use crate::cli::status::Failure;
use std::path::Path;

/// Words of serde and of the parser, and ours.
const WORDS: [(&str, &str); 14] = [
    ("a path string", "text in quotes"),
    ("path string", "text in quotes"),
    ("a string", "text in quotes"),
    ("string", "the text"),
    ("i64", "a whole number"),
    ("u32", "a whole number"),
    ("integer", "the number"),
    ("floating point", "the number"),
    ("boolean", "the word"),
    ("a sequence", "a list in [ ]"),
    ("sequence", "a list"),
    ("map", "a table"),
    ("datetime", "a date"),
    ("struct DomainFile", "keys and values"),
];

/// Tells of an error in `text`, which is that of `path`.
pub fn describe(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let message = in_our_words(&message);
    let Some(span) = error.span() else { return Failure::about(path.display(), message) };
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    let number = before.matches('\n').count().saturating_add(1);
    let before = text.get(line_start..start).unwrap_or_default();
    let column = before.chars().count().saturating_add(1);
    let marked = text.get(start..span.end.min(text.len())).unwrap_or_default();
    let marked = marked.lines().next().unwrap_or_default().chars().count().max(1);
    // Tabs stay, so that the mark stands below what it marks.
    let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let key = key_of(text, line_start).filter(|key| !message.contains(&format!("`{key}`")));
    let key = key.map_or_else(String::new, |key| format!("{key}: "));
    let margin = " ".repeat(number.to_string().len());
    let shown: String =
        line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    Failure::about(
        path.display(),
        format_args!(
            "line {number}, column {column}: {key}{message}\n {number} | {shown}\n {margin} | {indent}{}",
            "^".repeat(marked)
        ),
    )
}

/// The key whose value reaches into the line that starts at `line_start`: that of the line itself, or of one above.
fn key_of(text: &str, line_start: usize) -> Option<&str> {
    let line = text.get(line_start..)?.lines().next()?;
    let above = text.get(..line_start)?;
    let mut lines = std::iter::once(line).chain(above.lines().rev());
    lines.find_map(|line| line.split_once('=')).map(|(key, _)| key.trim())
}

fn in_our_words(message: &str) -> String {
    let word = |text: &str| {
        let found = WORDS
            .iter()
            .find_map(|(theirs, ours)| text.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")));
        found.unwrap_or_else(|| text.to_owned())
    };
    for prefix in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) =
            message.strip_prefix(prefix).and_then(|rest| rest.split_once(", expected "))
        {
            let found = word(found).replace('`', "");
            return format!("{} is needed here, and not {found}", word(expected));
        }
    }
    if let Some((unknown, expected)) =
        message.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", expected "))
    {
        let known = expected.trim_start_matches("one of ");
        return format!("there is no key {unknown}; there are {known}");
    }
    match message {
        "duplicate key" => "this key stands here for the second time".into(),
        other => other.to_owned(),
    }
}
