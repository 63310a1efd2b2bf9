//! A panic is a defect of the hypervisor's own. Where work for one guest panics all the same, that guest ends, and
//! nobody else: what the work held is not given back, so the frames in question stay out of use.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, at this moment, ends less than the process.
pub fn is_contained() -> bool {
    CONTAINED.get()
}

/// Does work for one guest.
///
/// # Errors
/// Where it panicked, with what.
pub fn contained<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let outer = CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    outcome.map_err(|panic| format!("a defect of the hypervisor: {}", text(&*panic)))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_an_error_and_outside_is_none_of_it() {
        assert!(!is_contained());
        assert_eq!(contained(is_contained).ok(), Some(true));
        let why = contained(|| {
            assert!(contained(|| panic!("the inner one")).is_err() && is_contained());
            panic!("{} on purpose", 1);
        });
        assert_eq!(why, Err::<(), _>("a defect of the hypervisor: 1 on purpose".into()));
        assert!(!is_contained());
    }
}
