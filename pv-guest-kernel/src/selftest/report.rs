//! Lines of the self-test: `ok` or `FAIL`, what was done, what came of it; `skip` for what cannot be tried.

use alloc::format;
use core::fmt::{Debug, Display};

use pv_abi::Errno;

use crate::arch::guard::Trap;

/// How many checks have passed and failed so far.
#[derive(Default)]
pub struct Report {
    pub passed: u32,
    pub failed: u32,
}

impl Report {
    /// A check with its outcome in words.
    pub fn check(&mut self, what: &str, ok: bool, outcome: impl Display) {
        if ok {
            self.passed += 1;
            println!("ok   {what}: {outcome}");
        } else {
            self.failed += 1;
            println!("FAIL {what}: {outcome}");
        }
    }

    /// Checks that cannot be made here.
    pub fn left_out(&mut self, what: &str, reason: &str) {
        println!("skip {what}: {reason}");
    }

    /// Two values have to be equal.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: &str, got: T, expected: T) {
        if got == expected {
            self.check(what, true, format_args!("{got:x?}"));
        } else {
            self.check(what, false, format_args!("{got:x?} instead of {expected:x?}"));
        }
    }

    /// A call has to be made, and to return 0.
    pub fn done(&mut self, what: &str, result: Result<u64, Errno>) {
        match result {
            Ok(0) => self.check(what, true, "done"),
            Ok(value) => self.check(what, false, format_args!("returned {value:#x}")),
            Err(error) => self.check(what, false, format_args!("refused, {error}")),
        }
    }

    /// A call has to be refused with one error number.
    pub fn refused(&mut self, what: &str, result: Result<u64, Errno>, expected: Errno) {
        match result {
            Err(error) if error == expected => self.check(what, true, format_args!("refused, {error}")),
            Err(error) => self.check(what, false, format_args!("refused, {error} instead of {expected}")),
            Ok(value) => self.check(what, false, format_args!("done ({value:#x}), {expected} expected")),
        }
    }

    /// Passes where the code has raised the exception `vector` with this error code, and not run to its end.
    pub fn traps(&mut self, what: &str, result: &Result<u64, Trap>, vector: u64, error: u64) {
        let outcome = match result {
            Ok(_) => return self.check(what, false, "no trap"),
            Err(trap) => (trap.vector, trap.error),
        };
        let words = format!("vector {:#x}, error code {:#x}", outcome.0, outcome.1);
        if outcome == (vector, error) {
            self.check(what, true, words);
        } else {
            self.check(what, false, format_args!("{words}; expected {vector:#x}, {error:#x}"));
        }
    }

    /// Code has to run to its end.
    pub fn runs(&mut self, what: &str, result: &Result<u64, Trap>, expected: u64) {
        match result {
            Ok(value) => self.equal(what, *value, expected),
            Err(trap) => self.check(
                what,
                false,
                format_args!("vector {:#x}, error code {:#x}", trap.vector, trap.error),
            ),
        }
    }
}
