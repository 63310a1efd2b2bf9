//! What things cost, next to the least that they could cost here.
//!
//! Hosts are shared and noisy, so a figure by itself says little. Each row is measured in pairs: once through
//! Paravane's ordinary path, once by its *floor*, the smallest program that does the same on this host, one after
//! the other in the same run. A row's ratio is the median of the pairs' ratios. Floors are never stored.
//!
//! - [`statistics`] and [`row`]: what samples come to;
//! - [`sampling`]: who is measured when; [`split_mix`]: which places and samples are chosen;
//! - [`image`], [`site`], [`guest`]: a tiny guest, the domain that it lives in, and how it is told what to do;
//! - [`computation`]: what the guest and the host compute alike;
//! - [`kernel_domain`], [`first_process`]: a whole kernel with its console and store, and the first process of Linux;
//! - [`floor`], [`mock`]: the floors;
//! - [`core`], [`block`]: the rows of the suites.
//!
//! `docs/measuring.md` says what each row means.

mod block;
mod computation;
mod core;
mod first_process;
mod floor;
mod guest;
mod image;
mod kernel_domain;
mod mock;
mod row;
mod sampling;
mod site;
mod split_mix;
pub mod statistics;

pub use row::{Aim, EACH, NANOSECONDS, PER_SECOND, Row};

use crate::builder::{BuildError, ImageError, PlanError};
use crate::error::{Failure, Refusal};
use crate::machine::kvm::HostError;
use crate::machine::{MachineError, NoSuchFrame};
use crate::paging::BadAddress;
use std::io;

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message says it
pub enum BenchError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the domain cannot be built: {0}")]
    Build(#[from] BuildError),
    #[error("the guest's image: {0}")]
    Image(#[from] ImageError),
    #[error("the guest's plan: {0}")]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error(transparent)]
    Frame(#[from] NoSuchFrame),
    #[error("{0}")]
    Console(#[from] backends::Disconnect),
    #[error("the guest {0}")]
    Guest(String),
    #[error("the store: {0}")]
    Store(#[from] backends::xenstore::StoreError),
    #[error("{0}: {1}")]
    File(String, io::Error),
    #[error(transparent)]
    Disk(#[from] backends::block::image::ImageError),
    #[error("{0}")]
    Qemu(String),
}

impl From<Refusal> for BenchError {
    fn from(refusal: Refusal) -> Self {
        Self::Failure(refusal.into())
    }
}

/// Takes rows as they are finished.
pub type Sink<'a> = &'a mut dyn FnMut(Row);

/// What is measured, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Pairs of measurements that make a row.
    pub pairs: usize,
    /// An unpacked image of Linux, for the row `core/boot/linux`; without one the row is skipped.
    pub linux: Option<&'a [u8]>,
}

/// Rows that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What the command line calls it.
    pub name: &'static str,
    /// Measures the suite's rows and hands each to the sink when it is finished.
    pub run: fn(settings: &Settings<'_>, sink: Sink<'_>) -> Result<(), BenchError>,
}

/// All suites. The first is measured where nobody says which.
pub const SUITES: [Suite; 2] =
    [Suite { name: "core", run: core::run }, Suite { name: "block", run: block::run }];

/// The suite of that name.
pub fn suite(name: &str) -> Option<Suite> {
    SUITES.into_iter().find(|suite| suite.name == name)
}
