//! How much memory the machine is to have.

use super::spec::Spec;
use crate::cli::commands::args::RunArgs;
use crate::cli::status::Failure;
use hypervisor::builder::Amount;
use hypervisor::machine::kvm::{MOST_FRAMES, frames_needed};

/// Pages of 4 KiB in a mebibyte.
const MEBIBYTE: u64 = 256;

/// Frames of a domain that are not its memory: its shared info page, and room for the builder.
const DOMAIN_OVERHEAD: u64 = 16;

/// The machine's frames: what was asked for, or what the domains and the hypervisor need.
pub fn machine_frames(specs: &[Spec], args: &RunArgs) -> Result<u64, Failure> {
    let memory = Amount(specs.iter().map(|spec| spec.memory.0).sum());
    let overhead = DOMAIN_OVERHEAD.saturating_mul(specs.len() as u64);
    let needed = needed_frames(memory.0.saturating_add(overhead), args.pcpus);
    if let Some(host) = host_memory().filter(|host| memory.0 > host.0) {
        let what = match specs {
            [spec] => spec.origin.setting("memory"),
            _ => format!("the memory of {} domains", specs.len()),
        };
        return Err(Failure::about(what, format_args!("{memory} is more than this host has ({host})")));
    }
    if let Some((machine, host)) =
        args.machine_memory.zip(host_memory()).filter(|(machine, host)| machine.0 > host.0)
    {
        let message = format_args!("{machine} is more than this host has ({host})");
        return Err(Failure::about("--machine-memory", message));
    }
    let guests = match specs.len() {
        1 => "a guest's".to_owned(),
        many => format!("{many} guests' together"),
    };
    match args.machine_memory {
        Some(machine) if machine.0 < needed => Err(Failure::about(
            "--machine-memory",
            format_args!(
                "{guests} {memory} do not fit into a machine of {machine}: with the hypervisor's own, {} are needed",
                Amount(needed.next_multiple_of(MEBIBYTE))
            ),
        )),
        Some(machine) => Ok(machine.0),
        None if needed > MOST_FRAMES => {
            let most = Amount(MOST_FRAMES);
            let message = format_args!("with the hypervisor's own, {guests} {memory} are more than {most}");
            Err(Failure::about("the machine's memory", message))
        }
        None => Ok(needed),
    }
}

/// The least machine that leaves `domain` frames to domains. What the hypervisor needs grows with the machine.
pub fn needed_frames(domain: u64, pcpus: u32) -> u64 {
    let mut frames = domain;
    loop {
        let needed = domain.saturating_add(frames_needed(frames, pcpus));
        if needed <= frames {
            return frames;
        }
        frames = needed;
    }
}

/// The memory of this host in whole mebibytes, where it can be found out.
fn host_memory() -> Option<Amount> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(Amount((kib >> 10).saturating_mul(MEBIBYTE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_just_large_enough_is_found() {
        for domain in [1, 4096, 1 << 20] {
            let frames = needed_frames(domain, 2);
            assert!(frames - frames_needed(frames, 2) >= domain);
            assert!(frames - frames_needed(frames, 2) < domain + 64, "far too large for {domain}: {frames}");
        }
    }
}
