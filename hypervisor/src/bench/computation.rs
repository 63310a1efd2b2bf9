//! What the rows `core/cpu/...` compute: code that the guest and the host run, byte for byte the same.
//!
//! Each is a function of the System V ABI, which takes how many rounds, an address and a word, and returns a word. It
//! leaves R12 to R15 alone, calls nothing, and can lie anywhere.
#![allow(unsafe_code)] // assembly

use super::split_mix::SplitMix64;
use std::arch::global_asm;
use zerocopy::IntoBytes;

/// Bytes of the code of each, padded.
const SIZE: usize = 128;
/// Bytes from one link of a chain to the next: a line of a cache.
const LINE: usize = 64;
const LINE_WORDS: usize = LINE / 8;

global_asm!(
    ".pushsection .text.paravane_bench_computation, \"ax\"",
    ".balign 64",
    ".global paravane_bench_integer, paravane_bench_avx, paravane_bench_chase",
    // Multiplies, shifts and adds, each round with the result of the one before.
    "paravane_bench_integer:",
    "    mov rax, rdi",
    "    movabs rcx, 0x9e3779b97f4a7c15",
    "2:  imul rax, rcx",
    "    mov rdx, rax",
    "    shr rdx, 29",
    "    xor rax, rdx",
    "    add rax, rdi",
    "    dec rdi",
    "    jnz 2b",
    "    ret",
    ".org paravane_bench_integer + {size}, 0xcc",
    // Four vectors, each by itself: x / 3 + 3.
    "paravane_bench_avx:",
    "    mov eax, 3",
    "    vxorpd xmm0, xmm0, xmm0",
    "    vcvtsi2sd xmm0, xmm0, eax",
    "    vmovddup xmm0, xmm0",
    "    vinsertf128 ymm0, ymm0, xmm0, 1",
    "    vdivpd ymm5, ymm0, ymm0",
    "    vdivpd ymm5, ymm5, ymm0",
    "    vxorpd ymm1, ymm1, ymm1",
    "    vmovapd ymm2, ymm0",
    "    vmovapd ymm3, ymm5",
    "    vaddpd ymm4, ymm0, ymm0",
    "2:  vmulpd ymm1, ymm1, ymm5",
    "    vmulpd ymm2, ymm2, ymm5",
    "    vmulpd ymm3, ymm3, ymm5",
    "    vmulpd ymm4, ymm4, ymm5",
    "    vaddpd ymm1, ymm1, ymm0",
    "    vaddpd ymm2, ymm2, ymm0",
    "    vaddpd ymm3, ymm3, ymm0",
    "    vaddpd ymm4, ymm4, ymm0",
    "    dec rdi",
    "    jnz 2b",
    "    vaddpd ymm1, ymm1, ymm2",
    "    vaddpd ymm3, ymm3, ymm4",
    "    vaddpd ymm1, ymm1, ymm3",
    "    vextractf128 xmm1, ymm1, 1",
    "    vmovq rax, xmm1",
    "    vzeroupper",
    "    ret",
    ".org paravane_bench_avx + {size}, 0xcc",
    // From link to link of a chain.
    "paravane_bench_chase:",
    "    mov rax, rdx",
    "2:  mov rax, [rsi + rax]",
    "    dec rdi",
    "    jnz 2b",
    "    ret",
    ".org paravane_bench_chase + {size}, 0xcc",
    ".popsection",
    size = const SIZE,
);

unsafe extern "sysv64" {
    safe fn paravane_bench_integer(rounds: u64, address: u64, word: u64) -> u64;
    fn paravane_bench_avx(rounds: u64, address: u64, word: u64) -> u64;
    fn paravane_bench_chase(rounds: u64, address: u64, word: u64) -> u64;
}

/// Which of the computations a row measures, in the guest and on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Computation {
    /// General registers only.
    Integer,
    /// AVX: vectors of 256 bits.
    Avx,
    /// Loads of which each depends on the one before, all over a [`Chain`].
    Chase,
}

impl Computation {
    /// The machine code of the computation, padded to 128 bytes. It can lie at any address.
    pub fn code(self) -> &'static [u8] {
        let code = match self {
            Self::Integer => paravane_bench_integer as *const u8,
            Self::Avx => paravane_bench_avx as *const u8,
            Self::Chase => paravane_bench_chase as *const u8,
        };
        // SAFETY: each of them is padded to that size above, and code does not change.
        unsafe { std::slice::from_raw_parts(code, SIZE) }
    }

    /// Whether this host's processor and kernel can do it.
    pub fn is_possible(self) -> bool {
        self != Self::Avx || std::arch::is_x86_feature_detected!("avx")
    }

    /// What it comes to on this host: at least one round, from a place in a chain. None where it is not possible.
    pub fn run(self, rounds: u64, chain: &Chain, at: u64) -> Option<u64> {
        let rounds = rounds.max(1);
        match self {
            Self::Integer => Some(paravane_bench_integer(rounds, 0, 0)),
            // SAFETY: the host has AVX, and the code touches no memory.
            Self::Avx => self.is_possible().then(|| unsafe { paravane_bench_avx(rounds, 0, 0) }),
            Self::Chase => {
                let is_link = at.is_multiple_of(LINE as u64) && (at as usize) < chain.bytes().len();
                let address = chain.words.as_ptr() as u64;
                // SAFETY: it reads at `at` and at what each link says, and all of these are links of the chain.
                is_link.then(|| unsafe { paravane_bench_chase(rounds, address, at) })
            }
        }
    }
}

/// Links in memory, one a line, each with the offset of the next: one ring through all of them, in no order that a
/// processor could foresee.
#[derive(Debug)]
pub struct Chain {
    words: Vec<u64>,
}

impl Chain {
    /// Over so many lines, at least one.
    pub fn new(lines: u32) -> Self {
        let lines = lines.max(1);
        let mut order: Vec<u32> = (0..lines).collect();
        let mut random = SplitMix64(u64::from(lines));
        // Sattolo's: each place changes with one before it, so that what comes out is one ring.
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last));
        }
        let mut words = vec![0; lines as usize * LINE_WORDS];
        for (line, next) in words.chunks_exact_mut(LINE_WORDS).zip(order) {
            if let Some(link) = line.first_mut() {
                *link = u64::from(next) * LINE as u64;
            }
        }
        Self { words }
    }

    /// The links as they lie in memory: a line of 64 bytes each.
    pub fn bytes(&self) -> &[u8] {
        self.words.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_ring_through_all_lines() {
        let chain = Chain::new(1000);
        let mut seen = vec![false; 1000];
        let mut at = 0;
        for _ in 0..1000 {
            at = Computation::Chase.run(1, &chain, at).unwrap();
            assert!(!std::mem::replace(&mut seen[at as usize / LINE], true), "{at:#x} comes twice");
        }
        assert_eq!((at, Computation::Chase.run(1000, &chain, 64)), (0, Some(64)));
        assert_eq!(Computation::Chase.run(1, &chain, 64_000), None, "behind the chain");
        assert_eq!(Computation::Chase.run(1, &chain, 8), None, "no link");
    }

    #[test]
    fn what_is_computed_depends_on_each_round() {
        let chain = Chain::new(1);
        for computation in [Computation::Integer, Computation::Avx] {
            if computation.is_possible() {
                assert_ne!(computation.run(2, &chain, 0), computation.run(3, &chain, 0), "{computation:?}");
            }
        }
        // A lane of each of the four vectors, which begin with 0, 3, 1/3 and 6: x / 3 + 3, summed.
        let sum = Computation::Avx.run(1, &chain, 0).map(f64::from_bits);
        assert!(sum.is_none_or(|sum| (sum - (12.0 + (9.0 + 1.0 / 3.0) / 3.0)).abs() < 1e-9), "{sum:?}");
    }

    #[test]
    fn code_ends_before_its_padding() {
        for computation in [Computation::Integer, Computation::Avx, Computation::Chase] {
            let code = computation.code();
            assert!(code.contains(&0xc3) && code.ends_with(&[0xcc]), "{computation:?}");
        }
    }
}
