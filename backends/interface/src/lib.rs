//! What Paravane's back-ends and its hypervisor know of each other: [`host::Host`], which the one uses and the other
//! implements, and [`bell::Bell`], by which they wake each other.
//!
//! The hypervisor's core depends on this crate, and not on the back-ends, their images and their engines.
// What a peer can reach must not panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]

pub mod bell;
pub mod host;
