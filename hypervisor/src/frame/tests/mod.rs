//! What the heads of this module's files promise.

mod table;
mod word;
