//! Where the CPU was when an exception came, read off the frames that it pushed on the pcpu's stacks.
//!
//! The stub itself raises nothing, so an exception at CPL0 is one that a guest left over: #DB comes late. A breakpoint on a load of SS is held back until the instruction behind it is done, and that one
//! may have entered the stub (`int3`) or left the guest. No test host does this, so it is tested here, on frames.

use super::super::MachineMemory;
use super::area::{PcpuPages, STUB};
use super::descriptors::{self, STUB_CS};
use super::stub::{self, VECTOR_STRIDE, VECTORS};
use pv_abi::PAGE_SIZE;
use pv_abi::trap::Vector;

/// What the CPU pushes for an exception and `iretq` pops; an error code below it is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub rip: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
}

impl Frame {
    /// Bytes of a frame on the stack: five words of 8.
    pub const SIZE: u64 = 40;

    pub fn at_cpl3(&self) -> bool {
        self.cs & 3 == 3
    }
}

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the guest, which raised `vector`.
    Guest {
        /// The exception's vector, below 32.
        vector: u8,
        /// Its error code; zero where it has none.
        error_code: u64,
        /// The guest's registers that the CPU pushed.
        frame: Frame,
    },
    /// At the stub's first instruction on the way into a guest: nothing was done yet.
    Entry,
    /// Nowhere that can be told: the frame is on none of the pcpu's stacks.
    Astray,
    /// In the guest, but two frames were pushed on one stack and the guest's is the one below.
    Lost,
}

/// Reads what the CPU pushed for `vector` at `rsp`.
///
/// # Errors
/// What it says, where that can be no guest's doing.
pub fn origin(memory: &MachineMemory, pages: &PcpuPages, vector: u8, rsp: u64) -> Result<Origin, String> {
    let Some((error_code, frame)) = read(memory, pages, vector, rsp) else { return Ok(Origin::Astray) };
    if frame.at_cpl3() {
        return Ok(Origin::Guest { vector, error_code, frame });
    }
    let stray = || format!("vector {vector} (error {error_code:#x}) in the stub at {:#x}", frame.rip);
    if frame.cs != STUB_CS || vector != Vector::DEBUG.0 {
        return Err(stray());
    }
    let offsets = stub::offsets();
    match frame.rip.wrapping_sub(STUB) {
        at if at == offsets.resume || at == offsets.load_root => Ok(Origin::Entry),
        at if at < u64::from(VECTORS) * VECTOR_STRIDE && at.is_multiple_of(VECTOR_STRIDE) => {
            interrupted(memory, pages, (at / VECTOR_STRIDE) as u8, frame.rsp).ok_or_else(stray)
        }
        _ => Err(stray()),
    }
}

/// The exception whose vector was entered when a late #DB came; its own frame lies at `rsp`. As on Xen, the #DB is
/// dropped.
fn interrupted(memory: &MachineMemory, pages: &PcpuPages, vector: u8, rsp: u64) -> Option<Origin> {
    if vector == Vector::DEBUG.0 {
        return Some(Origin::Lost);
    }
    let (error_code, frame) = read(memory, pages, vector, rsp)?;
    frame.at_cpl3().then_some(Origin::Guest { vector, error_code, frame })
}

/// The error code and the frame of `vector` at `rsp`, which must be the only ones on one of the pcpu's stacks.
fn read(memory: &MachineMemory, pages: &PcpuPages, vector: u8, rsp: u64) -> Option<(u64, Frame)> {
    let has_error_code = Vector(vector).has_error_code();
    let size = if has_error_code { Frame::SIZE + 8 } else { Frame::SIZE };
    let top = rsp.wrapping_add(size);
    if !descriptors::stack_tops(pages).contains(&top) {
        return None;
    }
    let (mfn, base) = match top == pages.stack().1 + PAGE_SIZE as u64 {
        true => pages.stack(),
        false => pages.ist_stacks(),
    };
    let mut words = [0; 6];
    let missing = if has_error_code { 0 } else { 1 };
    let start = usize::try_from(rsp.checked_sub(base)?).ok()?;
    for (word, at) in words.iter_mut().skip(missing).zip((start..PAGE_SIZE).step_by(8)) {
        *word = memory.load_u64(mfn, at).ok()?;
    }
    let [error_code, rip, cs, rflags, rsp, ss] = words;
    Some((error_code, Frame { rip, cs: cs as u16, rflags, rsp, ss: ss as u16 }))
}

#[cfg(test)]
mod tests {
    use super::super::area::{Area, DoorbellAddresses};
    use super::super::descriptors::STUB_SS;
    use super::*;
    use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};

    const DEBUG: u8 = Vector::DEBUG.0;
    const GUEST: Frame =
        Frame { rip: 0x1234, cs: FLAT_RING3_CS64, rflags: 0x202, rsp: 0x5678, ss: FLAT_RING3_SS64 };

    struct Stacks {
        memory: MachineMemory,
        pages: PcpuPages,
    }

    impl Stacks {
        fn new() -> Self {
            let area = Area::new(4096, 2, DoorbellAddresses::HIGHEST);
            Self { memory: MachineMemory::new(4096).unwrap(), pages: area.pcpu(1) }
        }

        /// Pushes as the CPU does, on the stack that the vector has; the stack pointer then.
        fn push(&self, vector: u8, error_code: u64, frame: Frame) -> u64 {
            let own = [1, 2, 8, 18].iter().position(|&own| own == vector);
            let top = descriptors::stack_tops(&self.pages)[own.map_or(0, |n| n + 1)];
            let (mfn, base) = if own.is_some() { self.pages.ist_stacks() } else { self.pages.stack() };
            let Frame { rip, cs, rflags, rsp, ss } = frame;
            let words = [error_code, rip, cs.into(), rflags, rsp, ss.into()];
            let words = if Vector(vector).has_error_code() { &words[..] } else { &words[1..] };
            let start = top - 8 * words.len() as u64;
            for (n, word) in words.iter().enumerate() {
                self.memory.store_u64(mfn, (start - base) as usize + 8 * n, *word).unwrap();
            }
            start
        }

        fn origin(&self, vector: u8, rsp: u64) -> Result<Origin, String> {
            origin(&self.memory, &self.pages, vector, rsp)
        }

        /// A #DB at `rip` in the stub, whose stack pointer was `rsp`.
        fn debug_at(&self, rip: u64, rsp: u64) -> Result<Origin, String> {
            let frame = Frame { rip, cs: STUB_CS, rflags: 2, rsp, ss: STUB_SS };
            self.origin(DEBUG, self.push(DEBUG, 0, frame))
        }
    }

    #[test]
    fn a_guests_exception_is_the_guests() {
        let stacks = Stacks::new();
        for vector in 0..VECTORS as u8 {
            let error_code = if Vector(vector).has_error_code() { 0x10 } else { 0 };
            let rsp = stacks.push(vector, error_code, GUEST);
            assert_eq!(stacks.origin(vector, rsp), Ok(Origin::Guest { vector, error_code, frame: GUEST }));
            assert_eq!(stacks.origin(vector, rsp + 8), Ok(Origin::Astray));
            assert_eq!(stacks.origin(vector, rsp - 8), Ok(Origin::Astray));
        }
    }

    #[test]
    fn a_late_breakpoint_is_dropped_and_the_exception_before_it_taken() {
        let stacks = Stacks::new();
        for vector in (0..VECTORS as u8).filter(|&vector| vector != DEBUG) {
            let error_code = if Vector(vector).has_error_code() { 0x6 } else { 0 };
            let rsp = stacks.push(vector, error_code, GUEST);
            let at = STUB + u64::from(vector) * VECTOR_STRIDE;
            assert_eq!(stacks.debug_at(at, rsp), Ok(Origin::Guest { vector, error_code, frame: GUEST }));
            assert!(stacks.debug_at(at + 2, rsp).is_err(), "behind the vector's first instruction");
            assert!(stacks.debug_at(at, 0x5678).is_err(), "a frame that lies on no stack");
        }
    }

    #[test]
    fn a_late_breakpoint_behind_int1_lands_on_the_same_stack() {
        let stacks = Stacks::new();
        let rsp = stacks.push(DEBUG, 0, GUEST);
        assert_eq!(stacks.debug_at(STUB + VECTOR_STRIDE, rsp), Ok(Origin::Lost));
    }

    #[test]
    fn a_late_breakpoint_before_a_guest_is_entered_undoes_nothing() {
        let (stacks, offsets) = (Stacks::new(), stub::offsets());
        for at in [offsets.resume, offsets.load_root] {
            assert_eq!(stacks.debug_at(STUB + at, 0), Ok(Origin::Entry));
        }
        assert!(stacks.debug_at(STUB + offsets.write_list, 0).is_err());
    }

    #[test]
    fn nothing_else_may_trap_in_the_stub() {
        let stacks = Stacks::new();
        for vector in (0..VECTORS as u8).filter(|&vector| vector != DEBUG) {
            let frame = Frame { rip: STUB + 12, cs: STUB_CS, rflags: 2, rsp: 0, ss: STUB_SS };
            let refusal = stacks.origin(vector, stacks.push(vector, 0, frame)).unwrap_err();
            assert!(refusal.contains("in the stub at"), "{refusal}");
        }
        let frame = Frame { rip: STUB, cs: 0x10, rflags: 2, rsp: 0, ss: 0 };
        assert!(stacks.origin(DEBUG, stacks.push(DEBUG, 0, frame)).is_err(), "no such code segment");
    }
}
