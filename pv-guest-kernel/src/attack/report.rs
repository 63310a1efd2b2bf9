//! Lines of the attack: `ok` for an attempt that was refused, `FAIL` for one that succeeded.

use core::fmt::{Debug, Display};

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::Errno;
use pv_abi::trap::Vector;

use crate::arch::guard::Trap;
use crate::grant;

/// How many attempts have been made, and how many of those the hypervisor refused.
#[derive(Default)]
pub struct Report {
    pub tried: u32,
    pub refused: u32,
}

impl Report {
    /// An attempt with its outcome in words.
    pub fn attempt(&mut self, what: impl Display, refused: bool, outcome: impl Display) {
        self.tried += 1;
        self.refused += u32::from(refused);
        println!("{} {what}: {outcome}", if refused { "ok  " } else { "FAIL" });
    }

    /// The same attempt at several places: one line, unless one of them succeeds.
    pub fn everywhere<P: Display, T: Debug, E: Reason>(
        &mut self,
        what: impl Display,
        attempts: impl Iterator<Item = (P, Result<T, E>)>,
    ) {
        let (mut count, mut reasons) = (0, Vec::new());
        for (place, result) in attempts {
            match result {
                Ok(value) => {
                    self.attempt(format_args!("{what} {place}"), false, format_args!("done, {value:x?}"))
                }
                Err(error) => {
                    count += 1;
                    let reason = error.in_words();
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            }
        }
        self.tried += count;
        self.refused += count;
        if count > 0 {
            println!("ok   {what} {count} places: each refused, {}", reasons.join(" or "));
        }
    }

    /// An attempt by hypercall or by instruction.
    pub fn refusal<T: Debug, E: Reason>(&mut self, what: impl Display, result: Result<T, E>) {
        match result {
            Err(error) => self.attempt(what, true, format_args!("refused, {}", error.in_words())),
            Ok(value) => self.attempt(what, false, format_args!("done, {value:x?}")),
        }
    }
}

/// Why an attempt did not succeed.
pub trait Reason {
    fn in_words(&self) -> String;
}

impl Reason for Errno {
    fn in_words(&self) -> String {
        format!("{self}")
    }
}

impl Reason for grant::Error {
    fn in_words(&self) -> String {
        match self {
            Self::Refused(error) => error.in_words(),
            Self::Failed(status) => format!("{status}"),
            other => format!("{other}"),
        }
    }
}

impl Reason for Trap {
    fn in_words(&self) -> String {
        match Vector(self.vector as u8) {
            Vector::GENERAL_PROTECTION => "general protection".into(),
            Vector::PAGE_FAULT => "page fault".into(),
            _ => format!("trap {:#x}", self.vector),
        }
    }
}
