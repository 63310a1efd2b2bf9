//! Grants between two guests, as they make the calls, on a machine with a model of TLBs.

mod copying;
mod hostile;
mod mapping;
mod pair;
