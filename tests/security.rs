//! The tables in `docs/security.md` name files, tests and defects that there are: a row cannot outlive its tests.

use std::fs;
use std::path::{Path, PathBuf};

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells of a table's rows: what is attacked, what refuses it, where it is tried and, in one of them, defects.
fn rows<'a>(document: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    let section = document.split(&format!("\n## {title}\n")).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    lines.map(|line| line.split(" | ").map(str::trim).collect()).skip(1).collect() // behind the heading
}

/// What stands in backticks.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All Rust sources that tests stand in.
fn sources() -> String {
    let mut all = String::new();
    let mut folders: Vec<PathBuf> =
        ["tests", "hypervisor/src", "backends/src", "pv-abi/src", "pv-guest-kernel/src"]
            .map(|folder| tree().join(folder))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name() != Path::new(file!()).file_name()
            {
                all += &fs::read_to_string(&path).expect("a source");
            }
        }
    }
    all
}

/// Guests' tests are named by strings, the others by functions.
fn is_test(name: &str, sources: &str) -> bool {
    let named = if name.contains('/') { format!("\"{name}\"") } else { format!("fn {name}(") };
    sources.contains(&named)
}

/// What is wrong with the table of attacks.
fn complaints(document: &str, sources: &str) -> Vec<String> {
    let mut found = Vec::new();
    for row in rows(document, "Attacks") {
        let [attack, refusal, tests] = row[..] else {
            found.push(format!("{row:?}: a row of three cells"));
            continue;
        };
        if !refusal.starts_with("does not apply: ")
            && (cited(refusal).count() == 0 || cited(tests).count() == 0)
        {
            found.push(format!("{attack}: nothing refuses it, or it is tried nowhere"));
        }
        let files = cited(refusal).filter(|file| file.contains('/') && !tree().join(file).exists());
        found.extend(files.map(|file| format!("{attack}: there is no file {file}")));
        let missing = cited(tests).filter(|name| !is_test(name, sources));
        found.extend(missing.map(|name| format!("{attack}: there is no test {name}")));
    }
    found
}

#[test]
fn the_table_of_attacks_names_what_there_is() {
    let document = fs::read_to_string(tree().join("docs/security.md")).expect("the document");
    assert!(rows(&document, "Attacks").len() > 20, "the table was not found");
    assert_eq!(complaints(&document, &sources()), Vec::<String>::new());
}

#[test]
fn the_table_of_ways_to_cpl0_names_what_there_is() {
    let document = fs::read_to_string(tree().join("docs/security.md")).expect("the document");
    let (ways, sources) = (rows(&document, "Ways to CPL0"), sources());
    assert!(ways.len() > 10, "the table was not found");
    for way in ways {
        let [what, closed_by, tests, defects] = way[..] else { panic!("{way:?}: a row of four cells") };
        for file in cited(closed_by).filter(|file| file.ends_with(".rs")) {
            assert!(tree().join(file).exists(), "{what}: there is no file {file}");
        }
        assert!(cited(tests).count() != 0 || tests == "by review", "{what} is tried nowhere");
        for test in cited(tests) {
            assert!(is_test(test, &sources), "{what}: there is no test {test}");
        }
        assert!(
            cited(defects).count() != 0 || defects.starts_with("none: ") || tests == "by review",
            "{what}"
        );
        for defect in cited(defects) {
            let patch = tree().join(format!("tests/sabotage/{defect}.patch"));
            assert!(patch.exists(), "{what}: there is no defect {defect}");
        }
    }
}

#[test]
fn a_row_that_is_not_true_is_found() {
    let with = |row: &str| {
        complaints(&format!("\n## Attacks\n\n| a | b | c |\n|---|---|---|\n{row}\n"), "fn there(")
    };
    assert_eq!(with("| theft | `tests/INDEX.md` | `there` |"), Vec::<String>::new());
    assert_eq!(with("| theft | does not apply: nothing is to be had | |"), Vec::<String>::new());
    assert_eq!(with("| theft | `no/file` | `there` |"), ["theft: there is no file no/file"]);
    assert_eq!(with("| theft | `tests/INDEX.md` | `gone` |"), ["theft: there is no test gone"]);
    assert_eq!(with("| theft | `tests/INDEX.md` | `a/guest` |"), ["theft: there is no test a/guest"]);
    assert_eq!(with("| theft | `tests/INDEX.md` | |"), ["theft: nothing refuses it, or it is tried nowhere"]);
}
