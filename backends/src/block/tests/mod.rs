//! The block back-end against front-ends that behave, front-ends that do not, and hosts that fail.

mod basics;
mod crash;
mod faults;
mod faulty;
mod front;
mod hostile;
mod images;
mod model;
mod order;
mod qcow2;
mod random;
mod threads;
