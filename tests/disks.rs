//! Disks from end to end: images on the host, and what a guest makes of them through its front-end and file systems.

mod support;

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, run};
use tempfile::TempDir;

const FAILED: i32 = 4;
const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("what_a_guest_writes_is_in_the_image", written),
        needs_kvm("what_is_in_the_image_a_guest_reads", read),
        needs_kvm("a_back_end_is_notified_by_its_doorbell", doorbell),
        needs_kvm("a_guest_looks_for_answers_that_are_due_and_sleeps_otherwise", idling),
        needs_kvm("files_outlive_the_guest_that_wrote_them", files),
        needs_kvm("a_disk_of_any_size_is_formatted", sizes),
        needs_kvm("a_mounted_disk_is_written_through_its_files_only", mounted),
        needs_kvm("forty_disks_have_their_names", names),
        needs_kvm("a_read_only_disk_stays_as_it_is", read_only),
        needs_kvm("a_direct_disk_is_read_and_written_past_the_cache", direct),
        needs_kvm("a_load_is_checked", measured),
        needs_kvm("a_disk_goes_and_comes_back", reconnected),
        needs_kvm("errors_of_the_host_are_told", host_errors),
        needs_kvm("a_disk_may_have_any_name", paths),
        needs_kvm("ext4_is_read", ext4),
        needs_kvm("a_disk_without_a_file_system_is_not_mounted", garbage),
        needs_kvm("a_guest_ends_when_the_toolstack_asks", shutdown),
        needs_kvm("a_back_end_whose_states_make_no_sense_costs_the_disk_only", lied_to),
        needs_kvm("a_back_end_that_vanishes_costs_the_disk_only", vanished),
    ])
}

/// Images in a directory that is deleted when dropped.
struct Images(TempDir);

impl Images {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn add(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, contents).expect("an image");
        path
    }
}

/// A guest with a disk, or several.
fn guest(disks: &[&str], commands: &str) -> Outcome {
    let disks = disks.iter().flat_map(|disk| ["--disk", disk]);
    run(&["run"].into_iter().chain(disks).chain(["--exec", commands]).collect::<Vec<_>>())
}

#[track_caller]
fn ended(outcome: Outcome, status: i32) -> String {
    ended_with(&outcome, status);
    outcome.stdout
}

#[track_caller]
fn ended_with(outcome: &Outcome, status: i32) -> &str {
    assert_eq!(outcome.status, Some(status), "{}\n{}", outcome.stderr, outcome.stdout);
    &outcome.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes of which none are like others.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x243f_6a88_85a3_08d3u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).flat_map(u64::to_le_bytes).take(length).collect()
}

fn written() {
    let images = Images::new();
    let before = noise(8 * MIB);
    let image = images.add("disk", &before);
    let said = ended(guest(&[text(&image)], "disks; dd write xvda 5; sha256 xvda"), 0);
    assert!(said.contains("xvda           8192 KiB"), "{said}");
    let after = fs::read(&image).expect("the image");
    for (number, sector) in after[..5 * MIB].chunks(SECTOR).enumerate() {
        let words = sector.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let own = |word: u64| (number as u64).wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(words.eq((0..64).map(own)), "sector {number}");
    }
    assert_eq!(after[5 * MIB..], before[5 * MIB..], "nothing else was written");
    assert!(said.contains(&hash(&after)), "{said}");
}

fn read() {
    let images = Images::new();
    // Of no round length: the last request is a short one.
    let (first, second) = (noise(3 * MIB + 7 * SECTOR), noise(MIB));
    let (first_image, second_image) = (images.add("first", &first), images.add("second", &second));
    let disks = [text(&first_image), &format!("{},ro", text(&second_image))];
    let said = ended(guest(&disks, "sha256 xvda; sha256 xvdb; sha256 xvda 2; dd read xvda 3 4 32"), 0);
    for (what, bytes) in [("xvda", &first[..]), ("xvdb", &second), ("xvda", &first[..2 * MIB])] {
        let line = format!("{}  {what}", hash(bytes));
        assert!(said.lines().any(|said| said == line), "{line} is not in {said}");
    }
}

/// Requests one at a time, so that the back-end sleeps in between: it is woken by rings that nobody but KVM has seen.
fn doorbell() {
    let images = Images::new();
    let before = noise(MIB);
    let image = images.add("disk", &before);
    let one = "dd read xvda 1 1024 1; sleep 1; ";
    let commands = format!("{}sha256 xvda; ports", one.repeat(3));
    let outcome = run(&["run", "--statistics", "--disk", text(&image), "--exec", &commands]);
    let said = ended_with(&outcome, 0);
    assert!(said.contains(&hash(&before)), "{said}");
    // Port, events, rings, sends.
    let numbers =
        |line: &str| line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
    let ports: Vec<_> = said.lines().filter_map(numbers).filter(|counts| counts.len() == 4).collect();
    let rung: Vec<_> = ports.iter().filter(|counts| counts[2] > 0).collect();
    let [disk] = rung[..] else { panic!("one port is rung: {said}") };
    assert!(disk[2] >= 3 && disk[3] == 0, "a ring after each pause, and no send: {said}");
    let statistics = format!("{said}{}", outcome.stderr);
    assert!(statistics.contains("EXTENSION 1"), "one doorbell, asked for once: {statistics}");
    assert!(!statistics.contains("unanswered"), "every ring was answered without an exit: {statistics}");
}

/// One small request at a time: an answer that was missed would be waited for without end. With none on its way, the
/// guest sleeps at once.
fn idling() {
    let images = Images::new();
    let contents = noise(MIB);
    let image = images.add("disk", &contents);
    let commands = "dd read xvda 1 1 1; sha256 xvda; idle; sleep 1; idle";
    let said = ended(guest(&[text(&image)], commands), 0);
    assert!(said.contains(&hash(&contents)), "{said}");
    let numbers =
        |line: &str| line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let counts: Vec<Vec<u64>> =
        said.lines().filter(|line| line.starts_with("looked ")).map(numbers).collect();
    let [before, after] = &counts[..] else { panic!("{said}") };
    // Whether that helped depends on how busy the host is.
    assert!(before[0] > 0, "it looked: {said}");
    assert_eq!(before[..2], after[..2], "it expected nothing, and did not look");
    assert!(after[2] > before[2], "it slept");
}

fn files() {
    let images = Images::new();
    let image = images.add("disk", &vec![0; 4 * MIB]);
    let commands = "format xvda; mount xvda; write /xvda/note.txt kept for later; write /xvda/note2 x; \
                    write /xvda/note2 another; sync; reboot";
    ended(guest(&[text(&image)], commands), 0);
    let said = ended(guest(&[text(&image)], "mount xvda; ls /xvda; cat /xvda/note.txt; cat /xvda/note2"), 0);
    for line in ["/xvda: FAT", "          15 note.txt", "kept for later", "another"] {
        assert!(said.lines().any(|said| said == line), "{line:?} is not in {said}");
    }
}

/// Images without contents: `pv-guest-kernel/src/file_system/tests.rs` tries many more sizes, and `tests/peers/fat` has
/// somebody else look at them.
fn sizes() {
    let images = Images::new();
    for (mebibytes, first_file) in [(16, 'a'), (32, 'b'), (900, 'c'), (2 << 10, 'd'), (40 << 10, 'e')] {
        let image = images.add(&format!("{mebibytes}"), &[]);
        let file = fs::File::options().write(true).open(&image).expect("the image");
        file.set_len(mebibytes << 20).expect("a sparse file");
        let commands = format!(
            "format xvda; mount xvda; write /xvda/{first_file} {mebibytes} MiB; unmount xvda; mount xvda; \
             cat /xvda/{first_file}"
        );
        let said = ended(guest(&[text(&image)], &commands), 0);
        assert!(said.lines().any(|line| line == format!("{mebibytes} MiB")), "{said}");
    }
    let small = images.add("small", &[0; 32 << 10]);
    let said = ended(guest(&[text(&small)], "format xvda"), FAILED);
    assert!(
        said.contains("format: the disk has 32768 bytes, and a FAT file system at least 65536"),
        "{said}"
    );
}

fn mounted() {
    let images = Images::new();
    let image = images.add("disk", &vec![0; 4 * MIB]);
    let prepare = "format xvda; mount xvda; write /xvda/note kept; sync; ";
    for command in
        ["dd write xvda 1", "format xvda", "mount xvda", "rounds xvda", "measure write xvda 4 1 1 1"]
    {
        let said = ended(guest(&[text(&image)], &format!("{prepare}{command}")), FAILED);
        assert!(said.contains("xvda is mounted; unmount it first"), "{command}: {said}");
        let said = ended(guest(&[text(&image)], "mount xvda; dd read xvda 1; cat /xvda/note"), 0);
        assert!(said.lines().any(|line| line == "kept"), "{command}: {said}");
    }
    ended(guest(&[text(&image)], &format!("{prepare}unmount xvda; dd write xvda 1")), 0);
    let said = ended(guest(&[text(&image)], "unmount xvda"), FAILED);
    assert!(said.contains("xvda is not mounted"), "{said}");
}

/// Each disk is known by its size.
fn names() {
    const DISKS: usize = 40;
    let images = Images::new();
    let image = |number: usize| images.add(&number.to_string(), &vec![0; (number + 1) << 10]);
    let images: Vec<PathBuf> = (0..DISKS).map(image).collect();
    let disks: Vec<&str> = images.iter().map(|image| text(image)).collect();
    let said = ended(guest(&disks, "disks"), 0);
    let letters = |number: usize| (b'a' + number as u8) as char;
    for number in 0..DISKS {
        let name = match number {
            0..26 => format!("xvd{}", letters(number)),
            _ => format!("xvda{}", letters(number - 26)),
        };
        let line = format!("{name:8} {:>10} KiB", number + 1);
        assert!(said.lines().any(|said| said.starts_with(&line)), "{line:?} is not in {said}");
    }
}

/// Where the file system has no direct access, the refusal is what is tested.
fn direct() {
    let images = Images::new();
    let image = images.add("direct.img", &vec![0; MIB]);
    let disk = format!("{},direct", text(&image));
    let outcome = guest(&[&disk], "dd write xvda; sha256 xvda");
    if outcome.status == Some(0) {
        let bytes = fs::read(&image).expect("the image");
        assert!(outcome.stdout.contains(&hash(&bytes)), "{}", outcome.stdout);
        assert_ne!(bytes[8..MIB], vec![0; MIB - 8]);
    } else {
        eprintln!("not tested here: {}", outcome.stderr);
        assert!(outcome.stderr.contains("direct.img") && outcome.stderr.contains("without direct"));
    }
    let qcow2 = images.add("a.qcow2", &vec![0; MIB]);
    let refused = guest(&[&format!("{},direct", text(&qcow2))], "disks");
    assert!(refused.stderr.contains("direct is for raw images"), "{}", refused.stderr);
}

/// What `paravane bench block` has a guest do finds out where a sector is not what it should be.
fn measured() {
    let images = Images::new();
    let mut bytes = vec![1; MIB];
    for (sector, bytes) in bytes.chunks_mut(SECTOR).enumerate() {
        bytes[..8].copy_from_slice(&(0x5a << 56 | sector as u64).to_le_bytes());
    }
    let image = images.add("marked.img", &bytes);
    let loads = "measure read xvda 4 8 500 1; measure write xvda 64 2 20 2; measure flush xvda 4 1 3 3";
    let output = ended(guest(&[text(&image)], loads), 0);
    assert_eq!(output.matches("measured ").count(), 3, "{output}");
    let written = fs::read(&image).expect("the image");
    assert!(written[..MIB / 2] == bytes[..MIB / 2] && written != bytes, "writes go to the second half");
    for sector in (0..MIB / 2).step_by(SECTOR) {
        bytes[sector] ^= 1;
    }
    fs::write(&image, &bytes).expect("the image");
    let output = ended(guest(&[text(&image)], loads), FAILED);
    assert!(output.contains("measure: sector") && !output.contains("measured"), "{output}");
}

fn read_only() {
    let images = Images::new();
    let before = noise(MIB);
    let image = images.add("disk", &before);
    for commands in ["dd write xvda", "format xvda"] {
        let said = ended(guest(&[&format!("{},ro", text(&image))], commands), FAILED);
        assert!(said.contains("read-only") || said.contains("error"), "{said}");
        assert!(fs::read(&image).expect("the image") == before, "{commands} has changed it");
    }
}

/// The front-end is told to close, as by a toolstack that takes the disk away; then its back-end is there again.
fn reconnected() {
    let images = Images::new();
    let before = noise(MIB);
    let image = images.add("disk", &before);
    let state = "xs write device/vbd/51712/state";
    let commands = format!("dd read xvda; {state} 6; sleep 2; disks; {state} 1; sleep 2; sha256 xvda");
    let said = ended(guest(&[text(&image)], &commands), 0);
    assert!(!said.contains("KiB  "), "it was away: {said}");
    assert!(said.contains(&hash(&before)), "and came back: {said}");
    let said = ended(guest(&[text(&image)], &format!("disks; {state} 6; sleep 2; dd read xvda")), FAILED);
    assert!(said.contains("1024 KiB") && said.contains("dd: no disk xvda; see disks"), "{said}");
}

/// The image that `tests/fixtures/ext4.hex` describes.
fn ext4_image() -> Vec<u8> {
    let mut image = vec![0; 128 << 10];
    let lines = include_str!("fixtures/ext4.hex").lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let (offset, bytes) = line.split_once(' ').expect("offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        for (index, pair) in bytes.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).expect("digits");
            image[offset + index] = u8::from_str_radix(pair, 16).expect("a byte");
        }
    }
    image
}

fn ext4() {
    let images = Images::new();
    let image = images.add("disk", &ext4_image());
    let commands = "mount xvda; ls /xvda; cat /xvda/hello.txt; cat /xvda/empty; sha256 /xvda/link; \
                    sha256 /xvda/directory/numbers; write /xvda/hello.txt x";
    let said = ended(guest(&[text(&image)], commands), FAILED);
    let numbers: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    let numbers = hash(numbers.as_bytes());
    for line in [
        "/xvda: ext4, read-only",
        "          16 hello.txt",
        "           0 empty",
        "hello from ext4",
        &format!("{numbers}  /xvda/link"),
        &format!("{numbers}  /xvda/directory/numbers"),
        "write: /xvda/hello.txt: ext4 is read-only here",
    ] {
        assert!(said.lines().any(|said| said == line), "{line:?} is not in {said}");
    }
}

fn garbage() {
    let images = Images::new();
    // Zeroes, noise, and what looks like ext4 for as long as nobody looks closely.
    let mut broken = ext4_image();
    broken[1024 + 96..2048].fill(0xff);
    for (name, contents) in [("zeroes", vec![0; MIB]), ("noise", noise(MIB)), ("broken", broken)] {
        let image = images.add(name, &contents);
        let said = ended(guest(&[text(&image)], "mount xvda"), FAILED);
        assert!(said.contains("mount: xvda holds no file system: as ext4, "), "{name}: {said}");
    }
    let said = ended(guest(&[], "mount xvdq"), FAILED);
    assert!(said.contains("mount: no disk xvdq"), "{said}");
}

/// The node `control/shutdown` is the guest's own, so it can ask itself.
fn shutdown() {
    let said = ended(guest(&[], "xs write control/shutdown poweroff; sleep 60; crash"), 0);
    assert!(said.contains("the toolstack asks for poweroff"), "{said}");
    let said = ended(guest(&[], "xs write control/shutdown nonsense; sleep 1; xs read control/shutdown"), 0);
    assert!(said.contains("that cannot be done here"), "{said}");
}

/// A guest with a disk whom commands are typed to, and its store, in which somebody else writes too.
struct Session {
    images: Images,
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Session {
    const LIMIT: Duration = Duration::from_secs(60);
    const BACK_END: &str = "/local/domain/0/backend/vbd/1/51712";

    fn new(contents: &[u8]) -> Self {
        let images = Images::new();
        let image = images.add("disk", contents);
        let mut command = paravane(&["run", "--disk", text(&image)]);
        command.env("XDG_RUNTIME_DIR", images.0.path()).stdin(Stdio::piped());
        let mut child = command.spawn().expect("paravane starts");
        let said = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { images, child, said }
    }

    /// Types a command, and reads until a line of the guest's tells that it is done.
    fn type_in(&mut self, command: &str, done: impl Fn(&str) -> bool) -> String {
        writeln!(self.child.stdin.as_ref().expect("stdin is a pipe"), "{command}").expect("it listens");
        let mut line = String::new();
        while !done(line.trim_end()) {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).expect("text"), 0, "it ended, asked for {command}");
        }
        line
    }

    /// The kernel still does what it is told.
    fn is_well(&mut self) {
        self.type_in("uptime", |line| line.starts_with("up "));
    }

    fn xs(&self, arguments: &[&str]) -> Outcome {
        let mut command = paravane(&["xs"]);
        command.args(arguments).env("XDG_RUNTIME_DIR", self.images.0.path());
        finish(command.spawn().expect("paravane starts"))
    }

    /// What the disk's back-end is said to be in.
    fn state(&self) -> String {
        self.xs(&["read", &format!("{}/state", Self::BACK_END)]).stdout.trim_end().into()
    }

    fn say(&self, state: &str) {
        assert_eq!(self.xs(&["write", &format!("{}/state", Self::BACK_END), state]).status, Some(0));
    }

    fn end(self) {
        self.end_with_messages();
    }

    fn end_with_messages(self) -> String {
        writeln!(self.child.stdin.as_ref().expect("stdin is a pipe"), "poweroff").expect("it listens");
        let outcome = finish(self.child);
        assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
        outcome.stderr
    }
}

/// Somebody cuts the image short while it is used. The user is told once, and then how often more.
fn host_errors() {
    let mut session = Session::new(&noise(MIB));
    session.type_in("sha256 xvda", |line| line.ends_with("  xvda"));
    let image = session.images.0.path().join("disk");
    fs::File::options().write(true).open(&image).and_then(|file| file.set_len(64 << 10)).expect("it is cut");
    for _ in 0..20 {
        session.type_in("dd write xvda 1", |line| line.starts_with("dd: ") || line.contains(" bytes in "));
    }
    session.is_well();
    let said = session.end_with_messages();
    let told: Vec<_> = said.lines().filter(|line| line.contains("writing sector")).collect();
    let beginning = format!("paravane: domain guest, disk xvda ({}): writing sector ", image.display());
    assert!(
        told[0].starts_with(&beginning) && told[0].contains("it had 1048576 bytes when it was opened"),
        "{said}"
    );
    assert!(told[0].ends_with("; the guest was told of an error"), "{said}");
    assert!((2..10).contains(&told.len()) && told[1].contains(" more like this since"), "{said}");
}

fn paths() {
    use std::os::unix::ffi::OsStrExt;
    let images = Images::new();
    let contents = noise(MIB);
    for (name, said) in [(&b"a,b,ro"[..], &b"a,,b,,ro"[..]), (b"\xff\xfe.img", b"\xff\xfe.img")] {
        let path = images.0.path().join(std::ffi::OsStr::from_bytes(name));
        fs::write(&path, &contents).expect("an image");
        let mut command = paravane(&["run", "--exec", "sha256 xvda"]);
        let disk = [images.0.path().as_os_str().as_bytes(), b"/", said, b",ro"].concat();
        command.arg("--disk").arg(std::ffi::OsStr::from_bytes(&disk));
        let said = ended(finish(command.spawn().expect("paravane starts")), 0);
        assert!(said.contains(&hash(&contents)), "{said}");
    }
}

/// Every state that there is, and some that there are not, in an order in which no back-end has them.
fn lied_to() {
    let contents = noise(MIB);
    let mut session = Session::new(&contents);
    session.type_in("sha256 xvda", |line| line.ends_with("  xvda"));
    for state in
        ["5", "4", "1", "4", "2", "3", "7", "2", "99999999999", "4294967300", "nonsense", "0", "6", "2", "4"]
    {
        session.say(state);
        session.type_in("dd read xvda", |line| line.starts_with("dd: ") || line.contains(" bytes in "));
        session.is_well();
    }
    // One that is there again, and means it.
    let start = Instant::now();
    let hash = hash(&contents);
    while !session.type_in("sha256 xvda", |line| line.contains("xvda")).contains(&hash) {
        assert!(start.elapsed() < Session::LIMIT, "the disk does not come back; state {}", session.state());
        if session.state() != "4" {
            session.say("2");
        }
        thread::sleep(Duration::from_millis(100));
    }
    session.end();
}

/// Its nodes go, and with them the back-end, while the guest reads.
fn vanished() {
    let mut session = Session::new(&noise(MIB));
    session.type_in("sha256 xvda", |line| line.ends_with("  xvda"));
    assert_eq!(session.xs(&["rm", Session::BACK_END]).status, Some(0));
    let start = Instant::now();
    while !session
        .type_in("dd read xvda", |line| line.starts_with("dd: ") || line.contains(" bytes in "))
        .contains("dd: ")
    {
        assert!(start.elapsed() < Session::LIMIT, "the disk is still there");
    }
    session.is_well();
    session.end();
}
