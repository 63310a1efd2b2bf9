//! The console against front-ends that behave, and front-ends that do not.

use super::*;
use crate::Disconnect;
use crate::driver::{Device, ServiceControl, Sleep, serve_as_told};
use crate::fake_host::{FakeHost, FakePage};
use crate::host::Page;
use pv_abi::io::console::{ConsoleInterface, IN_SIZE, OUT_SIZE};
use pv_abi::{DomId, EventPort, GrantRef};
use std::io::{self, Write};
use std::mem::offset_of;
use std::sync::{Arc, Mutex};

const GUEST: DomId = DomId(1);
const PORT: EventPort = EventPort(2);
const OUT_PROD: usize = offset_of!(ConsoleInterface, out_prod);
const OUT_CONS: usize = offset_of!(ConsoleInterface, out_cons);
const IN_PROD: usize = offset_of!(ConsoleInterface, in_prod);
const IN_CONS: usize = offset_of!(ConsoleInterface, in_cons);

/// Where a test finds what was written.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<(Vec<u8>, u32)>>);

impl Sink {
    fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    fn flushes(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().1 += 1;
        Ok(())
    }
}

struct Setup {
    host: Arc<FakeHost>,
    page: FakePage,
    input: Arc<Input>,
}

impl Setup {
    fn new() -> Self {
        let host = Arc::new(FakeHost::default());
        let page = host.grant(GUEST, GrantRef::CONSOLE);
        host.offer(GUEST, PORT);
        Self { host, page, input: Arc::default() }
    }

    fn console<W: Write>(&self, sink: W) -> Console<FakeHost, W> {
        Console::connect(&self.host, GUEST, GrantRef::CONSOLE, PORT, Arc::clone(&self.input), sink).unwrap()
    }

    /// The front-end writes `text`, which must fit.
    fn say(&self, text: &[u8]) {
        let prod = self.page.peek(OUT_PROD);
        for (byte, index) in text.iter().zip(0..) {
            let offset = prod.wrapping_add(index) % OUT_SIZE;
            self.page.write(IN_SIZE as usize + offset as usize, &[*byte]).unwrap();
        }
        self.page.store_u32(OUT_PROD, prod.wrapping_add(text.len() as u32)).unwrap();
    }

    /// The front-end takes all its input.
    fn hear(&self) -> Vec<u8> {
        let (cons, prod) = (self.page.peek(IN_CONS), self.page.peek(IN_PROD));
        let bytes = self.page.bytes();
        let taken = (0..prod.wrapping_sub(cons)).map(|i| bytes[(cons.wrapping_add(i) % IN_SIZE) as usize]);
        let taken = taken.collect();
        self.page.store_u32(IN_CONS, prod).unwrap();
        taken
    }
}

fn protocol_error(end: Disconnect) -> String {
    match end {
        Disconnect::Protocol(why) => why,
        other => panic!("not a protocol error: {other:?}"),
    }
}

#[test]
fn output_goes_to_the_sink_and_input_to_the_guest() {
    let setup = Setup::new();
    let sink = Sink::default();
    let mut console = setup.console(sink.clone());
    assert!(!console.serve().unwrap(), "nothing to do yet");
    assert_eq!(setup.host.notifications(GUEST, PORT), 0);
    setup.say(b"hello");
    setup.input.push(b"help\n");
    assert!(console.serve().unwrap());
    assert_eq!((sink.written(), setup.hear()), (b"hello".to_vec(), b"help\n".to_vec()));
    assert_eq!(setup.page.peek(OUT_CONS), 5);
    assert_eq!(setup.host.notifications(GUEST, PORT), 1);
}

#[test]
fn both_rings_wrap_and_take_no_more_than_they_hold() {
    let setup = Setup::new();
    for (offset, index) in
        [(OUT_PROD, u32::MAX - 2), (OUT_CONS, u32::MAX - 2), (IN_PROD, 1020), (IN_CONS, 1020)]
    {
        setup.page.store_u32(offset, index).unwrap();
    }
    let sink = Sink::default();
    let mut console = setup.console(sink.clone());
    let text: Vec<u8> = (0..OUT_SIZE).map(|i| i as u8).collect();
    setup.say(&text);
    let typed: Vec<u8> = (0..1500).map(|i| (i / 7) as u8).collect();
    setup.input.push(&typed);
    assert!(console.serve().unwrap());
    assert_eq!(sink.written(), text);
    let mut heard = setup.hear();
    assert_eq!(heard.len(), IN_SIZE as usize);
    assert!(console.serve().unwrap());
    heard.extend(setup.hear());
    assert_eq!(heard, typed);
}

#[test]
fn an_output_index_that_lies_disconnects_with_a_reason() {
    for lie in [OUT_SIZE + 1, u32::MAX, 1 << 31] {
        let setup = Setup::new();
        setup.page.store_u32(OUT_PROD, lie).unwrap();
        let why = protocol_error(setup.console(io::sink()).serve().unwrap_err());
        assert_eq!(why, format!("the output ring's indices do not fit: produced {lie}, consumed 0"));
    }
}

#[test]
fn an_input_index_that_lies_disconnects_with_a_reason() {
    for lie in [1, u32::MAX - IN_SIZE, 1 << 31] {
        let setup = Setup::new();
        setup.input.push(b"x");
        setup.page.store_u32(IN_CONS, lie).unwrap();
        let why = protocol_error(setup.console(io::sink()).serve().unwrap_err());
        assert_eq!(why, format!("the input ring's indices do not fit: produced 0, consumed {lie}"));
    }
}

/// An index that passes a check and is then read again can be anything the second time.
#[test]
fn an_index_that_changes_under_our_eyes_is_read_once() {
    let setup = Setup::new();
    setup.page.script(OUT_PROD, [3, 1_000_000]);
    setup.page.script(IN_CONS, [0, 1_000_000]);
    setup.input.push(b"x");
    let sink = Sink::default();
    let mut console = setup.console(sink.clone());
    assert!(console.serve().unwrap());
    assert_eq!(sink.written().len(), 3);
    assert_eq!((setup.page.loads(OUT_PROD), setup.page.loads(IN_CONS)), (1, 1));
}

/// The back-end's own indices are the back-end's: what a front-end writes over them changes nothing.
#[test]
fn our_own_indices_are_not_read_back() {
    let setup = Setup::new();
    let sink = Sink::default();
    let mut console = setup.console(sink.clone());
    setup.say(b"one");
    console.serve().unwrap();
    for index in [OUT_CONS, IN_PROD] {
        setup.page.store_u32(index, 0xdead_beef).unwrap();
    }
    setup.say(b"two");
    setup.input.push(b"x");
    assert!(console.serve().unwrap());
    assert_eq!(sink.written(), b"onetwo");
    assert_eq!((setup.page.peek(OUT_CONS), setup.page.peek(IN_PROD)), (6, 1));
}

/// Every pair of scripted indices out of a nasty set: the console is served or disconnected, and lives.
#[test]
fn no_sequence_of_indices_makes_it_panic() {
    let nasty = [0, 1, IN_SIZE, OUT_SIZE, OUT_SIZE + 1, 1 << 31, u32::MAX - 1, u32::MAX];
    for start in nasty {
        for out_prod in nasty {
            for in_cons in nasty {
                let setup = Setup::new();
                setup.input.push(&[b'x'; 2000]);
                setup.page.store_u32(OUT_CONS, start).unwrap();
                setup.page.store_u32(IN_PROD, start).unwrap();
                setup.page.script(OUT_PROD, [out_prod, start]);
                setup.page.script(IN_CONS, [in_cons, out_prod]);
                let sink = Sink::default();
                let mut console = setup.console(sink.clone());
                while let Ok(true) = console.serve() {
                    assert!(sink.written().len() <= 8 * OUT_SIZE as usize);
                }
            }
        }
    }
}

#[test]
fn a_page_or_port_that_is_not_there_is_an_error() {
    let setup = Setup::new();
    let connect = |reference, port| {
        let console =
            Console::connect(&setup.host, GUEST, reference, port, Arc::clone(&setup.input), io::sink());
        console.map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(connect(GrantRef(7), PORT), "d1 grants nothing by GrantRef(7)");
    assert_eq!(connect(GrantRef::CONSOLE, EventPort(9)), "d1 offers no EventPort(9)");
    let mut console = setup.console(io::sink());
    setup.page.take_away();
    let end = console.serve().unwrap_err();
    assert!(matches!(end, Disconnect::Host(_)), "{end:?}");
}

#[test]
fn a_sink_that_breaks_ends_the_console() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let setup = Setup::new();
    setup.say(b"text");
    let end = serve(setup.console(Broken)).unwrap_err();
    assert!(
        matches!(&end, Disconnect::Output(error) if error.kind() == io::ErrorKind::BrokenPipe),
        "{end:?}"
    );
}

/// As a thread of its own does, until it is told to stop.
fn serve(mut console: Console<FakeHost, impl Write + Send>) -> Result<(), Disconnect> {
    let control = ServiceControl::new(Arc::clone(console.bell()));
    serve_as_told(&mut console, &control)
}

/// A prompt is shown once it was quiet for a while, and a flush is not repeated.
#[test]
fn a_quiet_front_end_s_output_is_flushed_once() {
    let (setup, sink) = (Setup::new(), Sink::default());
    let mut console = setup.console(sink.clone());
    assert_eq!(console.prepare_to_sleep().unwrap(), Sleep::UntilRung);
    setup.say(b"> ");
    assert!(console.serve().unwrap());
    while let Sleep::AtMost(limit) = console.prepare_to_sleep().unwrap() {
        assert_eq!(sink.flushes(), 0);
        std::thread::sleep(limit);
    }
    assert_eq!((sink.flushes(), console.prepare_to_sleep().unwrap()), (1, Sleep::UntilRung));
    assert_eq!(sink.flushes(), 1);
}

/// One that always has more to say does not keep its console from stopping.
#[test]
fn a_console_is_quiet_after_what_was_there() {
    let (setup, sink) = (Setup::new(), Sink::default());
    let mut console = setup.console(sink.clone());
    setup.page.script(OUT_PROD, [100, 200, 300]);
    console.quiesce().unwrap();
    assert_eq!((sink.written().len(), sink.flushes()), (100, 1));
}

/// Output that is told of by a notification only, with the console asleep in between; then input; then a stop
/// right after the last words, which are not lost.
#[test]
fn a_running_console_sleeps_wakes_and_writes_the_last_words() {
    let wait_for = |what: &dyn Fn() -> bool| {
        let start = std::time::Instant::now();
        while !what() {
            assert!(start.elapsed().as_secs() < 10, "the console does not wake up");
            std::thread::yield_now();
        }
    };
    let (setup, sink) = (Setup::new(), Sink::default());
    let control = &ServiceControl::new(Arc::clone(setup.input.bell()));
    let mut expected = Vec::new();
    std::thread::scope(|scope| {
        let mut console = setup.console(sink.clone());
        let running = scope.spawn(move || serve_as_told(&mut console, control));
        for round in 0..200u32 {
            let line = format!("line {round}\n");
            setup.say(line.as_bytes());
            expected.extend(line.as_bytes());
            setup.host.notify_backend(GUEST, PORT);
            wait_for(&|| sink.written() == expected);
        }
        setup.input.push(b"typed");
        wait_for(&|| setup.page.peek(IN_PROD) == 5);
        setup.say(b"last words");
        control.stop();
        running.join().unwrap().unwrap();
    });
    expected.extend(b"last words");
    assert_eq!(sink.written(), expected);
}
