//! What the process makes of guests that do harm: they are stopped or refused, and its exit status says what
//! happened.

use crate::support::terminal::Terminal;
use crate::support::{Outcome, finish, needs_kvm, paravane, run};
use crate::tiny_guest::{CODE, Random, TinyGuest};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::time::{Duration, Instant};

const FINE: i32 = 0;
const CRASHED: i32 = 3;
const FAILED: i32 = 4;

pub fn tests() -> Vec<Trial> {
    vec![
        needs_kvm("process/a tiny guest powers off", tiny_guest_powers_off),
        needs_kvm("process/garbage crashes its domain", garbage),
        needs_kvm("process/a fault without handlers crashes its domain", faults),
        needs_kvm("process/a wild stack crashes its domain", wild_stack),
        needs_kvm("process/wild pointers to every hypercall are refused", wild_pointers),
        needs_kvm("process/a console ring that lies is disconnected", lying_console),
        needs_kvm("process/a loop with events masked ends by a signal", endless_loop),
        needs_kvm("process/a flood of output that nobody reads ends by a signal", floods),
        needs_kvm("process/a flood that nobody reads does not stop a neighbour", flood_beside_a_neighbour),
        needs_kvm("process/a kernel that reboots for ever ends by a signal", endless_reboots),
        needs_kvm("process/a kernel that reboots for ever is given up", reboots_given_up),
    ]
}

/// `mov eax, 29 (sched_op); mov edi, 2 (shutdown); push REASON; mov rsi, rsp; syscall; ud2`
fn shutdown(reason: u8) -> Vec<u8> {
    let mut code = vec![0xb8, 29, 0, 0, 0, 0xbf, 2, 0, 0, 0, 0x6a, reason, 0x48, 0x89, 0xe6, 0x0f, 0x05];
    code.extend([0x0f, 0x0b]);
    code
}

const POWEROFF: u8 = 0;
const REBOOT: u8 = 1;

fn boot(code: &[u8]) -> Outcome {
    let guest = TinyGuest::new(code);
    run(&["--kernel", guest.name(), "--memory", "8M"])
}

#[track_caller]
fn assert_ended(outcome: &Outcome, status: i32, words: &[&str]) {
    assert_eq!(outcome.status, Some(status), "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
    }
}

fn tiny_guest_powers_off() {
    assert_ended(&boot(&shutdown(POWEROFF)), FINE, &["powered off"]);
}

fn garbage() {
    let rip = format!("rip {:#018x}", CODE);
    assert_ended(&boot(&[0x0f, 0x0b]), CRASHED, &["INVALID_OPCODE", &rip]); // ud2
    assert_ended(&boot(&[0xff; 64]), CRASHED, &["crashed"]);
    assert_ended(&boot(&Random::new(1).bytes(4096)), CRASHED, &["crashed", "rip", "#0"]);
    assert_ended(&boot(&[0; 64]), CRASHED, &["crashed"]); // add [rax], al
}

fn faults() {
    for (code, what) in [
        (&[0xf4][..], "GENERAL_PROTECTION"),                               // hlt
        (&[0xb8, 0xad, 0xde, 0, 0, 0x8e, 0xd8], "GENERAL_PROTECTION"),     // mov eax, 0xdead; mov ds, eax
        (&[0x31, 0xc9, 0xf7, 0xf1], "DIVIDE"),                             // xor ecx, ecx; div ecx
        (&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x70, 0xff, 0xe0], "crashed"), // mov rax, 7 << 60; jmp rax
        (&[0x48, 0x31, 0xc0, 0x48, 0x8b, 0x00], "PAGE_FAULT at 0x0 (read, not mapped"), // xor rax, rax; mov rax, [rax]
    ] {
        assert_ended(&boot(code), CRASHED, &[what]);
    }
}

fn wild_stack() {
    // xor esp, esp; push rax. Then a stack that is not canonical, and a fault on it.
    assert_ended(&boot(&[0x31, 0xe4, 0x50]), CRASHED, &["crashed"]);
    let noncanonical = [0x48, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0x70, 0x0f, 0x0b]; // mov rsp, 7 << 60; ud2
    assert_ended(&boot(&noncanonical), CRASHED, &["crashed"]);
}

/// All hypercalls from 0 to 63 with all six arguments wild, but for `iret`, which would rightly crash it.
fn wild_pointers() {
    for wild in [0xdead_0000_u64, 0xffff_8000_0000_0000, 0x7000_0000_0000_0000, u64::MAX - 7, 0] {
        let mut code = vec![0x45, 0x31, 0xe4]; // xor r12d, r12d
        let again = code.len();
        code.extend([0x41, 0x83, 0xfc, 23, 0x74, 0]); // cmp r12d, 23; je skip
        let skip = code.len();
        code.extend([0x48, 0xbf]); // mov rdi, wild
        code.extend(wild.to_le_bytes());
        code.extend([0x48, 0x89, 0xfe, 0x48, 0x89, 0xfa]); // mov rsi, rdi; mov rdx, rdi
        code.extend([0x49, 0x89, 0xfa, 0x49, 0x89, 0xf8, 0x49, 0x89, 0xf9]); // mov r10, rdi; r8; r9
        code.extend([0x44, 0x89, 0xe0, 0x0f, 0x05]); // mov eax, r12d; syscall
        code[skip - 1] = (code.len() - skip) as u8;
        code.extend([0x41, 0xff, 0xc4, 0x41, 0x83, 0xfc, 64]); // inc r12d; cmp r12d, 64
        let back = again as i64 - (code.len() as i64 + 2);
        code.extend([0x75, back as i8 as u8]); // jne again
        code.extend(shutdown(POWEROFF));
        assert_ended(&boot(&code), FINE, &["powered off", "64 hypercalls"]);
    }
}

/// A front-end whose output index says more than its ring holds. It loses its console and nothing else.
fn lying_console() {
    const PAGE: u32 = 4096;
    const OUT_PROD: u32 = 3084;
    // The console page is the second one behind start_info (RSI); its port is start_info.console_evtchn.
    let mut code = vec![0xc7, 0x86]; // mov dword [rsi + disp32], imm32
    code.extend((2 * PAGE + OUT_PROD).to_le_bytes());
    code.extend(1_000_000u32.to_le_bytes());
    code.extend([0x8b, 0x46, 80, 0x50]); // mov eax, [rsi + 80]; push rax
    code.extend([0xb8, 32, 0, 0, 0, 0xbf, 4, 0, 0, 0, 0x48, 0x89, 0xe6, 0x0f, 0x05]); // event_channel_op(send)
    // A while of yielding, so that the back-end looks before the end: mov r12d, 1000; sched_op(yield)
    code.extend([0x41, 0xbc, 0xe8, 3, 0, 0]);
    code.extend([0xb8, 29, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x41, 0xff, 0xcc, 0x75, 0xf2]);
    code.extend(shutdown(POWEROFF));
    assert_ended(&boot(&code), FINE, &["console is disconnected", "produced 1000000", "powered off"]);
}

/// Starts a kernel that never ends, and sends SIGTERM once it has run for a while. It does not shut down within `grace`
/// seconds.
fn terminate(code: &[u8], grace: &str) -> (TinyGuest, Child) {
    let guest = TinyGuest::new(code);
    let arguments = ["--grace", grace, "--kernel", guest.name()];
    let mut child = paravane(&arguments).spawn().expect("paravane starts");
    let (mut seen, mut byte) = (Vec::new(), [0]);
    let stderr = child.stderr.as_mut().expect("a pipe");
    while !seen.ends_with(b"hypercalls by") {
        stderr.read_exact(&mut byte).expect("its title");
        seen.extend(byte);
    }
    std::thread::sleep(Duration::from_millis(500));
    kill(&child, Signal::TERM);
    (guest, child)
}

fn kill(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    kill_process(pid, signal).expect("it still runs");
}

fn endless_loop() {
    let code = [0xeb, 0xfe]; // jmp $; upcalls are masked from the start
    let (_guest, child) = terminate(&code, "1");
    let told =
        ["SIGTERM: asked to shut down", "not shut down within 1 s", "ended by SIGTERM: the guest was ended"];
    assert_ended(&finish(child), 128 + 15, &told);
    // Nobody waits so long: the second one ends it.
    let (_guest, child) = terminate(&code, "3600");
    std::thread::sleep(Duration::from_millis(200));
    kill(&child, Signal::INT);
    assert_ended(
        &finish(child),
        128 + 15,
        &["SIGINT: ended at once", "ended by SIGTERM: the guest was ended"],
    );
}

/// Ends it by a signal while nobody reads what it writes.
#[track_caller]
fn end_unread(code: &[u8]) {
    let (_guest, mut child) = terminate(code, "0");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not end while its output is not read");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ended(&finish(child), 128 + 15, &[]);
}

/// Writes to the emergency console for ever.
fn flood_by_hypercall() -> Vec<u8> {
    // mov rdx, CODE; xor edi, edi; mov esi, 4096; mov eax, 18; syscall; jmp to the start
    let mut code = vec![0x48, 0xba];
    code.extend(CODE.to_le_bytes());
    code.extend([0x31, 0xff, 0xbe, 0, 16, 0, 0, 0xb8, 18, 0, 0, 0, 0x0f, 0x05, 0xeb, 0]);
    let end = code.len();
    code[end - 1] = (256 - end) as u8;
    code
}

/// Fills the console's ring for ever.
fn flood_by_ring() -> Vec<u8> {
    // mov rbp, rsi: start_info; and then, for ever: mov eax, [rbp + out_cons]; add eax, 2048; mov [rbp + out_prod], eax
    let mut code = vec![0x48, 0x89, 0xf5];
    let start = code.len();
    code.extend([0x8b, 0x85]);
    code.extend((2 * 4096 + 3080u32).to_le_bytes());
    code.extend([0x05, 0, 8, 0, 0, 0x89, 0x85]);
    code.extend((2 * 4096 + 3084u32).to_le_bytes());
    // mov eax, [rbp + console_evtchn]; push rax; event_channel_op(send, rsp); pop rax; jmp
    code.extend([
        0x8b, 0x45, 80, 0x50, 0xb8, 32, 0, 0, 0, 0xbf, 4, 0, 0, 0, 0x48, 0x89, 0xe6, 0x0f, 0x05, 0x58,
    ]);
    code.extend([0xeb, 0]);
    let end = code.len();
    code[end - 1] = (256 - (end - start)) as u8;
    code
}

fn floods() {
    end_unread(&flood_by_hypercall());
    end_unread(&flood_by_ring());
}

/// Nobody reads what a guest floods stdout with. On the same pcpu another one powers off, which is told, and then the key
/// that leaves ends the flooder.
fn flood_beside_a_neighbour() {
    for code in [flood_by_hypercall(), flood_by_ring()] {
        let guest = TinyGuest::new(&code);
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name).with_extension("toml");
            std::fs::write(&path, format!("memory = '32M'\n{text}\n")).expect("a file");
            path.to_str().expect("a path in UTF-8").to_owned()
        };
        let flood = file("flood", &format!("kernel = '{}'", guest.name()));
        let neighbour = file("neighbour", "exec = 'sleep 2; version; poweroff'");
        let mut terminal = Terminal::open();
        let mut child = terminal.session(&["run", &flood, &neighbour]);
        // Held, and never read.
        let _stdout = child.stdout.take();
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut lines = stderr.lines().map_while(Result::ok);
        let ended = lines.find(|line| line.starts_with("neighbour: powered off"));
        assert!(ended.is_some(), "the neighbour has not ended");
        terminal.keyboard.write_all(b"\x1d").expect("a key");
        let rest: Vec<_> = lines.collect();
        let status = child.wait().expect("a child");
        assert_eq!(status.code(), Some(FINE), "{rest:?}");
        assert!(rest.iter().any(|line| line.starts_with("flood: left after")), "{rest:?}");
        terminal.assert_restored();
    }
}

fn endless_reboots() {
    end_unread(&shutdown(REBOOT));
}

/// It is started again later and later, and then no more.
fn reboots_given_up() {
    let outcome = boot(&shutdown(REBOOT));
    assert_ended(&outcome, FAILED, &["rebooted 9 times in a row", "it is not started again"]);
    assert_eq!(outcome.stderr.matches("it is started again in").count(), 7, "{}", outcome.stderr);
}
