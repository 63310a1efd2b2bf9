//! Kernel mode and user mode. Both run at CPL3: which one it is, is the hypervisor's to know, and a switch swaps the
//! root table and GS.

use super::Vcpu;
#[cfg(test)]
use crate::paging::{Budget, Mmu};
#[cfg(test)]
use pv_abi::Mfn;

/// Which half of the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The guest's kernel runs, on the kernel's root table.
    Kernel,
    /// A program of its kernel's.
    User,
}

impl Vcpu {
    /// The privilege level that the guest believes to be at: its kernel's is 1, and 0 where the kernel asked for that by
    /// `VMASST_TYPE_architectural_iopl`.
    pub fn virtual_cpl(&self) -> u8 {
        match self.mode {
            Mode::Kernel if self.shows_iopl() => 0,
            Mode::Kernel => 1,
            Mode::User => 3,
        }
    }

    /// Whether I/O instructions, `cli` and `sti` are carried out for what runs.
    pub fn has_io_privilege(&self) -> bool {
        self.virtual_cpl() <= self.iopl
    }

    /// Switches to the kernel: its root and its GS base.
    pub(super) fn enter_kernel(&mut self) {
        if self.mode == Mode::User {
            self.mode = Mode::Kernel;
            self.swap_gs();
            self.reload_root();
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn enter_kernel_for_test(&mut self) {
        self.enter_kernel();
    }

    #[cfg(test)]
    pub(crate) fn user_for_test(&mut self, mmu: &Mmu, root: Mfn) {
        let taken = mmu.new_user_baseptr(self.domain, &mut self.roots, Some(root), &mut Budget::unlimited());
        assert!(taken.is_ok() && self.enter_user());
    }

    /// Switches to user mode. False, and nothing is changed, where it has no root.
    pub(super) fn enter_user(&mut self) -> bool {
        if self.roots.user().is_none() {
            return false;
        }
        if self.mode == Mode::Kernel {
            self.mode = Mode::User;
            self.swap_gs();
            self.reload_root();
        }
        true
    }

    fn swap_gs(&mut self) {
        std::mem::swap(&mut self.context.gs_base, &mut self.other_gs_base);
        if self.context.gs != self.other_gs {
            std::mem::swap(&mut self.context.gs, &mut self.other_gs);
            self.context.segments_changed = true;
        }
    }

    /// Takes over a kernel root that paging has changed; the old one may be a table no more.
    pub fn replace_root(&mut self) {
        self.context.root_replaced = true;
        self.reload_root();
    }

    /// Takes the root of the mode.
    pub(super) fn reload_root(&mut self) {
        let root = match self.mode {
            Mode::Kernel => self.roots.kernel(),
            Mode::User => self.roots.user(),
        };
        self.context.root = root.unwrap_or(self.context.root);
    }
}
