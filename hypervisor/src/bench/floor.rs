//! The floors that need a VM: the least that an exit to the host and back costs here, by each way out, and what
//! the host does in between.
//!
//! They run on [`Bare`], which shares the machine's set-up, stub and KVM_RUN with the hypervisor, and nothing else.
//! The guest reads the TSC before and after, as the bench's other guest does.

use super::BenchError;
use super::guest::nanoseconds;
use super::image;
use super::site::Frames;
use crate::machine::Registers;
use crate::machine::kvm::bare::{Bare, BareExit, CODE, WINDOW};
use crate::machine::kvm::{Gate, KvmKind, ProbeReport};
use pv_abi::PAGE_SIZE;
use pv_abi::trap::Vector;

const RET: u8 = 0xc3;

/// An instruction that raises an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trapping {
    /// What comes before it, and raises none.
    pub before: &'static [u8],
    /// The bytes of the instruction.
    pub instruction: &'static [u8],
    /// The exception that the instruction raises.
    pub vector: Vector,
}

/// `mov al, [0]`, where nothing is mapped.
pub const FAULT: Trapping =
    Trapping { before: &[], instruction: &[0x8a, 0x04, 0x25, 0, 0, 0, 0], vector: Vector::PAGE_FAULT };

/// By which way the guest leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The guest makes a hypercall by this gate.
    Gate(Gate),
    /// The guest executes an instruction that raises an exception.
    Exception(Trapping),
}

impl Way {
    /// The code that leaves, and returns to its caller then.
    pub fn code(self) -> Vec<u8> {
        let mut code = match self {
            Self::Gate(gate) => gate.ring(),
            Self::Exception(trapping) => [trapping.before, trapping.instruction].concat(),
        };
        code.push(RET);
        code
    }

    fn exit(self) -> BareExit {
        match self {
            Self::Gate(Gate::Syscall) => BareExit::Syscall,
            Self::Gate(Gate::Doorbell) => BareExit::Doorbell,
            Self::Exception(trapping) => BareExit::Exception(trapping.vector.0),
        }
    }
}

/// What the guest touches before it is measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touch {
    /// So many pages of the window.
    pub pages: u64,
    /// How many pages it is from one of them to the next.
    pub stride: u64,
}

/// A bare VM whose guest leaves in one way.
#[derive(Debug)]
pub struct Floor {
    bare: Bare,
    way: Way,
    kvm: KvmKind,
    tsc_khz: u32,
}

impl Floor {
    /// Makes it, with so many pages in its window.
    pub fn new(report: &ProbeReport, way: Way, window_pages: u64) -> Result<Self, BenchError> {
        let code = [image::bare(), &way.code()].concat();
        let bare = Bare::new(report.kvm, window_pages, &code)?;
        Ok(Self { bare, way, kvm: report.kvm, tsc_khz: report.tsc_khz })
    }

    /// Nanoseconds of `count` round trips, in each of which the host does `work`.
    pub fn round_trips(
        &mut self,
        count: u64,
        touch: Touch,
        mut work: impl FnMut(&mut Self) -> Result<(), BenchError>,
    ) -> Result<f64, BenchError> {
        self.bare.start(Registers {
            r12: count,
            rdi: WINDOW,
            rsi: touch.pages,
            r8: touch.stride * PAGE_SIZE as u64,
            ..Default::default()
        });
        self.leave()?; // not measured
        for _ in 0..count {
            self.leave()?;
            work(self)?;
        }
        self.leave()?;
        Ok(nanoseconds(self.bare.registers.rax, self.tsc_khz))
    }

    /// Runs the guest until it leaves. What raised an exception is not repeated.
    fn leave(&mut self) -> Result<(), BenchError> {
        let exit = self.bare.run()?;
        if exit != self.way.exit() {
            let at = self.bare.registers.rip.wrapping_sub(CODE);
            return Err(BenchError::Guest(format!("of the floor left by {exit:?} at {at:#x}")));
        }
        if let Way::Exception(trapping) = self.way {
            self.bare.registers.rip += trapping.instruction.len() as u64;
        }
        Ok(())
    }

    /// Loads a root on the way back.
    pub fn load_root(&mut self, second: bool) {
        self.bare.load_root(second);
    }

    /// Invalidates the translations of the window's first `count` pages, in the least that this host can do: where
    /// KVM shadows the tables, by one call for each run of frames; where the CPU walks them, by loading the root.
    pub fn invalidate(&mut self, count: u64, frames: Frames) -> Result<(), BenchError> {
        if self.kvm == KvmKind::Hardware {
            self.bare.load_root(false);
            return Ok(());
        }
        match frames {
            Frames::Contiguous => self.bare.memory().drop_translations(self.bare.window(0), count)?,
            Frames::Scattered => {
                for n in 0..count {
                    self.bare.memory().drop_translations(self.bare.window(n * frames.stride()), 1)?;
                }
            }
        }
        Ok(())
    }
}
