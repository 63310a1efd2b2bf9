//! Where a guest's exceptions and software interrupts go.

use pv_abi::trap::{TrapInfo, VECTORS};

/// One entry a vector; an address of 0 means that there is no handler.
#[derive(Clone, Debug)]
pub struct TrapTable(Box<[TrapInfo; VECTORS]>);

impl Default for TrapTable {
    fn default() -> Self {
        Self(Box::new([TrapInfo::default(); VECTORS]))
    }
}

impl TrapTable {
    /// The handler of a vector. Its address is 0 where none is set.
    pub fn get(&self, vector: u8) -> TrapInfo {
        self.0.get(usize::from(vector)).copied().unwrap_or_default()
    }

    /// Sets the entry of the vector that `info` names.
    pub fn set(&mut self, info: TrapInfo) {
        if let Some(entry) = self.0.get_mut(usize::from(info.vector)) {
            *entry = info;
        }
    }

    /// Forgets the handlers of all vectors.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
