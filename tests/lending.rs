//! Two guests that share a page and an event channel: what one lends, the other reads and answers; and what is left of
//! that when the lender takes it back, or ends.

mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use support::{finish, main_one_at_a_time, needs_kvm, paravane};
use tempfile::TempDir;

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("a_page_is_lent_read_answered_and_taken_back", lend),
        needs_kvm("a_page_outlives_the_domain_that_lends_it", death),
    ])
}

/// A lender, which runs its commands, and a borrower, which is typed to.
struct Pair {
    child: Child,
    borrower: ChildStdin,
    lines: Receiver<String>,
    /// Lines that nobody has waited for yet: which domain's come first is nobody's to say.
    unclaimed: Vec<String>,
    seen: String,
    _files: TempDir,
}

impl Pair {
    fn start(lender: &str) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let file = |name: &str, rest: &str| {
            let path = files.path().join(name).with_extension("toml");
            std::fs::write(&path, format!("memory = \"32M\"\n{rest}\n")).expect("a file");
            path.to_str().expect("a path in UTF-8").to_owned()
        };
        let (lender, borrower) = (file("lender", &format!("exec = '{lender}'")), file("borrower", ""));
        let mut child =
            paravane(&["run", &lender, &borrower]).stdin(Stdio::piped()).spawn().expect("paravane starts");
        let (stdout, borrower) = (child.stdout.take().expect("a pipe"), child.stdin.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, borrower, lines, unclaimed: Vec::new(), seen: String::new(), _files: files }
    }

    /// Waits for a line that starts so, and gives the rest of it.
    #[track_caller]
    fn wait_for(&mut self, start: &str) -> String {
        loop {
            if let Some(place) = self.unclaimed.iter().position(|line| line.starts_with(start)) {
                return self.unclaimed.remove(place)[start.len()..].to_owned();
            }
            let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) else {
                let _ = self.child.kill();
                panic!("{start:?} does not come after:\n{}", self.seen);
            };
            let _ = writeln!(self.seen, "{line}");
            self.unclaimed.push(line);
        }
    }

    fn type_to_borrower(&mut self, commands: &str) {
        writeln!(self.borrower, "{commands}").expect("the borrower listens");
    }

    /// The exit status, once the borrower has nothing more to do.
    fn end(self) -> Option<i32> {
        drop(self.borrower);
        finish(self.child).status
    }
}

/// What the lender says is to be typed.
fn attach(pair: &mut Pair) -> String {
    let command = pair.wait_for("lender| to be typed in d2: ");
    assert!(command.starts_with("attach 1 8 "), "{command}");
    command
}

fn lend() {
    let mut pair = Pair::start("share 2; unshare 8; sleep 1");
    let attach = attach(&mut pair);
    pair.type_to_borrower(&format!("{attach} 60"));
    pair.wait_for("borrower| d1 says: this page is lent by d1");
    pair.wait_for("lender| d2 answers: d2 has read it");
    // The lender hangs up, so the borrower lets go long before its minute is over; only then is the page taken back.
    pair.wait_for("borrower| d1 is gone; its page says: this page is lent by d1");
    pair.wait_for("lender| entry 8 is taken back");
    pair.type_to_borrower(&format!("{attach}\nversion"));
    let refusal = pair.wait_for("borrower| attach: d1 lends us nothing by entry 8: refused, ");
    // By then it may have ended.
    assert!(["GENERAL_ERROR", "BAD_DOMAIN"].contains(&refusal.as_str()), "{refusal}");
    assert_eq!(pair.end(), Some(0));
}

fn death() {
    const CRASHED: i32 = 3;
    let mut pair = Pair::start("share 2; crash");
    let attach = attach(&mut pair);
    pair.type_to_borrower(&format!("{attach} 60; version"));
    pair.wait_for("lender| d2 answers: d2 has read it");
    pair.wait_for("borrower| d1 is gone; its page says: this page is lent by d1");
    pair.wait_for("borrower| guest kernel: ");
    // Its table goes first, then all that it has, then the domain: slowly, on an emulated machine.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        pair.type_to_borrower(&attach);
        let refusal = pair.wait_for("borrower| attach: d1 lends us nothing by entry 8: refused, ");
        if refusal == "BAD_DOMAIN" {
            break;
        }
        assert!(refusal == "BAD_GNTREF" && Instant::now() < deadline, "{refusal}");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(pair.end(), Some(CRASHED));
}
