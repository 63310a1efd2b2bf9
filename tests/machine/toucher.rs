//! A pcpu with a thread of its own, whose guest stores a ticket to one page after another and never stops.

use crate::guest::{CODE, MAILBOX};
use crate::stage::PAGES;
use hypervisor::machine::kvm::{KvmPcpu, Shared};
use hypervisor::machine::{Context, Exit, Kick, MachineMemory, Pcpu, Root};
use libtest_mimic::Failed;
use pv_abi::Mfn;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, yield_now};

/// ```text
/// start: mov rax, [rdi]      the ticket
///        mov rcx, r8         how many pages
///        mov rsi, r9         the first
/// store: mov [rsi], rax
/// next:  add rsi, 4096
///        dec rcx
///        jnz store
///        mov [rdi + 8], rax  a pass with this ticket is done
///        jmp start
/// ```
pub const GUEST_CODE: &[u8] = &[
    0x48, 0x8b, 0x07, 0x4c, 0x89, 0xc1, 0x4c, 0x89, 0xce, 0x48, 0x89, 0x06, 0x48, 0x81, 0xc6, 0x00, 0x10,
    0x00, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xf1, 0x48, 0x89, 0x47, 0x08, 0xeb, 0xe2,
];
const STORE: u64 = CODE + 9;
const NEXT: u64 = CODE + 12;

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const PAUSED: u8 = 2;
const STOP: u8 = 3;

/// What the pcpu goes on with after a pause.
pub enum Next {
    /// The same vCPU on another root.
    Root(Mfn),
    /// Another vCPU on this root, which the pcpu has not run before.
    Vcpu(Mfn),
}

struct Orders {
    command: AtomicU8,
    next: Mutex<Option<Next>>,
}

/// See the head of this file.
pub struct Toucher {
    orders: Arc<Orders>,
    kick: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

/// The context of a vCPU that no pcpu has run yet, at the start of the guest's code.
fn context(root: Mfn, base: u64) -> Context {
    static IDENTITY: AtomicU64 = AtomicU64::new(1);
    let mut context = Context::new(IDENTITY.fetch_add(1, SeqCst), Root::of_valid_l4(root), CODE);
    let registers = &mut context.registers;
    (registers.rdi, registers.r8, registers.r9) = (MAILBOX, PAGES as u64, base);
    context
}

impl Toucher {
    /// A guest on `root`, that touches pages from `base` on. Paused at first.
    pub fn new((pcpu, kick): (KvmPcpu, Arc<Shared>), root: Mfn, base: u64) -> Self {
        let orders = Arc::new(Orders { command: AtomicU8::new(PAUSED), next: Mutex::new(None) });
        let theirs = Arc::clone(&orders);
        let thread = std::thread::spawn(move || touch(pcpu, &theirs, root, base));
        Self { orders, kick, thread: Some(thread) }
    }

    /// Waits until the guest has touched everything with this ticket. It tells which one a pass stored rather than
    /// counting passes: a processor may read the next pass's ticket before others see that the last pass is done.
    pub fn finished(&self, ticket: u64, memory: &MachineMemory, mailbox: Mfn) -> Result<(), Failed> {
        while memory.load_u64(mailbox, 8)? < ticket {
            self.is_there()?;
            yield_now();
        }
        Ok(())
    }

    /// The pcpu leaves the guest, and stays out.
    pub fn pause(&self) -> Result<(), Failed> {
        self.orders.command.store(PAUSE, SeqCst);
        self.kick.kick();
        while self.orders.command.load(SeqCst) != PAUSED {
            self.is_there()?;
            yield_now();
        }
        Ok(())
    }

    pub fn resume(&self, next: Option<Next>) {
        *self.orders.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.orders.command.store(RUN, SeqCst);
    }

    fn is_there(&self) -> Result<(), Failed> {
        let gone = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if gone { Err("the toucher ended".into()) } else { Ok(()) }
    }

    /// Ends the thread; its own error, if it had one.
    pub fn stop(mut self) -> Result<(), Failed> {
        self.orders.command.store(STOP, SeqCst);
        self.kick.kick();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome.map_err(|error| format!("the toucher: {error}").into()),
            _ => Err("the toucher panicked".into()),
        }
    }
}

impl Drop for Toucher {
    fn drop(&mut self) {
        self.orders.command.store(STOP, SeqCst);
        self.kick.kick();
    }
}

fn touch(mut pcpu: KvmPcpu, orders: &Orders, root: Mfn, base: u64) -> Result<(), String> {
    let mut vcpu = context(root, base);
    loop {
        match orders.command.load(SeqCst) {
            STOP => return Ok(()),
            PAUSE | PAUSED => {
                orders.command.store(PAUSED, SeqCst);
                while orders.command.load(SeqCst) == PAUSED {
                    yield_now();
                }
                match orders.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(Next::Root(root)) => {
                        (vcpu.root, vcpu.root_replaced) = (Root::of_valid_l4(root), true)
                    }
                    Some(Next::Vcpu(root)) => {
                        pcpu.save(&mut vcpu).map_err(|error| error.to_string())?;
                        vcpu = context(root, base);
                        vcpu.root_replaced = true;
                    }
                    None => {}
                }
            }
            _ => {}
        }
        match pcpu.enter(&mut vcpu) {
            Ok(Exit::Exception { vector: 14, .. }) if vcpu.registers.rip == STORE => {
                vcpu.registers.rip = NEXT
            }
            Ok(Exit::Kicked) => {}
            other => return Err(format!("{other:?} at {:#x}", vcpu.registers.rip)),
        }
    }
}
