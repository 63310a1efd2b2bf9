//! Rows about programs that only compute: `cpu`. The guest and the host run the same code.

use crate::bench::computation::{Chain, Computation};
use crate::bench::guest::Laboratory;
use crate::bench::image::{GATE, Program};
use crate::bench::sampling::{Sample, pairs};
use crate::bench::{Aim, BenchError, PER_SECOND, Row, Sink};
use std::cell::Cell;
use std::time::Instant;

/// Lines of the chain: 256 MiB.
const LINES: u32 = 4 << 20;
const SECOND: f64 = 1e9;

/// What is computed, in how many rounds a sample, and how fast it is to be.
const COMPUTATIONS: [(&str, Computation, u64, f64); 3] = [
    ("integer", Computation::Integer, 8 << 20, 0.99),
    ("avx", Computation::Avx, 4 << 20, 0.99),
    ("pointer-chase", Computation::Chase, 256 << 10, 0.97),
];

/// Measures the rows `core/cpu/...`, each of `count` pairs, and hands them to `sink`.
pub fn run(count: usize, sink: Sink<'_>) -> Result<(), BenchError> {
    let chain = Chain::new(LINES);
    let laboratory = Laboratory::with_ramdisk(chain.bytes())?;
    for (name, computation, rounds, least) in COMPUTATIONS {
        let name = format!("core/cpu/{name}");
        if !computation.is_possible() {
            sink(Row::skipped(name, "this host has no AVX"));
            continue;
        }
        laboratory.site.poke(GATE, computation.code())?;
        let compared = Compared { laboratory: &laboratory, chain: &chain, computation, rounds };
        let row = Row::paired(name, &compared.pairs(count)?).in_unit(PER_SECOND);
        sink(row.aiming(Aim::AtLeast(least)));
    }
    Ok(())
}

/// A computation that the guest and the host make in turns.
struct Compared<'a> {
    laboratory: &'a Laboratory,
    chain: &'a Chain,
    computation: Computation,
    rounds: u64,
}

impl Compared<'_> {
    /// Rounds in a second, of the guest and of the host. Each begins with what came of the last sample: a chain goes on
    /// where it stopped, since what was just read is in a cache. Both must come to the same.
    fn pairs(&self, count: usize) -> Result<Vec<(f64, f64)>, BenchError> {
        let (guest, host) = (Cell::new(0), Cell::new(0));
        let pairs = pairs(count, || self.guest(&guest), || self.host(&host))?;
        match guest == host {
            true => Ok(pairs),
            false => Err(BenchError::Guest(format!("computes {guest:x?}, and the host {host:x?}"))),
        }
    }

    fn guest(&self, word: &Cell<u64>) -> Sample {
        let words = [self.laboratory.site.ramdisk, word.get()];
        let [ticks, result] = self.laboratory.call(Program::Compute, self.rounds, &words)?;
        word.set(result);
        Ok(self.rounds as f64 * SECOND / self.laboratory.nanoseconds(ticks))
    }

    fn host(&self, word: &Cell<u64>) -> Sample {
        let start = Instant::now();
        let result = self.computation.run(self.rounds, self.chain, word.get());
        let nanoseconds = start.elapsed().as_nanos() as f64;
        word.set(result.ok_or_else(|| BenchError::Guest("left the chain".into()))?);
        Ok(self.rounds as f64 * SECOND / nanoseconds)
    }
}
