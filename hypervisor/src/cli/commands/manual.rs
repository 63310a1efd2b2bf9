//! `paravane man` and `paravane completions`: made from the definition of the command line.

use super::args::{Args, CompletionsArgs, ManArgs};
use crate::cli::new_file::{Kind, NewFile, is_stdout};
use crate::cli::printing::stdout::print;
use crate::cli::status::{Failure, Status};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const KIND: Kind = Kind { name: "a manual page of paravane", is_held_by: is_page };
/// What a page begins with, behind a few lines of definitions.
const TITLE: &[u8] = b".TH paravane";
/// Bytes in which that is found.
const BEGINNING: u64 = 512;

/// Writes a page for each command into a directory, or all to stdout.
pub fn man(args: &ManArgs) -> Result<Status, Failure> {
    let pages = pages().map_err(Failure::new)?;
    if is_stdout(&args.output) {
        let _ = print(pages.into_iter().flat_map(|(_, page)| page).collect::<Vec<_>>())?;
        return Ok(Status::Fine);
    }
    for (name, page) in pages {
        let path = args.output.join(name);
        write(&path, &page, args.force).map_err(|reason| Failure::about(path.display(), reason))?;
    }
    Ok(Status::Fine)
}

fn write(path: &Path, page: &[u8], force: bool) -> Result<(), String> {
    let new = NewFile::create(path, &KIND, force)?;
    new.fill(page)?;
    new.publish().map(drop)
}

fn is_page(file: &File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    file.take(BEGINNING).read_to_end(&mut beginning)?;
    Ok(beginning.windows(TITLE.len()).any(|bytes| bytes == TITLE))
}

/// A page for each command, with the name of its file.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push((page.get_filename(), text));
    command.get_subcommands().try_for_each(|command| add_pages(command, pages))
}

/// Prints what a shell completes the command line with.
pub fn completions(args: &CompletionsArgs) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "paravane", &mut script);
    let _ = print(script)?;
    Ok(Status::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use clap_complete::Shell;

    /// All commands and what is typed for their options.
    fn words(command: &Command, words: &mut Vec<(String, Vec<String>)>) {
        let options = command.get_arguments().filter_map(|option| option.get_long());
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        words.push((name, options.map(|option| format!("--{option}")).collect()));
        command.get_subcommands().for_each(|command| self::words(command, words));
    }

    fn all_words() -> Vec<(String, Vec<String>)> {
        let mut command = Args::command().disable_help_subcommand(true);
        command.build();
        let mut all = Vec::new();
        words(&command, &mut all);
        all
    }

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let pages = pages().unwrap();
        let commands = all_words();
        assert_eq!(pages.len(), commands.len());
        for ((name, options), (file, page)) in commands.iter().zip(&pages) {
            assert_eq!(*file, format!("{name}.1"));
            let page = String::from_utf8(page.clone()).unwrap().replace('\\', "");
            for option in options {
                assert!(page.contains(option.as_str()), "{option} is missing from {file}");
            }
        }
        for name in ["paravane", "paravane-run", "paravane-xs-watch", "paravane-man"] {
            assert!(commands.iter().any(|(command, _)| command == name), "{name}: {commands:?}");
        }
    }

    #[test]
    fn each_shell_completes_each_command_and_option() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "paravane", &mut script);
            let script = String::from_utf8(script).unwrap();
            for (command, options) in all_words() {
                let name = command.rsplit('-').next().unwrap_or_default().to_owned();
                // Some write them without dashes.
                for word in options.iter().map(|option| option.trim_start_matches('-')).chain([name.as_str()])
                {
                    assert!(script.contains(word), "{shell}: {word} of {command} is missing");
                }
            }
        }
    }

    #[test]
    fn pages_replace_pages_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let args = |force| ManArgs { output: directory.path().to_owned(), force };
        for _ in 0..2 {
            man(&args(false)).unwrap();
        }
        let path = directory.path().join("paravane.1");
        std::fs::write(&path, "precious").unwrap();
        assert!(man(&args(false)).unwrap_err().message.contains("--force"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        man(&args(true)).unwrap();
    }
}
