//! What is told of a crash, and the names in it. [`crate::report`] makes one of a vCPU.

use crate::machine::Registers;
use crate::vcpu::Mode;
use pv_abi::{DomId, VcpuId};
use std::fmt;

/// Names of addresses in a guest's kernel.
#[derive(Clone, Debug, Default)]
pub struct SymbolTable(Vec<Symbol>);

/// A function of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The linear address of the function's first byte.
    pub address: u64,
    /// Its bytes; 0 where the image does not say.
    pub size: u64,
    /// The function's name, demangled where that is possible.
    pub name: String,
}

impl FromIterator<Symbol> for SymbolTable {
    fn from_iter<I: IntoIterator<Item = Symbol>>(symbols: I) -> Self {
        let mut table: Vec<_> = symbols.into_iter().collect();
        table.sort_by_key(|symbol| symbol.address);
        Self(table)
    }
}

impl SymbolTable {
    /// The function that `address` is in, and how far in.
    pub fn find(&self, address: u64) -> Option<(&str, u64)> {
        let behind = self.0.partition_point(|symbol| symbol.address <= address);
        let symbol = self.0.get(behind.checked_sub(1)?)?;
        let offset = address.checked_sub(symbol.address)?;
        (symbol.size == 0 || offset < symbol.size).then_some((symbol.name.as_str(), offset))
    }

    /// Function and offset of an address. One that a call returns to may lie behind the caller's end: a call that
    /// does not come back can be the last instruction.
    pub fn describe(&self, address: u64, is_return: bool) -> Option<String> {
        let back = u64::from(is_return);
        let (name, offset) = self.find(address.checked_sub(back)?)?;
        Some(format!("{name}+{:#x}", offset.saturating_add(back)))
    }
}

/// An address of code, with its name where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The linear address, in the crashed guest.
    pub address: u64,
    /// The function that the address is in, and the offset there.
    pub symbol: Option<String>,
}

/// What is told of a crash, or of a failure of the host.
#[derive(Clone, Debug)]
pub struct CrashReport {
    /// Why the domain could not go on, in words.
    pub reason: String,
    /// The host failed, or the hypervisor has a defect; the guest is not to blame.
    pub is_hosts: bool,
    /// The domain that has crashed.
    pub domain: DomId,
    /// The vCPU that it happened on.
    pub vcpu: VcpuId,
    /// Which half of the guest ran.
    pub mode: Mode,
    /// The vCPU's registers at that moment.
    pub registers: Registers,
    /// Code and stack selectors.
    pub selectors: (u16, u16),
    /// The bytes at RIP, those that can be read.
    pub code: Vec<u8>,
    /// The instruction there, where it is a privileged one: nothing has carried it out.
    pub privileged: Option<String>,
    /// Where it was, and by the frame pointers who called.
    pub calls: Vec<Location>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.registers;
        let Self { reason, domain, vcpu, mode, .. } = self;
        let how = if self.is_hosts { "cannot go on" } else { "crashed" };
        let whose = if self.is_hosts { "the host failed: " } else { "" };
        writeln!(f, "{domain} vCPU {} {how} in {mode:?} mode: {whose}{reason}", vcpu.0)?;
        let (cs, ss) = self.selectors;
        writeln!(f, "  rip {:#018x}  cs {cs:#06x}  rflags {:#010x}", r.rip, r.rflags)?;
        writeln!(f, "  rsp {:#018x}  ss {ss:#06x}", r.rsp)?;
        for (names, values) in [
            (["rax", "rbx", "rcx", "rdx"], [r.rax, r.rbx, r.rcx, r.rdx]),
            (["rsi", "rdi", "rbp", "r8 "], [r.rsi, r.rdi, r.rbp, r.r8]),
            (["r9 ", "r10", "r11", "r12"], [r.r9, r.r10, r.r11, r.r12]),
            (["r13", "r14", "r15", "   "], [r.r13, r.r14, r.r15, 0]),
        ] {
            let shown = names.iter().zip(values).filter(|(name, _)| **name != "   ");
            let line: Vec<_> = shown.map(|(name, value)| format!("{name} {value:#018x}")).collect();
            writeln!(f, "  {}", line.join("  "))?;
        }
        let code: Vec<_> = self.code.iter().map(|byte| format!("{byte:02x}")).collect();
        let code = if code.is_empty() { "cannot be read".into() } else { code.join(" ") };
        let privileged =
            self.privileged.iter().map(|name| format!("  ({name}: privileged, and not emulated)"));
        writeln!(f, "  code at rip: {code}{}", privileged.collect::<String>())?;
        for (depth, call) in self.calls.iter().enumerate() {
            let symbol = call.symbol.as_deref().unwrap_or("?");
            writeln!(f, "  #{depth:<2} {:#018x}  {symbol}", call.address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_by_the_function_that_it_is_in() {
        let symbol = |address, size, name: &str| Symbol { address, size, name: name.into() };
        let table: SymbolTable =
            [symbol(0x200, 0, "last"), symbol(0x100, 0x10, "first")].into_iter().collect();
        assert_eq!(table.find(0x10f), Some(("first", 0xf)));
        assert_eq!((table.find(0x110), table.find(0xff)), (None, None));
        assert_eq!(table.find(0x1234), Some(("last", 0x1034)));
        assert_eq!(table.describe(0x110, true), Some("first+0x10".into()));
        assert_eq!((table.describe(0x110, false), table.describe(0, true)), (None, None));
    }
}
