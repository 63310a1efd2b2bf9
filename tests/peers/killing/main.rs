//! `tests/peers/kills` tells what this is.

mod calls;
mod rounds;
#[path = "../../support/mod.rs"]
mod support;

use rounds::{Durable, Lines};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};
use support::{paravane, run};

/// Longer than the start of a guest takes, on a slow host too.
const LIMIT: Duration = Duration::from_secs(60);
/// A guest is killed at most this long after it has begun to write.
const LOAD_MS: u64 = 250;
/// An image is used for so many kills, then a new one is made: in a new qcow2 image, writes allocate.
const KILLS_OF_AN_IMAGE: u32 = 4;
/// Flushes that are to be seen by strace, of each kind of image.
const FLUSHES: usize = 200;
/// The kinds of images, their sizes in MiB, and the sizes of their clusters: with small ones, an L2 table is needed for
/// each 32 KiB.
const KINDS: [(&str, u64, u64); 3] = [("raw", 16, 0), ("qcow2", 32, 65536), ("qcow2", 16, SMALL)];
const SMALL: u64 = 512;
/// The ends of runs whose guest has not flushed.
const ENDS: [Signal; 3] = [Signal::KILL, Signal::TERM, Signal::HUP];

fn main() -> ExitCode {
    let (mut kills, mut directory) = (200, std::env::temp_dir());
    let mut seed = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let mut arguments = std::env::args().skip(1);
    while let (Some(option), Some(value)) = (arguments.next(), arguments.next()) {
        match &*option {
            "--kills" => kills = value.parse().expect("a number of kills"),
            "--seed" => seed = value.parse().expect("a seed"),
            "--directory" => directory = value.into(),
            _ => panic!("{option} is not known; see tests/peers/kills"),
        }
    }
    println!("seed {seed}");
    let (mut lost, mut leaks, mut killed, mut unflushed) = (0, 0, 0, 0);
    while killed < kills {
        let kind = KINDS[(killed / KILLS_OF_AN_IMAGE) as usize % KINDS.len()];
        let mut image = Image::new(&directory, kind);
        for _ in 0..KILLS_OF_AN_IMAGE.min(kills - killed) {
            image.kill_guest(next(&mut seed) % (LOAD_MS * 1000));
            lost += image.inspect();
            leaks += u32::from(image.check());
            killed += 1;
        }
        image.read_again();
        image.notice_a_loss();
        if image.kind != "raw" {
            let end = ENDS[next(&mut seed) as usize % ENDS.len()];
            Image::new(&directory, kind).end_unflushed(end, next(&mut seed) % (LOAD_MS * 1000));
            unflushed += 1;
        }
    }
    println!("{unflushed} times, a guest that had not flushed was ended, and the next run wrote on");
    println!("{leaks} times, clusters of a qcow2 image were lost to nobody's use");
    let (mut flushes, mut unsynced) = (0, 0);
    // Small clusters cut the writes into pieces, by which strace's log is not judged.
    for kind in KINDS.into_iter().filter(|kind| kind.2 != SMALL) {
        let (said, bad) = Image::new(&directory, kind).trace(&directory);
        let first = &bad[..bad.len().min(5)];
        println!(
            "{}: {said} flushes seen by strace; {} not behind an fdatasync: {first:?}",
            kind.0,
            bad.len()
        );
        flushes += said;
        unsynced += bad.len();
    }
    println!("kills {killed} lost {lost} flushes {flushes} unsynced {unsynced}");
    ExitCode::from(u8::from(lost != 0 || unsynced != 0))
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// An image, and what is durable on it.
struct Image {
    path: PathBuf,
    kind: &'static str,
    bytes: u64,
    durable: Durable,
    /// The round to begin with.
    first: u32,
}

/// What succeeds, or ends all.
#[track_caller]
fn qemu_img(arguments: &[&str]) -> Option<i32> {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img starts");
    let (status, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
    // 3: nothing is wrong but clusters that are in nobody's use.
    assert!(matches!(status, Some(0 | 3)), "qemu-img {arguments:?}: {said}");
    status
}

impl Image {
    fn new(directory: &Path, (kind, mebibytes, cluster_bytes): (&'static str, u64, u64)) -> Self {
        let path = directory.join(format!("disk.{kind}"));
        let _ = fs::remove_file(&path);
        let (size, clusters) = (format!("{mebibytes}M"), format!("cluster_size={cluster_bytes}"));
        let mut create = vec!["create", "-q", "-f", kind];
        if cluster_bytes != 0 {
            create.extend(["-o", &clusters]);
        }
        create.extend([path.to_str().expect("a path"), &size]);
        qemu_img(&create);
        Self { path, kind, bytes: mebibytes << 20, durable: Durable::new(), first: 1 }
    }

    fn text(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    fn disk(&self) -> String {
        format!("{},format={}", self.text(), self.kind)
    }

    /// Starts a guest that writes, after `command`'s arguments.
    fn start(&self, command: Option<&mut Command>) -> (Child, Console) {
        let (disk, rounds) = (self.disk(), format!("rounds xvda {}", self.first));
        let mut own = paravane(&["run", "--disk", &disk, "--exec", &rounds]);
        let command = match command {
            Some(tracer) => tracer.arg(own.get_program()).args(own.get_args()),
            None => &mut own,
        };
        let messages = fs::File::create(self.messages()).expect("a file for messages");
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages).spawn();
        let mut child = spawned.expect("it starts");
        let console = Console::new(child.stdout.take().expect("stdout is a pipe"));
        (child, console)
    }

    fn messages(&self) -> PathBuf {
        self.path.with_extension("messages")
    }

    /// The next round that is durable: the guest has started, on the image as it was left.
    fn expect(&self, console: &Console) -> u32 {
        console.rounds.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let said = fs::read_to_string(self.messages()).unwrap_or_default();
            panic!("no guest that writes to the {} image: {said}", self.kind)
        })
    }

    /// Lets a guest write for so long after its first flush, and kills paravane.
    fn kill_guest(&mut self, microseconds: u64) {
        let (mut child, console) = self.start(None);
        let first = self.expect(&console);
        thread::sleep(Duration::from_micros(microseconds));
        child.kill().expect("it runs");
        child.wait().expect("it can be waited for");
        for round in [first].into_iter().chain(console.rounds) {
            let place = u64::from(round) % rounds::places(self.bytes);
            let last = self.durable.entry(place).or_default();
            *last = round.max(*last);
        }
    }

    /// Lets a guest write all over the image, without a flush, and ends paravane meanwhile. The next run writes too. QEMU's
    /// tools find nothing wrong after either.
    fn end_unflushed(&self, end: Signal, microseconds: u64) {
        let new = fs::metadata(&self.path).expect("the image").len();
        let load = "measure write xvda 16 4 1000000 7";
        let mut own = paravane(&["run", "--disk", &self.disk(), "--exec", load]);
        let messages = fs::File::create(self.messages()).expect("a file for messages");
        let mut child = own.stdout(Stdio::null()).stderr(messages).spawn().expect("it starts");
        let start = Instant::now();
        while fs::metadata(&self.path).expect("the image").len() == new {
            let said = || fs::read_to_string(self.messages()).unwrap_or_default();
            assert!(start.elapsed() < LIMIT, "no guest that writes to the {} image: {}", self.kind, said());
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(microseconds));
        kill_process(Pid::from_child(&child), end).expect("it runs");
        child.wait().expect("it can be waited for");
        self.check();
        let outcome = run(&["run", "--disk", &self.disk(), "--exec", "dd write xvda 5; sha256 xvda"]);
        let hash: String = Sha256::digest(self.contents()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            outcome.stdout.contains(&hash),
            "ended by {end:?}, {} reads otherwise: {outcome:?}",
            self.kind
        );
        self.check();
    }

    /// The disk as QEMU's tools see it.
    fn contents(&self) -> Vec<u8> {
        if self.kind == "raw" {
            return fs::read(&self.path).expect("the image");
        }
        let raw = self.path.with_extension("as-raw");
        qemu_img(&["convert", "-f", self.kind, "-O", "raw", self.text(), raw.to_str().expect("a path")]);
        fs::read(&raw).expect("the converted image")
    }

    /// How many sectors are not what they must be.
    fn inspect(&mut self) -> usize {
        let (wrong, last) = rounds::inspect(&self.contents(), &self.durable);
        wrong.iter().take(5).for_each(|wrong| println!("{}: {wrong}", self.kind));
        self.first = last + 1;
        wrong.len()
    }

    /// Whether clusters are in nobody's use. Anything worse ends all.
    fn check(&self) -> bool {
        self.kind != "raw" && qemu_img(&["check", "-q", "-f", self.kind, self.text()]) == Some(3)
    }

    /// A guest reads the same again.
    fn read_again(&self) {
        let outcome = run(&["run", "--disk", &self.disk(), "--exec", "sha256 xvda"]);
        let hash: String = Sha256::digest(self.contents()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(outcome.stdout.contains(&hash), "{} reads otherwise: {outcome:?}", self.kind);
    }

    /// The inspection itself is none if it does not see this.
    fn notice_a_loss(&self) {
        let (place, round) = self.durable.iter().next_back().expect("something is durable");
        let mut older = self.contents();
        let sector = ((place + 1) * rounds::SECTORS - 1) as usize * rounds::SECTOR;
        older[sector..][..rounds::SECTOR].fill(0);
        assert_eq!(rounds::inspect(&older, &self.durable).0.len(), 1, "round {round} was cut short");
    }

    /// Has strace count flushes: how many the guest was told of, and which of these were not behind an `fdatasync`. The
    /// process gets no io_uring, whose calls nobody sees from outside.
    fn trace(&self, directory: &Path) -> (usize, Vec<u32>) {
        let log = directory.join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-xx", "-s", "64", "--seccomp-bpf", "-o"]).arg(&log);
        strace.args(["-e", "trace=pwritev,pwrite64,fdatasync,write,io_uring_setup"]);
        strace.args(["-e", "inject=io_uring_setup:error=ENOSYS"]);
        let (mut child, console) = self.start(Some(&mut strace));
        for _ in 0..FLUSHES {
            self.expect(&console);
        }
        let begun = fs::read_to_string(&log).expect("the log of strace");
        let pid = begun.split(' ').next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        kill_process(pid.expect("the process that strace began with"), Signal::KILL).expect("it runs");
        child.wait().expect("strace ends with it");
        let (text, log) =
            (console.text.join().expect("a reader"), fs::read_to_string(&log).expect("the log"));
        let (said, unsynced) = calls::judge(&log, &text, &self.path, self.bytes);
        assert!(said >= FLUSHES, "strace saw {said} flushes acknowledged");
        (said, unsynced)
    }
}

/// What a guest says: the rounds that are durable, as they are said, and in the end all of it.
struct Console {
    rounds: Receiver<u32>,
    text: JoinHandle<Vec<u8>>,
}

impl Console {
    fn new(mut stdout: ChildStdout) -> Self {
        let (sender, rounds) = mpsc::channel();
        let text = thread::spawn(move || {
            let (mut text, mut lines, mut piece) = (Vec::new(), Lines::default(), [0; 4096]);
            while let Ok(length @ 1..) = stdout.read(&mut piece) {
                text.extend_from_slice(&piece[..length]);
                for round in lines.rounds(&piece[..length]) {
                    let _ = sender.send(round); // somebody may have heard enough
                }
            }
            text
        });
        Self { rounds, text }
    }
}
