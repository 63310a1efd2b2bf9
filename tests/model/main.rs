//! A reference model of frames, owners, types, counts and grants, beside the implementation: one accepts exactly what
//! the other does, and afterwards they agree about every frame, every entry in use and every mapping. In small scope
//! exhaustively, then at random.
//!
//! Needs no KVM. `MODEL_LONG=1` explores one operation further; `-- every_two_operations` takes seconds.

mod aim;
mod caches;
mod exhaustive;
mod grants;
mod invariants;
mod lending;
mod pair;
mod random;
mod real;
mod real_grants;
mod scenes;
mod state;
mod witness;

use exhaustive::Seen;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

fn main() -> ExitCode {
    let tests = vec![
        Trial::test("model/every_two_operations", every_two_operations),
        Trial::test("model/every_sequence_in_small_scope", every_sequence_in_small_scope),
        Trial::test("model/random_sequences", random_sequences),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// The same as below in seconds, to be run alone after each change: many defects need no more than two operations from one
/// of the scenes.
fn every_two_operations() -> Result<(), Failed> {
    let mut states = 0;
    for scene in lending::SCENES.iter().chain(&scenes::SCENES) {
        states += exhaustive::explore(scene, 2)?.states.len();
    }
    println!("model_states_of_two {states}");
    Ok(())
}

/// The scenes are shared out to two threads; a state that two of them reach counts once.
fn every_sequence_in_small_scope() -> Result<(), Failed> {
    let long = std::env::var_os("MODEL_LONG").is_some();
    let (all, next) =
        (Mutex::new(Seen::default()), Mutex::new(lending::SCENES.iter().chain(&scenes::SCENES)));
    let explore = || -> Result<(), String> {
        while let Some(scene) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            let seen = exhaustive::explore(scene, scene.depth + if long { scene.further } else { 0 })
                // Nobody begins another one then.
                .inspect_err(|_| {
                    next.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop)
                })?;
            println!("scene {:?}: {} states, {} calls", scene.name, seen.states.len(), seen.calls);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.states.extend(seen.states);
            all.calls += seen.calls;
            all.accepted += seen.accepted;
            all.stepped += seen.stepped;
            all.stepped_refused += seen.stepped_refused;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(explore));
        threads
            .map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".into())))
            .into_iter()
            .collect::<Result<(), String>>()
    })
    .map_err(Failed::from)?;
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("model_states {}", all.states.len());
    println!("model_calls {}", all.calls);
    println!("model_accepted {}", all.accepted);
    println!("model_stepped {}", all.stepped);
    println!("model_stepped_refused {}", all.stepped_refused);
    Ok(())
}

fn random_sequences() -> Result<(), Failed> {
    let mut total = [0; 4];
    for seed in 1..=400 {
        let outcomes = random::try_seed(seed, 1500)?;
        total.iter_mut().zip(outcomes).for_each(|(sum, count)| *sum += count);
    }
    println!("model_random_calls {}", total[..3].iter().sum::<u64>());
    println!("model_random_outcomes {total:?}");
    if total.iter().any(|&count| count < 1000) {
        return Err(format!("accepted, refused, interrupted, mapped: {total:?}").into());
    }
    Ok(())
}
