//! What this process gives up before it does anything else. A guest that broke out of its machine would be this process:
//! it then gets no more rights by executing something, and no other process of the same user reads its memory, nor
//! finds it in a core dump. That is little; `docs/security.md` says what is not confined.

use crate::cli::status::Failure;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

/// For the process and all that it starts: nothing can undo the first.
pub fn confine() -> Result<(), Failure> {
    let failed = |what: &'static str| move |error| Failure::about(what, std::io::Error::from(error));
    set_no_new_privs(true).map_err(failed("no_new_privs cannot be set"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("core dumps cannot be forbidden"))
}
