//! A ring whose ends sleep: each puts what it has while the other asks for a notification.

use concurrency_tests::every_interleaving;
use concurrency_tests::machine::{MachineMemory, NoSuchFrame};
use pv_abi::Mfn;
use pv_abi::ring::{BackRing, FrontRing, REQ_EVENT, RingError, RingMemory, SLOTS, index};
use shuttle::sync::mpsc::{Receiver, channel};
use shuttle::thread;
use std::sync::Arc;

/// Room for two slots of 4 bytes.
const BYTES: usize = SLOTS + 8;

/// The page that the ring lies in.
#[derive(Clone)]
struct Page(Arc<MachineMemory>);

impl RingMemory for Page {
    type Error = NoSuchFrame;

    fn load_u32(&self, offset: usize) -> Result<u32, NoSuchFrame> {
        self.0.load_u32(Mfn(0), offset)
    }

    fn store_u32(&self, offset: usize, value: u32) -> Result<(), NoSuchFrame> {
        self.0.store_u32(Mfn(0), offset, value)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.0.read(Mfn(0), offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), NoSuchFrame> {
        self.0.write(Mfn(0), offset, from)
    }
}

type Front = FrontRing<Page, u32, u32>;
type Back = BackRing<Page, u32, u32>;
type Outcome<T> = Result<T, RingError<NoSuchFrame>>;

fn ring() -> (Page, Front, Back) {
    let page = Page(Arc::new(MachineMemory::new(1)));
    let front = Front::initialise(page.clone(), BYTES).unwrap();
    let back = Back::attach(page.clone(), BYTES).unwrap();
    assert_eq!(back.slots(), 2);
    (page, front, back)
}

/// Sleeps until the peer notifies, also if it did before. A peer that is done notifies no more.
fn sleep(notifications: &Receiver<()>) {
    notifications.recv().expect("asleep for ever");
}

/// The back-end's thread: takes requests 1 and 2, and sleeps where there is none.
fn take_both(back: &mut Back, notifications: &Receiver<()>, ask: fn(&mut Back) -> Outcome<bool>) {
    let mut taken = 0;
    while taken < 2 {
        for _ in 0..back.waiting().unwrap() {
            taken += 1;
            assert_eq!(back.take().unwrap(), taken, "a request was lost, came twice or was not there yet");
        }
        if taken < 2 && !ask(back).unwrap() {
            sleep(notifications);
        }
    }
}

/// The front-end sends requests one by one while the back-end takes them, and goes to sleep as `ask` says.
fn requests(publish: fn(&mut Front, &Page) -> Outcome<bool>, ask: fn(&mut Back) -> Outcome<bool>) {
    every_interleaving("requests", move || {
        let (page, mut front, mut back) = ring();
        let (bell, notifications) = channel();
        let taker = thread::spawn(move || take_both(&mut back, &notifications, ask));
        for request in 1..=2 {
            front.put(&request).unwrap();
            if publish(&mut front, &page).unwrap() {
                let _ = bell.send(()); // it may have taken both by now, and be gone
            }
        }
        drop(bell);
        taker.join().unwrap();
    });
}

fn publish(front: &mut Front, _: &Page) -> Outcome<bool> {
    front.publish()
}

#[test]
fn no_request_is_slept_through_lost_or_read_early() {
    requests(publish, Back::ask_for_notification);
}

/// The test above can fail: an end that looks before it asks sleeps through what came in between.
#[test]
#[should_panic(expected = "asleep for ever")]
fn a_back_end_that_looks_before_it_asks_is_caught() {
    requests(publish, |back| {
        let waits = back.waiting()? != 0;
        back.ask_for_notification()?;
        Ok(waits)
    });
}

/// And so does one whose peer looks whether it shall notify before it publishes.
#[test]
#[should_panic(expected = "asleep for ever")]
fn a_front_end_that_looks_before_it_publishes_is_caught() {
    requests(
        |front, page| {
            let event = page.load_u32(REQ_EVENT)?;
            let before = front.outstanding() - 1;
            front.publish()?;
            Ok(index::must_notify(before, front.outstanding(), event))
        },
        Back::ask_for_notification,
    );
}

/// The same towards the front-end, which waits for both of its answers.
#[test]
fn no_response_is_slept_through_lost_or_read_early() {
    responses(Front::ask_for_notification);
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn a_front_end_that_looks_before_it_asks_is_caught() {
    responses(|front| {
        let waits = front.waiting()? != 0;
        front.ask_for_notification()?;
        Ok(waits)
    });
}

/// The back-end answers two requests one by one while the front-end takes the answers.
fn responses(ask: fn(&mut Front) -> Outcome<bool>) {
    every_interleaving("responses", move || {
        let (_, mut front, mut back) = ring();
        (1..=2).for_each(|request| front.put(&request).unwrap());
        front.publish().unwrap();
        let requests = [back.take().unwrap(), back.take().unwrap()];
        let (bell, notifications) = channel();
        let server = thread::spawn(move || {
            for request in requests {
                back.put(&(request + 10)).unwrap();
                if back.publish().unwrap() {
                    let _ = bell.send(());
                }
            }
        });
        let mut taken = 0;
        while taken < 2 {
            while let Some(response) = front.take().unwrap() {
                taken += 1;
                assert_eq!(response, taken + 10, "a response was lost, came twice or was not there yet");
            }
            if taken < 2 && !ask(&mut front).unwrap() {
                sleep(&notifications);
            }
        }
        server.join().unwrap();
    });
}
