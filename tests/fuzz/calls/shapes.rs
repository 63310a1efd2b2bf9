//! The shape of each call's arguments.

use super::{Caller, Case, Choices, FIRST_DRAFT, GRANTS};
use pv_abi::event_channel::EventChannelOp as Event;
use pv_abi::extension::{ExtensionOp, HYPERCALL_NUMBER};
use pv_abi::grant_table::GrantTableOp as Grant;
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::memory::MemoryOp;
use pv_abi::segment::{FLAT_KERNEL_CS64, FLAT_RING3_SS64};
use pv_abi::vcpu::VcpuOp;
use std::mem::offset_of;

/// Arguments, and the structure at `at`.
type Shape = ([u64; 6], Vec<u64>);

impl<C: Choices> Caller<'_, C> {
    /// A call of that number.
    pub fn case_of(&mut self, number: u64) -> Case {
        let at = self.structure();
        let (arguments, words) = match N(number) {
            N::MULTICALL => return self.multicall(at),
            N::IRET => return self.iret(),
            N::MMU_UPDATE | N::MMUEXT_OP | N::UPDATE_VA_MAPPING => self.page_tables(number, at),
            N::UPDATE_DESCRIPTOR | N::SET_GDT => self.descriptors(number, at),
            N::SCHED_OP | N::VCPU_OP | N::SET_TRAP_TABLE => self.waiting(number, at),
            N::GRANT_TABLE_OP => return self.grants(at),
            N::MEMORY_OP => self.memory(at),
            N::EVENT_CHANNEL_OP => self.event(at),
            N(HYPERCALL_NUMBER) => self.extension(at),
            N::CONSOLE_IO => ([self.number(3), self.number(5000), at, 0, 0, 0], Vec::new()),
            N::SET_CALLBACKS => {
                ([self.choices.word(), self.choices.word(), self.choices.word(), 0, 0, 0], Vec::new())
            }
            _ => {
                let most = self.choices.pick(&[4, 24]);
                let second = if self.choices.once_in(3) { self.number(8) } else { at };
                let arguments = [self.number(most), second, self.number(64), self.result(), 0, 0];
                (arguments, self.small_words(8))
            }
        };
        let pointed_to = (self.ground.pointed_to(), self.pointed_to());
        Case { number, arguments, memory: vec![(at, words), pointed_to] }
    }

    fn page_tables(&mut self, number: u64, at: u64) -> Shape {
        let result = if self.choices.once_in(2) { 0 } else { self.result() };
        match N(number) {
            N::MMU_UPDATE => {
                let count = 1 + self.choices.below(6);
                let words = (0..count).flat_map(|_| self.update()).collect();
                ([at, count.wrapping_add(self.number(3) / 2), result, self.domain(), 0, 0], words)
            }
            N::MMUEXT_OP => {
                let count = 1 + self.choices.below(3);
                let words = (0..count).flat_map(|_| self.operation()).collect();
                ([at, count, result, self.domain(), 0, 0], words)
            }
            _ => {
                let address = self.ground.page(self.choices.below(34)).wrapping_add(self.number(2));
                let results = self.ground.result();
                let flush = self.number(8) | self.choices.pick(&[0, 0, results]);
                ([address, self.entry(), flush, 0, 0, 0], Vec::new())
            }
        }
    }

    fn descriptors(&mut self, number: u64, at: u64) -> Shape {
        if N(number) == N::SET_GDT {
            let words = (0..4).map(|_| self.frame()).collect();
            return ([at, self.number(1100), 0, 0, 0, 0], words);
        }
        let kinds = [0, 0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x0000_8900_0000_0067];
        let place = self.frame() << 12 | self.choices.below(512) << 3;
        ([place, self.choices.pick(&kinds), 0, 0, 0, 0], Vec::new())
    }

    /// What may keep a vCPU waiting, or end it.
    fn waiting(&mut self, number: u64, at: u64) -> Shape {
        const YIELD: u64 = 0;
        match N(number) {
            N::SCHED_OP => {
                let op = if self.dares() { self.number(10) } else { self.choices.pick(&[YIELD, 4, 7, 8]) };
                let words = vec![self.indirect(), self.number(140), self.number(1 << 30)];
                ([op, at, 0, 0, 0, 0], words)
            }
            N::VCPU_OP => self.vcpu(at),
            // Without handlers, the next fault ends a guest.
            _ if self.dares() => ([at, 0, 0, 0, 0, 0], self.small_words(8)),
            _ => {
                let entry = self.choices.below(32) | self.choices.below(8) << 8 | 0xe033 << 16;
                ([at, 0, 0, 0, 0, 0], vec![entry, self.ground.code, 0, 0])
            }
        }
    }

    /// What another vCPU starts with, or where this one's `vcpu_info` goes, or a few small numbers.
    fn vcpu(&mut self, at: u64) -> Shape {
        let mut op = self.number(16);
        let stops = [VcpuOp::DOWN.0, VcpuOp::INITIALISE.0].contains(&op);
        if stops && !self.dares() {
            op = VcpuOp::IS_UP.0;
        }
        let words = match VcpuOp(op) {
            VcpuOp::INITIALISE => {
                // A kernel's, as it should be but for one word.
                let mut words = vec![0; size_of::<GuestContext>() / 8];
                words[offset_of!(GuestContext, flags) / 8] = GuestContextFlags::IN_KERNEL.bits();
                words[offset_of!(GuestContext, ctrlreg) / 8 + 3] = self.ground.root << 12;
                let place = self.choices.below(words.len() as u64) as usize;
                words[place] = self.frame() << 12;
                words
            }
            VcpuOp::REGISTER_VCPU_INFO => vec![self.frame(), self.number(64) << 6],
            _ => self.small_words(4),
        };
        ([op, self.number(4), at, 0, 0, 0], words)
    }

    fn memory(&mut self, at: u64) -> Shape {
        const CHANGES: [MemoryOp; 3] =
            [MemoryOp::DECREASE_RESERVATION, MemoryOp::INCREASE_RESERVATION, MemoryOp::POPULATE_PHYSMAP];
        let pointed_to = self.ground.pointed_to();
        if self.choices.once_in(2) {
            // A reservation that may work.
            let op = self.choices.pick(&CHANGES.map(|op| op.0));
            let words = vec![pointed_to, 1 + self.choices.below(4), 0, self.domain()];
            return ([op, at, 0, 0, 0, 0], words);
        }
        let mut words = self.small_words(5);
        let domain = self.domain();
        words[0] = self.choices.pick(&[domain, pointed_to, 1 | pointed_to]);
        ([self.number(30), at, 0, 0, 0, 0], words)
    }

    /// An operation on grants, and what the guest writes into its own table before.
    fn grants(&mut self, at: u64) -> Case {
        let draft = self.ground.page(FIRST_DRAFT + self.choices.below(8));
        let entry =
            self.ground.l1 << 12 | (self.ground.first_entry + FIRST_DRAFT + self.choices.below(8)) << 3;
        let reference = self.number(4);
        // Half of them map, end or copy what others lend.
        let uses = [Grant::MAP_GRANT_REF, Grant::MAP_GRANT_REF, Grant::UNMAP_GRANT_REF, Grant::COPY];
        let op =
            if self.choices.once_in(2) { self.number(13) } else { self.choices.pick(&uses.map(|op| op.0)) };
        let words = match Grant(op) {
            Grant::MAP_GRANT_REF => {
                let flags = self.choices.pick(&[2, 2, 6, 18, 22, 3, 1, 0, 0x1f]);
                let place = if flags & 16 == 0 { draft } else { entry };
                vec![place, flags | reference << 32, self.partner(), 0]
            }
            Grant::UNMAP_GRANT_REF | Grant::UNMAP_AND_REPLACE => {
                // The bus address of what may be mapped for a device, where it ends.
                let (lent, any) = (self.choices.pick(&self.ground.others) << 12, self.frame() << 12);
                let other = self.choices.pick(&[0, 0, self.ground.result(), lent, any]);
                vec![self.choices.pick(&[draft, draft, entry]), other, self.number(6)]
            }
            Grant::COPY => {
                let mut side = || [self.choices.pick(&[reference, self.ground.pages[8]]), self.partner()];
                let [source, dest] = [side(), side()];
                let length = self.number(4097) & 0xffff | self.choices.below(4) << 16;
                [source, dest].concat().into_iter().chain([length]).collect()
            }
            _ => vec![self.domain() | self.number(12) << 32, 0, self.indirect(), 0],
        };
        let lends = self.choices.pick(&[0, 1, 1, 5, 2, 0x19]) | self.domain() << 16 | self.frame() << 32;
        let entry = (self.ground.page(GRANTS) + reference % 512 * 8, vec![lends]);
        let arguments = [op, at, self.choices.pick(&[1, 1, 1, 1, 0, 2]), 0, 0, 0];
        Case { number: N::GRANT_TABLE_OP.0, arguments, memory: vec![(at, words), entry] }
    }

    fn event(&mut self, at: u64) -> Shape {
        let op = self.number(12);
        let first = match Event(op) {
            Event::BIND_INTERDOMAIN | Event::STATUS | Event::ALLOC_UNBOUND | Event::RESET => {
                let remote = if Event(op) == Event::ALLOC_UNBOUND { self.domain() << 16 } else { 0 };
                self.domain() | remote | self.number(12) << 32
            }
            _ => self.number(8) | self.number(3) << 32,
        };
        let mut words = self.small_words(3);
        words[0] = first;
        ([op, at, 0, 0, 0, 0], words)
    }

    /// A doorbell, mostly of a port that can have one, or an exit status.
    fn extension(&mut self, at: u64) -> Shape {
        let op = self.choices.pick(&[ExtensionOp::DOORBELL.0, ExtensionOp::DOORBELL.0, 0, 2]);
        let argument = if ExtensionOp(op) == ExtensionOp::DOORBELL { at } else { self.number(300) };
        let port = self.choices.pick(&[1, 1, 2]);
        let words = vec![if self.dares() { self.choices.word() } else { port }, 0];
        ([op, argument, 0, 0, 0, 0], words)
    }

    /// A frame with words of the right kinds, in places.
    fn iret(&mut self) -> Case {
        let (stack, code) = (self.ground.stack, self.ground.code);
        let mut word = |usual: u64| if self.choices.once_in(6) { self.number(1 << 16) } else { usual };
        // RAX, R11, RCX, flags, RIP, CS, RFLAGS, RSP, SS
        let (cs, ss) = (FLAT_KERNEL_CS64.into(), u64::from(FLAT_RING3_SS64 & !3));
        let mut words = [0, 0, 0, 0, code, cs, 0x202, stack, ss].map(&mut word).to_vec();
        if !self.dares() {
            (words[4], words[5], words[7]) = (code, cs, stack);
        }
        Case { number: N::IRET.0, arguments: [0; 6], memory: vec![(stack, words)] }
    }

    /// Several calls in one, each with a structure of its own.
    fn multicall(&mut self, at: u64) -> Case {
        let count = 1 + self.choices.below(4);
        let mut entries = Vec::new();
        let mut memory = Vec::new();
        for place in 0..count {
            let kinds =
                [N::MMU_UPDATE, N::MMUEXT_OP, N::UPDATE_VA_MAPPING, N::XEN_VERSION, N::EVENT_CHANNEL_OP];
            let number = self.choices.pick(&kinds.map(|kind| kind.0));
            let mut case = self.case_of(number);
            let moved = self.ground.pointed_to() + place * 512;
            if let Some((first, words)) = case.memory.first_mut()
                && let Some(argument) = case.arguments.iter_mut().find(|argument| **argument == *first)
            {
                (*argument, *first) = (moved, moved);
                memory.push((moved, std::mem::take(words)));
            }
            entries.extend([case.number, 0]);
            entries.extend(case.arguments);
        }
        memory.push((at, entries));
        Case { number: N::MULTICALL.0, arguments: [at, count, 0, 0, 0, 0], memory }
    }
}
