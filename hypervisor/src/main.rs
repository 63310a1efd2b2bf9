//! The `paravane` command.
use hypervisor::machine::kvm::*;
fn main() {
    for way in [None, Some(TableWay::Flush), Some(TableWay::Invalidate)] {
        let start = std::time::Instant::now();
        match KvmMachine::new(MachineConfig { frames: 65536, pcpus: 2, tables: way }) {
            Ok(m) => println!("{:#?} {:?}", m.report, start.elapsed()),
            Err(e) => println!("{e}"),
        }
    }
}
