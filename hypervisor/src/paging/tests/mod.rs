//! Tests on a fake machine. Every one ends with an audit, and with a look for stale translations.

mod world;

mod basics;
