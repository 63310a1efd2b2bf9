//! Console input: from events to a queue of bytes.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_abi::event_channel::Virq;

use super::{CONSOLE, Console, emergency};
use crate::event::{self, Port};
use crate::sched::executor;
use crate::sched::future::note;
use crate::sync::Local;

const CONTROL_C: u8 = 3;
/// Bytes that wait here at most; further ones wait at the other side.
const LIMIT: usize = 4096;

struct Input {
    bytes: VecDeque<u8>,
    interrupts: u64,
    /// Wakers of the tasks that wait for the next byte.
    readers: Vec<Waker>,
    /// The collecting task, while it waits for room.
    collector: Option<Waker>,
}

static INPUT: Local<Input> =
    Local::new(Input { bytes: VecDeque::new(), interrupts: 0, readers: Vec::new(), collector: None });

/// Starts the task that collects input.
pub fn listen() {
    let port = CONSOLE.with(|console| match console {
        Console::Ring { ring, .. } => Some(Port::adopt(ring.port())),
        Console::Emergency => event::bind_virq(Virq::CONSOLE).ok(),
    });
    // Without a port there is no input, and nothing to do about it.
    if let Some(port) = port {
        executor::spawn("console", collect(port));
    }
}

async fn collect(port: Port) {
    loop {
        let room = INPUT.with(|input| LIMIT - input.bytes.len());
        CONSOLE.with(|console| match console {
            Console::Ring { ring, .. } => ring.read(room, receive),
            Console::Emergency => emergency::read(room, receive),
        });
        if INPUT.with(|input| input.bytes.len() == LIMIT) {
            room_again().await;
        } else {
            port.wait().await;
        }
    }
}

/// Waits until half of what is waiting has been taken.
async fn room_again() {
    poll_fn(|context| {
        INPUT.with(|input| {
            if input.bytes.len() <= LIMIT / 2 {
                return Poll::Ready(());
            }
            input.collector = Some(context.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

fn receive(bytes: &[u8]) {
    INPUT.with(|input| {
        input.interrupts += bytes.iter().filter(|byte| **byte == CONTROL_C).count() as u64;
        input.bytes.extend(bytes);
        input.readers.drain(..).for_each(Waker::wake);
    });
}

/// Takes the next byte that was typed, or waits for one.
pub async fn next_byte() -> u8 {
    poll_fn(|context| {
        INPUT.with(|input| match input.bytes.pop_front() {
            Some(byte) => {
                if input.bytes.len() <= LIMIT / 2 {
                    input.collector.take().into_iter().for_each(Waker::wake);
                }
                Poll::Ready(byte)
            }
            None => {
                note(&mut input.readers, context);
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
                input.collector.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(());
            }
            note(&mut input.readers, context);
            Poll::Pending
        })
    })
    .await;
}
