//! Console input: from events to a queue of bytes.

use alloc::collections::VecDeque;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_abi::event_channel::Virq;

use super::{CONSOLE, Console, emergency};
use crate::event::{self, Port};
use crate::sched::executor;
use crate::sync::Local;

const CONTROL_C: u8 = 3;
/// Bytes that wait at most; what is typed beyond that is lost.
const LIMIT: usize = 4096;

struct Input {
    bytes: VecDeque<u8>,
    interrupts: u64,
    wakers: alloc::vec::Vec<Waker>,
}

static INPUT: Local<Input> =
    Local::new(Input { bytes: VecDeque::new(), interrupts: 0, wakers: alloc::vec::Vec::new() });

/// Starts the task that collects input.
pub fn listen() {
    let port = CONSOLE.with(|console| match console {
        Console::Ring(ring) => Some(Port::adopt(ring.port())),
        Console::Emergency => event::bind_virq(Virq::CONSOLE).ok(),
    });
    // Without a port there is no input, and nothing to do about it.
    if let Some(port) = port {
        executor::spawn("console", collect(port));
    }
}

async fn collect(port: Port) {
    loop {
        CONSOLE.with(|console| match console {
            Console::Ring(ring) => ring.read(receive),
            Console::Emergency => emergency::read(receive),
        });
        port.wait().await;
    }
}

fn receive(bytes: &[u8]) {
    INPUT.with(|input| {
        for byte in bytes {
            if *byte == CONTROL_C {
                input.interrupts += 1;
            }
            if input.bytes.len() < LIMIT {
                input.bytes.push_back(*byte);
            }
        }
        input.wakers.drain(..).for_each(Waker::wake);
    });
}

/// The next byte typed.
pub async fn next_byte() -> u8 {
    poll_fn(|context| {
        INPUT.with(|input| match input.bytes.pop_front() {
            Some(byte) => Poll::Ready(byte),
            None => {
                input.wakers.push(context.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

/// Waits until Ctrl-C is typed from now on. Everything typed up to it is dropped.
pub async fn interrupted() {
    let before = INPUT.with(|input| input.interrupts);
    poll_fn(|context| {
        INPUT.with(|input| {
            if input.interrupts != before {
                let behind =
                    input.bytes.iter().rposition(|byte| *byte == CONTROL_C).map_or(0, |last| last + 1);
                input.bytes.drain(..behind);
                return Poll::Ready(());
            }
            input.wakers.push(context.waker().clone());
            Poll::Pending
        })
    })
    .await;
}
