//! A machine without KVM: its memory is real, its pcpus and its TLBs are made up. What lies above the machine is
//! tested on it.
