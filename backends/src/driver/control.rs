//! What the thread that serves a device is told to do.
//!
//! ```text
//!   serve ──pause──▶ pause ──stop──▶ stop
//!   │   ◀──resume──┘                   ▲
//!   └───────────────stop───────────────┘
//! ```
//! Whoever pauses a thread waits until it has finished what it began and sleeps, so that nothing of its front-end is
//! touched from then on. Whatever rings the bell meanwhile is heard when the thread goes on.

use crate::bell::Bell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a thread is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    /// Serve its device, and sleep while there is nothing to do.
    #[default]
    Serve,
    /// Finish what it began, and sleep until it is told otherwise.
    Pause,
    /// Finish what it began, and end.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    command: Command,
    /// The thread sleeps in [`ServiceControl::park`].
    parked: bool,
    /// There is no thread any more.
    ended: bool,
}

/// Between a thread that serves a device, and whoever started it.
#[derive(Debug)]
pub struct ServiceControl {
    bell: Arc<Bell>,
    state: Mutex<State>,
    changed: Condvar,
    /// The command is another than to serve: what a busy thread looks at without the lock.
    interrupted: AtomicBool,
}

impl ServiceControl {
    /// For a thread that sleeps until `bell` is rung. It is told to serve.
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { bell, state: Mutex::default(), changed: Condvar::new(), interrupted: AtomicBool::new(false) }
    }

    /// What wakes the thread.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread is to do.
    pub fn command(&self) -> Command {
        self.state().command
    }

    /// Whether it is to do anything but serve. Takes no lock.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    fn tell(&self, state: &mut State, command: Command) {
        state.command = command;
        self.interrupted.store(command != Command::Serve, Ordering::SeqCst);
        self.changed.notify_all();
        self.bell.ring();
    }

    /// Tells the thread to pause, and waits until it does: as long as what it began takes. True where it pauses; false
    /// where it ends, or [`Self::resume`] came before.
    pub fn pause(&self) -> bool {
        let mut state = self.state();
        if state.command == Command::Serve {
            self.tell(&mut state, Command::Pause);
        }
        let working = |state: &mut State| state.command == Command::Pause && !state.parked && !state.ended;
        let state = self.changed.wait_while(state, working).unwrap_or_else(PoisonError::into_inner);
        state.command == Command::Pause && state.parked
    }

    /// Lets a thread that was told to pause serve again.
    pub fn resume(&self) {
        let mut state = self.state();
        if state.command == Command::Pause {
            state.parked = false; // whoever pauses it next waits for it anew
            self.tell(&mut state, Command::Serve);
        }
    }

    /// Tells the thread to stop, also one that pauses.
    pub fn stop(&self) {
        self.tell(&mut self.state(), Command::Stop);
    }

    /// The thread has finished what it began: it sleeps until it is told to go on, or to stop.
    pub fn park(&self) {
        let mut state = self.state();
        state.parked = true;
        self.changed.notify_all();
        let pauses = |state: &mut State| state.parked && state.command == Command::Pause;
        let mut state = self.changed.wait_while(state, pauses).unwrap_or_else(PoisonError::into_inner);
        state.parked = false;
    }

    /// The thread ends: nobody waits for it to pause.
    pub fn ended(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::wait_until;
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// A thread that has work at any time: how often it did some, and how often it was quiet.
    #[derive(Default)]
    struct Worker {
        worked: AtomicU32,
        quiet: AtomicU32,
    }

    impl Worker {
        fn serve(&self, control: &ServiceControl) {
            loop {
                match control.command() {
                    Command::Serve => drop(self.worked.fetch_add(1, Ordering::SeqCst)),
                    Command::Pause => {
                        self.quiet.fetch_add(1, Ordering::SeqCst);
                        control.park();
                    }
                    Command::Stop => return control.ended(),
                }
            }
        }

        fn worked(&self) -> u32 {
            self.worked.load(Ordering::SeqCst)
        }
    }

    /// Stops the thread also where a test fails: whoever joins it does not wait for ever.
    struct Stop<'a>(&'a ServiceControl);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop();
        }
    }

    #[test]
    fn who_pauses_does_nothing_until_it_goes_on() {
        let (control, worker) = (ServiceControl::new(Arc::default()), Worker::default());
        thread::scope(|scope| {
            let _stop = Stop(&control);
            scope.spawn(|| worker.serve(&control));
            for _ in 0..100 {
                assert!(control.pause() && control.pause(), "again is as once");
                let before = worker.worked();
                thread::yield_now();
                assert_eq!(worker.worked(), before);
                control.resume();
                wait_until(|| worker.worked() > before, "work");
            }
            assert!(control.pause(), "it can be stopped while it pauses");
        });
        assert!(!control.pause(), "it has ended");
        control.resume();
        assert_eq!((control.command(), control.is_interrupted()), (Command::Stop, true), "and stays so");
    }

    /// A thread that goes on and is paused at once has not woken in between, and is quiet anew all the same.
    #[test]
    fn each_pause_finds_the_thread_quiet() {
        let (control, worker) = (ServiceControl::new(Arc::default()), Worker::default());
        thread::scope(|scope| {
            let _stop = Stop(&control);
            scope.spawn(|| worker.serve(&control));
            for pauses in 1..=1000 {
                assert!(control.pause());
                assert_eq!(worker.quiet.load(Ordering::SeqCst), pauses);
                control.resume();
            }
        });
    }

    /// Whoever waits for a thread to pause is not left waiting when it ends, or is told to go on.
    #[test]
    fn nobody_waits_for_a_pause_that_will_not_come() {
        for end in [ServiceControl::resume, ServiceControl::stop, ServiceControl::ended] {
            let control = Arc::new(ServiceControl::new(Arc::default()));
            let (paused, (answer, answered)) = (Arc::clone(&control), mpsc::channel());
            thread::spawn(move || answer.send(paused.pause()));
            wait_until(|| control.command() == Command::Pause, "the command");
            end(&control);
            assert_eq!(answered.recv_timeout(Duration::from_secs(60)), Ok(false));
        }
    }

    #[test]
    fn each_command_rings() {
        let control = ServiceControl::new(Arc::default());
        let heard = || control.bell().listen_for(Duration::ZERO);
        assert!(!heard());
        let heard_pause = thread::scope(|scope| {
            let _stop = Stop(&control);
            scope.spawn(|| control.pause());
            let heard_pause = control.bell().listen_for(Duration::from_secs(60));
            control.resume();
            heard_pause && heard()
        });
        assert!(heard_pause);
        assert!(heard(), "the stop");
    }
}
