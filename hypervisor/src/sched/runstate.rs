//! Where a vCPU's time goes, as guests are told it (`vcpu_runstate_info`).

use pv_abi::vcpu::{Runstate, VcpuRunstateInfo};

/// What a vCPU does, since when, and for how long it has done each thing before.
#[derive(Clone, Copy, Debug)]
pub struct Account(VcpuRunstateInfo);

impl Default for Account {
    /// That of a vCPU that was not started yet.
    fn default() -> Self {
        Self(VcpuRunstateInfo { state: Runstate::OFFLINE, padding: 0, state_entry_time: 0, time: [0; 4] })
    }
}

impl Account {
    /// From system time `now` on it does `state`.
    pub fn note(&mut self, state: Runstate, now: u64) {
        if self.0.state != state {
            self.0 = VcpuRunstateInfo { state, state_entry_time: now, ..self.until(now) };
        }
    }

    /// As of its last change.
    pub const fn info(&self) -> VcpuRunstateInfo {
        self.0
    }

    /// With what it does counted until `now`.
    pub fn until(&self, now: u64) -> VcpuRunstateInfo {
        let mut info = self.0;
        if let Some(time) = info.time.get_mut(info.state.0 as usize) {
            *time = time.saturating_add(now.saturating_sub(info.state_entry_time));
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_time_is_in_one_state_or_another() {
        let mut account = Account::default();
        for (state, now) in [
            (Runstate::RUNNABLE, 10),
            (Runstate::RUNNING, 15),
            (Runstate::RUNNING, 20),
            (Runstate::BLOCKED, 35),
            (Runstate::RUNNABLE, 36),
        ] {
            account.note(state, now);
        }
        let info = account.info();
        assert_eq!((info.state, info.state_entry_time, info.time), (Runstate::RUNNABLE, 36, [20, 5, 1, 10]));
        assert_eq!(account.until(40).time, [20, 9, 1, 10]);
        assert_eq!(account.until(40).time.iter().sum::<u64>(), 40);
        assert_eq!(account.until(30).time, info.time, "a clock that another pcpu has read later");
    }
}
