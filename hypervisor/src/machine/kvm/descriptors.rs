//! GDT, IDT and TSS of a pcpu, and what a selector means to KVM.

use super::super::context::{CODE32_RING3, CODE64_RING3, DATA_RING3};
use super::super::{MachineMemory, NoSuchFrame, Sanitised, descriptor_base};
use super::area::{Area, GDT_PAGES, IDT, PcpuPages, STUB};
use super::stub::{VECTOR_STRIDE, VECTORS};
use kvm_bindings::kvm_segment;
use pv_abi::segment::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::{Mfn, PAGE_SIZE};

/// Selector of the stub's code segment: 64-bit code at CPL0.
pub const STUB_CS: u16 = 0xe008;
/// Stack of the stub; `syscall` wants it behind the code.
pub const STUB_SS: u16 = 0xe010;
/// Selector of the TSS. Its descriptor takes two entries of the GDT, as in 64-bit mode.
const TSS_SELECTOR: u16 = 0xe040;

const CODE64_RING0: u64 = 0x00af_9b00_0000_ffff;
const DATA_RING0: u64 = 0x00cf_9300_0000_ffff;

const TSS_LIMIT: u32 = 0x67;
/// Vectors with stacks of their own: they can come while the stub is at work, on whose stack a frame lies.
const OWN_STACK: [u8; 4] = [1, 2, 8, 18];
const IST_STACK_SIZE: u64 = PAGE_SIZE as u64 / OWN_STACK.len() as u64;

/// Tops of the stacks that frames can lie on.
pub fn stack_tops(pages: &PcpuPages) -> [u64; 1 + OWN_STACK.len()] {
    let ist = pages.ist_stacks().1;
    let mut tops = [pages.stack().1 + PAGE_SIZE as u64; 1 + OWN_STACK.len()];
    for (n, top) in (1..).zip(&mut tops[1..]) {
        *top = ist + n * IST_STACK_SIZE;
    }
    tops
}

/// Writes a pcpu's GDT and TSS.
///
/// # Errors
/// [`NoSuchFrame`] where the machine is too small.
pub fn write_pcpu(memory: &MachineMemory, pages: &PcpuPages) -> Result<(), NoSuchFrame> {
    let tss = pages.tss().1;
    let tss_low = (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56 | 0x89 << 40 | u64::from(TSS_LIMIT);
    for (selector, descriptor) in [
        (STUB_CS, CODE64_RING0),
        (STUB_SS, DATA_RING0),
        (FLAT_RING3_CS32, CODE32_RING3),
        (FLAT_RING3_SS64, DATA_RING3),
        (FLAT_RING3_CS64, CODE64_RING3),
        (TSS_SELECTOR, tss_low),
        (TSS_SELECTOR + 8, tss >> 32),
    ] {
        write_descriptor(memory, pages, usize::from(selector >> 3), descriptor)?;
    }

    let tss_frame = pages.tss().0;
    for (n, top) in stack_tops(pages).into_iter().enumerate() {
        // RSP0 at 4; IST1 at 36 and so on.
        let offset = if n == 0 { 4 } else { 36 + (n - 1) * 8 };
        memory.write(tss_frame, offset, &top.to_le_bytes())?;
    }
    // The I/O permission map starts behind the limit: no port is allowed.
    memory.write(tss_frame, 0x66, &(TSS_LIMIT as u16 + 1).to_le_bytes())
}

/// Writes entry `index` of a pcpu's GDT.
///
/// # Errors
/// [`NoSuchFrame`] where there is no such entry.
pub fn write_descriptor(
    memory: &MachineMemory,
    pages: &PcpuPages,
    index: usize,
    descriptor: u64,
) -> Result<(), NoSuchFrame> {
    let page = (index / 512) as u64;
    let frame = Mfn(pages.gdt().0.0 + page);
    if page >= GDT_PAGES {
        return Err(NoSuchFrame(frame));
    }
    memory.store_u64(frame, index % 512 * 8, descriptor)
}

/// Writes the IDT: the 32 exceptions, and nothing that `int n` could use but `int3` and `into`.
///
/// # Errors
/// [`NoSuchFrame`] where the machine is too small.
pub fn write_idt(memory: &MachineMemory, area: &Area) -> Result<(), NoSuchFrame> {
    for vector in 0..VECTORS {
        let handler = STUB + u64::from(vector) * VECTOR_STRIDE;
        let ist = OWN_STACK.iter().position(|&own| u16::from(own) == vector).map_or(0, |n| n as u64 + 1);
        let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let attributes = 0x8e00 | dpl << 13 | ist;
        let low =
            handler & 0xffff | u64::from(STUB_CS) << 16 | attributes << 32 | (handler >> 16 & 0xffff) << 48;
        memory.store_u64(area.idt(), usize::from(vector) * 16, low)?;
        memory.store_u64(area.idt(), usize::from(vector) * 16 + 8, handler >> 32)?;
    }
    Ok(())
}

/// The GDT register's base and limit.
pub fn gdtr(pages: &PcpuPages) -> (u64, u16) {
    (pages.gdt().1, (GDT_PAGES * PAGE_SIZE as u64 - 1) as u16)
}

/// The IDT register's base and limit.
pub fn idtr() -> (u64, u16) {
    (IDT, VECTORS * 16 - 1)
}

/// The task register of a pcpu, with the TSS in its pages.
pub fn task_register(pages: &PcpuPages) -> kvm_segment {
    kvm_segment {
        base: pages.tss().1,
        limit: TSS_LIMIT,
        selector: TSS_SELECTOR,
        type_: 11,
        present: 1,
        ..Default::default()
    }
}

/// The stub's code segment.
pub fn stub_code() -> kvm_segment {
    segment(STUB_CS, CODE64_RING0)
}

/// The stub's stack segment.
pub fn stub_stack() -> kvm_segment {
    segment(STUB_SS, DATA_RING0)
}

/// A data segment register holding `selector`, which is null or was sanitised.
pub fn data_segment(context: &Sanitised<'_>, selector: u16) -> kvm_segment {
    context.descriptor(selector).map_or_else(null_segment, |descriptor| segment(selector | 3, descriptor))
}

/// Software KVM shows the host's selectors at CPL3; these are the same segments.
pub fn visible_selector(selector: u16) -> u16 {
    match selector {
        0x33 => FLAT_RING3_CS64,
        0x23 => FLAT_RING3_CS32,
        0x2b => FLAT_RING3_SS64,
        other => other,
    }
}

/// A segment register that holds nothing.
pub fn null_segment() -> kvm_segment {
    kvm_segment { unusable: 1, ..Default::default() }
}

fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let granular = descriptor >> 55 & 1 == 1;
    let bit = |n: u32| (descriptor >> n & 1) as u8;
    kvm_segment {
        base: descriptor_base(descriptor),
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector,
        type_: (descriptor >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: (descriptor >> 45 & 3) as u8,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sanitise::sanitise;
    use super::super::super::{Context, Root};
    use super::super::area::DoorbellAddresses;
    use super::*;

    fn machine() -> (Area, MachineMemory) {
        let (area, memory) =
            (Area::new(4096, 2, DoorbellAddresses::HIGHEST), MachineMemory::new(4096).unwrap());
        write_idt(&memory, &area).unwrap();
        write_pcpu(&memory, &area.pcpu(1)).unwrap();
        (area, memory)
    }

    /// What KVM is told of the task register is what the GDT says of it.
    #[test]
    fn the_task_register_is_that_of_the_gdt() {
        let (area, memory) = machine();
        let (pages, task) = (area.pcpu(1), task_register(&area.pcpu(1)));
        let word = |index: usize| {
            let frame = Mfn(pages.gdt().0.0 + index as u64 / 512);
            memory.load_u64(frame, index % 512 * 8).unwrap()
        };
        let index = usize::from(task.selector >> 3);
        let (low, high) = (word(index), word(index + 1));
        assert_eq!(task.base, descriptor_base(low) | high << 32);
        assert_eq!(u64::from(task.limit), low & 0xffff);
        assert_eq!((low >> 47 & 1, low >> 44 & 1), (1, 0), "it is present, and a system's");
        // It is busy once it is loaded.
        assert_eq!((u64::from(task.type_), task.present), (low >> 40 & 15 | 2, 1));
    }

    #[test]
    fn a_data_segment_is_what_its_descriptor_says_or_null() {
        let mut context = Context::new(1, Root::of_valid_l4(Mfn(9)), 0x1000);
        let data = 0x0040_f300_0000_0000 | 0x12 << 56 | 0x34_5678 << 16 | 0xa << 48 | 0xbcde;
        (context.descriptors, context.ds, context.es) = (vec![0, data], 1 << 3, 0);
        let context = sanitise(&mut context).expect("it can be entered");
        let [named, null] = [context.ds, context.es].map(|selector| data_segment(&context, selector));
        assert_eq!((named.base, named.selector, named.dpl, named.unusable), (0x1234_5678, 1 << 3 | 3, 3, 0));
        assert_eq!((named.limit, named.g, named.db, named.l), (0xa_bcde, 0, 1, 0));
        let whole = segment(FLAT_RING3_SS64, DATA_RING3);
        assert_eq!((whole.limit, whole.g, whole.type_, whole.present), (u32::MAX, 1, 3, 1));
        assert_eq!((null.selector, null.unusable), (0, 1));
    }

    /// Every gate enters the stub, and only those of `int3` and `into` are open to CPL3.
    #[test]
    fn the_idt_leads_to_the_stub_and_is_open_to_breakpoints_and_overflows_only() {
        let (area, memory) = machine();
        assert_eq!(idtr(), (IDT, 32 * 16 - 1), "there is no gate behind the exceptions'");
        for vector in 0..u64::from(VECTORS) {
            let word = |half: usize| memory.load_u64(area.idt(), vector as usize * 16 + half * 8).unwrap();
            let (low, high) = (word(0), word(1));
            let handler = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
            assert_eq!(handler, STUB + vector * VECTOR_STRIDE, "vector {vector}");
            assert_eq!(low >> 16 & 0xffff, u64::from(STUB_CS), "vector {vector}");
            let (kind, dpl, present) = (low >> 40 & 0x1f, low >> 45 & 3, low >> 47 & 1);
            assert_eq!((kind, present), (0xe, 1), "vector {vector} is an interrupt gate");
            assert_eq!(dpl == 3, vector == 3 || vector == 4, "vector {vector}");
            let own_stack = matches!(vector, 1 | 2 | 8 | 18);
            assert_eq!(low >> 32 & 7 != 0, own_stack, "vector {vector} can come on the guest's stack");
        }
    }

    /// What a far transfer of a guest's can name beyond its own descriptors: two flat code segments and one of data.
    #[test]
    fn the_hypervisors_descriptors_are_its_own_but_for_the_flat_ones() {
        let (area, memory) = machine();
        let ((first, _), mut open) = (area.pcpu(1).gdt(), Vec::new());
        for index in 0..GDT_PAGES as usize * 512 {
            let frame = Mfn(first.0 + (index / 512) as u64);
            let descriptor = memory.load_u64(frame, index % 512 * 8).unwrap();
            let (present, dpl, system) =
                (descriptor >> 47 & 1, descriptor >> 45 & 3, descriptor >> 44 & 1 == 0);
            // The upper half of the TSS is an address.
            if present == 1 && dpl == 3 && index != usize::from(TSS_SELECTOR >> 3) + 1 {
                assert!(!system, "entry {index} is a gate or a task: {descriptor:#x}");
                open.push(index as u16 * 8 + 3);
            }
        }
        assert_eq!(open, [FLAT_RING3_CS32, FLAT_RING3_SS64, FLAT_RING3_CS64]);
    }

    #[test]
    fn no_port_is_open_to_cpl3() {
        let (area, memory) = machine();
        let (tss, _) = area.pcpu(1).tss();
        let map = memory.load_u64(tss, 0x60).unwrap() >> 48;
        let limit = u64::from(task_register(&area.pcpu(1)).limit);
        assert!(map > limit, "the permission map starts at {map:#x}, the TSS ends at {limit:#x}");
    }
}
