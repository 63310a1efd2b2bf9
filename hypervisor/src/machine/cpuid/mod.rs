//! What CPUID tells, as one policy for the machine: made of what the processor has, by one table ([`table`]).
//!
//! What depends on the vCPU that asks is laid over it by [`MachineCpuid::seen_by`]: its number, and how many it is one of.

mod asker;
mod table;
mod xstate;

pub use asker::Asker;

use serde::Serialize;
use std::collections::BTreeMap;
use table::{CONDITIONAL, Need, ROWS, Register, Row, Subleaves};

/// What `cpuid` returns: EAX, EBX, ECX and EDX, in this order.
pub type Registers = [u32; 4];
/// A question: EAX and ECX. ECX is 0 where the leaf does not look at it.
pub type Question = (u32, u32);

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
/// AMD's topology leaves.
const TOPOEXT: u32 = 1 << 22;
/// First of the leaves that belong to hypervisors.
const HYPERVISORS: u32 = 0x4000_0000;
/// Those of Xen's that look at ECX.
const XEN_WITH_SUBLEAVES: [u32; 2] = [HYPERVISORS + 3, HYPERVISORS + 5];
/// First of the extended leaves.
const EXTENDED: u32 = 0x8000_0000;
/// Extended state that can be switched: x87, SSE, AVX, AVX-512 (three parts).
const SWITCHABLE: u64 = 0xe7;

/// What is known of the processor beyond its own answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The TSC's rate, in kHz.
    pub tsc_khz: u32,
    /// The extended state that the host can switch, as bits of XCR0.
    pub xcr0: u64,
    /// Whether CPL3 can set FS and GS bases by instructions of its own.
    pub fsgsbase: bool,
    /// Whether CPL3 has the state that a vCPU's XCR0 names, and not all that there is.
    pub honours_xcr0: bool,
}

/// A leaf in the hypervisors' range, or one in place of the processor's.
pub type Leaf = (Question, Registers);

/// A feature that guests do not get, though the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HiddenFeature {
    /// The number of the feature's bit in its register, 0 to 31.
    pub bit: u32,
    /// Its name; empty where it is not known here.
    pub name: &'static str,
    /// Why guests do not get the feature, as part of a sentence.
    pub why: &'static str,
}

/// A register of a leaf, for whoever wants to know what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// The leaf: EAX when `cpuid` is executed.
    pub leaf: u32,
    /// The subleaf: ECX when `cpuid` is executed; 0 where the leaf ignores it.
    pub subleaf: u32,
    /// The register's name: EAX, EBX, ECX or EDX.
    pub register: &'static str,
    /// What the leaf is about.
    pub about: &'static str,
    /// What the processor has.
    pub processor: u32,
    /// What the vCPU that asks gets.
    pub guest: u32,
    /// Why that differs, where it is not features that are hidden.
    pub made_up: Option<&'static str>,
    /// The features that the processor has and guests do not get. Empty where the register is no set of features.
    pub hidden: Vec<HiddenFeature>,
}

/// The machine's CPUID leaves.
#[derive(Clone, Debug, Default)]
pub struct MachineCpuid {
    processor: BTreeMap<Question, Registers>,
    guest: BTreeMap<Question, Registers>,
    honours_xcr0: bool,
}

impl MachineCpuid {
    /// The policy on a processor that answers `ask`.
    pub fn new(ask: impl Fn(u32, u32) -> Registers, facts: Processor) -> Self {
        let mut policy = Self { honours_xcr0: facts.honours_xcr0, ..Self::default() };
        for row in ROWS {
            for subleaf in subleaves(row, &ask, facts.xcr0 & SWITCHABLE) {
                let registers = ask(row.leaf, subleaf);
                policy.processor.insert((row.leaf, subleaf), registers);
                policy.guest.insert((row.leaf, subleaf), pass(row, registers));
            }
        }
        policy.hide_what_needs_more(facts);
        policy.make_up_extended_state(facts);
        policy.make_up_rate(facts.tsc_khz);
        if policy.cpuid(EXTENDED + 1, 0)[ECX] & TOPOEXT == 0 {
            policy.guest.retain(|(leaf, _), _| ![EXTENDED + 0x1d, EXTENDED + 0x1e].contains(leaf));
        }
        policy.make_up_last_leaves();
        policy
    }

    /// The same with these leaves, in place of those that are there or beside them.
    #[must_use]
    pub fn with(mut self, leaves: impl IntoIterator<Item = Leaf>) -> Self {
        self.guest.extend(leaves);
        self
    }

    fn guest_mut(&mut self, question: Question, register: usize) -> Option<&mut u32> {
        self.guest.get_mut(&question)?.get_mut(register)
    }

    /// Features that need what the host does not do.
    fn hide_what_needs_more(&mut self, facts: Processor) {
        let xcr0 = self.xcr0_of(facts);
        for feature in CONDITIONAL {
            let is_met = match feature.need {
                Need::State(components) => xcr0 & components == components,
                Need::RunsAtCpl3 => facts.fsgsbase,
                Need::Several => true, // the vCPU that asks will tell
            };
            if !is_met && let Some(shown) = self.guest_mut(feature.question, feature.register) {
                *shown &= !(1 << feature.bit);
            }
        }
    }

    /// The extended state that is switched: what the processor has, the host can keep, and this machine knows. None
    /// without XSAVE.
    fn xcr0_of(&self, facts: Processor) -> u64 {
        let [low, .., high] = self.processor.get(&(0xd, 0)).copied().unwrap_or_default();
        let has_xsave = self.processor.get(&(1, 0)).is_some_and(|[_, _, ecx, _]| ecx & XSAVE != 0);
        let all = (u64::from(high) << 32 | u64::from(low)) & facts.xcr0 & SWITCHABLE;
        if has_xsave { xstate::consistent(all) } else { 0 }
    }

    /// XSAVE, and leaf 0xd, by what is switched.
    fn make_up_extended_state(&mut self, facts: Processor) {
        let xcr0 = self.xcr0_of(facts);
        if let Some(ecx) = self.guest_mut((1, 0), ECX) {
            // CR4.OSXSAVE is on in the machine, whatever a guest's own CR4 says: so it is on Xen, and kernels count on it.
            *ecx |= if xcr0 == 0 { 0 } else { OSXSAVE };
        }
        self.guest.retain(|&(leaf, subleaf), _| {
            leaf != 0xd
                || (xcr0 != 0 && (subleaf < 2 || xcr0.checked_shr(subleaf).is_some_and(|x| x & 1 != 0)))
        });
        let components = self.components(None);
        let size = xstate::size(&components);
        if let Some(registers) = self.guest.get_mut(&(0xd, 0)) {
            *registers = [xcr0 as u32, size, size, (xcr0 >> 32) as u32];
        }
        if let Some([eax, ebx, ecx, edx]) = self.guest.get_mut(&(0xd, 1)) {
            let compacts = *eax & 1 << 1 != 0;
            (*ebx, *ecx, *edx) = (if compacts { xstate::compact_size(&components) } else { 0 }, 0, 0);
        }
    }

    /// Leaves 0x15 and 0x16, on a processor whose vendor gives them a meaning.
    fn make_up_rate(&mut self, tsc_khz: u32) {
        const CRYSTAL_HZ: u32 = 1_000_000;
        let intel = self.processor.get(&(0, 0)).is_some_and(|&[_, ebx, ecx, edx]| {
            [ebx, edx, ecx].map(u32::to_le_bytes).concat() == *b"GenuineIntel"
        });
        if !intel || tsc_khz == 0 {
            for leaf in [0x15, 0x16] {
                self.guest.remove(&(leaf, 0));
            }
            return;
        }
        let told = |policy: &Self, leaf| policy.processor.get(&(leaf, 0)).copied().unwrap_or_default();
        let mhz = tsc_khz / 1000;
        // What the processor says is told as long as it is complete.
        let [denominator, numerator, crystal, _] = told(self, 0x15);
        let ratio = match denominator != 0 && numerator != 0 && crystal != 0 {
            true => [denominator, numerator, crystal, 0],
            false => [1000, tsc_khz, CRYSTAL_HZ, 0],
        };
        let [base, most, bus, _] = told(self, 0x16);
        let frequencies = if base != 0 { [base, most, bus, 0] } else { [mhz, mhz, 0, 0] };
        self.guest.insert((0x15, 0), ratio);
        self.guest.insert((0x16, 0), frequencies);
    }

    /// The last leaf of each range, and the last subleaf of 7: the processor's, as far as this machine knows them, but at
    /// least the last that is there.
    fn make_up_last_leaves(&mut self) {
        for (first, end) in [(0, HYPERVISORS), (EXTENDED, u32::MAX)] {
            let last =
                self.guest.range((first, 0)..(end, 0)).next_back().map_or(first, |(&(leaf, _), _)| leaf);
            let known = ROWS.iter().map(|row| row.leaf).filter(|leaf| (first..end).contains(leaf)).max();
            if let Some(eax) = self.guest_mut((first, 0), EAX) {
                *eax = last.max((*eax).min(known.unwrap_or(first)));
            }
        }
        let last = self.guest.range((7, 0)..(8, 0)).next_back().map_or(0, |(&(_, subleaf), _)| subleaf);
        if let Some(eax) = self.guest_mut((7, 0), EAX) {
            *eax = last;
        }
    }

    /// Whether a leaf looks at ECX.
    pub fn has_subleaves(leaf: u32) -> bool {
        let row = ROWS.iter().find(|row| row.leaf == leaf);
        row.map_or(XEN_WITH_SUBLEAVES.contains(&leaf), |row| row.subleaves != Subleaves::None)
    }

    /// EAX, EBX, ECX and EDX of a leaf as no vCPU in particular sees it; zeros where there is none.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        let subleaf = if Self::has_subleaves(leaf) { subleaf } else { 0 };
        self.guest.get(&(leaf, subleaf)).copied().unwrap_or_default()
    }

    /// The same as a vCPU sees it.
    pub fn seen_by(&self, asker: Asker, leaf: u32, subleaf: u32) -> Registers {
        asker.lay_over(self, leaf, subleaf)
    }

    /// All leaves as a vCPU sees them.
    pub fn leaves(&self, asker: Asker) -> impl Iterator<Item = Leaf> {
        self.guest.keys().map(move |&(leaf, subleaf)| ((leaf, subleaf), self.seen_by(asker, leaf, subleaf)))
    }

    /// The components of extended state that a vCPU with this XCR0 has: number, and leaf 0xd of each.
    fn components(&self, xcr0: Option<u64>) -> Vec<(u32, Registers)> {
        let on = xcr0.filter(|_| self.honours_xcr0).unwrap_or(u64::MAX);
        let all = self.guest.range((0xd, 2)..(0xd, 64)).map(|(&(_, n), &registers)| (n, registers));
        all.filter(|(n, _)| on & 1 << n != 0).collect()
    }

    /// The extended state that guests may use, as XCR0 has it; none without XSAVE.
    pub fn xcr0(&self) -> u64 {
        let [low, .., high] = self.cpuid(0xd, 0);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Bits of a physical address; the bits of an entry above them are reserved.
    pub fn physical_address_bits(&self) -> u32 {
        self.cpuid(0x8000_0008, 0)[EAX] & 0xff
    }

    /// Whether the CPU has XSAVE, and CR4.OSXSAVE can be set.
    pub fn has_xsave(&self) -> bool {
        self.cpuid(1, 0)[ECX] & XSAVE != 0
    }

    /// What became of each register in which the processor or a guest has anything, as a vCPU sees it.
    pub fn told(&self, asker: Asker) -> Vec<Told> {
        let mut all = self.processor.clone();
        all.extend(&self.guest);
        let questions = all.into_keys();
        questions
            .flat_map(|question| (0..4).map(move |n| (question, n)))
            .filter_map(|(question, n)| self.told_of(asker, question, n))
            .collect()
    }

    fn told_of(&self, asker: Asker, (leaf, subleaf): Question, n: usize) -> Option<Told> {
        let word = |registers: Registers| registers.get(n).copied().unwrap_or_default();
        let processor = word(self.processor.get(&(leaf, subleaf)).copied().unwrap_or_default());
        let guest = word(self.seen_by(asker, leaf, subleaf));
        let row = ROWS.iter().find(|row| row.is_of(leaf, subleaf));
        let rule = row.and_then(|row| row.registers.get(n));
        let mut hidden = Vec::new();
        let mut made_up = None;
        match rule {
            Some(Register::Features(_, named)) => {
                let gone = (0..32).filter(|bit| processor & !guest & 1 << bit != 0);
                hidden = gone.map(|bit| reason((leaf, subleaf), n, named, bit)).collect();
            }
            Some(Register::MadeUp(how)) => made_up = Some(*how),
            Some(Register::Zero) if processor != guest => made_up = Some("not for guests"),
            Some(Register::Passed | Register::Zero) => {}
            None => made_up = Some("the hypervisor's own"),
        }
        let about = row.map_or("hypervisor", |row| row.about);
        let register = ["EAX", "EBX", "ECX", "EDX"].get(n)?;
        let nothing = processor == 0 && guest == 0;
        (!nothing).then_some(Told { leaf, subleaf, register, about, processor, guest, made_up, hidden })
    }
}

/// Why a feature is hidden.
fn reason(question: Question, n: usize, named: &[table::Hidden], bit: u32) -> HiddenFeature {
    if let Some(known) = named.iter().find(|known| known.bit == bit) {
        return HiddenFeature { bit, name: known.name, why: known.why };
    }
    let conditional =
        CONDITIONAL.iter().find(|known| (known.question, known.register, known.bit) == (question, n, bit));
    conditional.map_or(HiddenFeature { bit, name: "", why: table::UNKNOWN }, |known| HiddenFeature {
        bit,
        name: known.name,
        why: known.need.why(),
    })
}

impl Row {
    fn is_of(&self, leaf: u32, subleaf: u32) -> bool {
        let fits = match self.subleaves {
            Subleaves::None => subleaf == 0,
            Subleaves::One(one) => subleaf == one,
            Subleaves::Caches | Subleaves::Levels => true,
            Subleaves::Components => subleaf >= 2,
        };
        self.leaf == leaf && fits
    }
}

/// Which subleaves of a row the processor has.
fn subleaves(row: &Row, ask: &impl Fn(u32, u32) -> Registers, xcr0: u64) -> Vec<u32> {
    let [last, ..] = ask(row.leaf & EXTENDED, 0);
    if row.leaf > last || row.leaf & EXTENDED != last & EXTENDED {
        return Vec::new();
    }
    const MOST_CACHES: u32 = 16; // a list without an end has one here
    match row.subleaves {
        Subleaves::None => vec![0],
        Subleaves::One(subleaf) if row.leaf == 7 && subleaf > ask(7, 0)[EAX] => Vec::new(),
        Subleaves::One(subleaf) => vec![subleaf],
        Subleaves::Caches => (0..MOST_CACHES).take_while(|&n| ask(row.leaf, n)[EAX] & 0x1f != 0).collect(),
        Subleaves::Levels => vec![0, 1],
        Subleaves::Components => (2..64).filter(|n| xcr0 & 1 << n != 0).collect(),
    }
}

fn pass(row: &Row, registers: Registers) -> Registers {
    let mut passed = registers;
    for (word, rule) in passed.iter_mut().zip(&row.registers) {
        *word &= match rule {
            Register::Passed | Register::MadeUp(_) => u32::MAX,
            Register::Zero => 0,
            Register::Features(shown, _) => *shown,
        };
    }
    passed
}

#[cfg(test)]
mod tests;
