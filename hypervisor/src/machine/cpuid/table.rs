//! The table: what of each leaf guests get.
//!
//! A feature is passed where it is an instruction that works at CPL3, or a fact that is true there, as Xen has it for
//! PV guests. Every other is hidden, those that nobody has heard of yet among them; a leaf that is not here is zero.

use Register::{Features, MadeUp, Passed, Zero};

/// What guests get of a register.
#[derive(Clone, Copy, Debug)]
pub enum Register {
    /// What the processor has.
    Passed,
    /// Guests read 0, whatever the processor has.
    Zero,
    /// What is said to be made of; the code is beside this table.
    MadeUp(&'static str),
    /// Of the features, those in the mask.
    Features(u32, &'static [Hidden]),
}

/// A feature that guests do not get.
#[derive(Clone, Copy, Debug)]
pub struct Hidden {
    /// The number of the feature's bit in its register, 0 to 31.
    pub bit: u32,
    /// The feature's name, such as `MONITOR`.
    pub name: &'static str,
    /// Why guests do not get the feature, as part of a sentence.
    pub why: &'static str,
}

/// Which subleaves of a leaf there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subleaves {
    /// There is one answer: the leaf ignores ECX.
    None,
    /// This one. Rows of one leaf stand together.
    One(u32),
    /// A list of caches, up to one whose kind is 0.
    Caches,
    /// The levels of the topology: threads, cores.
    Levels,
    /// The components of extended state, from 2 on.
    Components,
}

/// What guests get of one leaf, or of some of its subleaves.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The leaf: EAX when `cpuid` is executed.
    pub leaf: u32,
    /// The subleaves that the row is for: values of ECX when `cpuid` is executed.
    pub subleaves: Subleaves,
    /// What the leaf is about, in a few words for people.
    pub about: &'static str,
    /// What guests get of EAX, EBX, ECX and EDX, in this order.
    pub registers: [Register; 4],
}

const PAGING: &str =
    "guests' page tables are the hypervisor's to check, and hold 4 KiB pages without tags or keys";
const PROTECTION: &str =
    "kernel and programs are both at CPL3, where it would protect nothing, or the kernel from itself";
const MSR: &str = "it is used through a machine-specific register that guests do not get";
const MACHINE_CHECK: &str = "machine checks are the host's";
const INTERRUPTS: &str = "events take the place of interrupts: there is no interrupt controller";
const CPL0: &str = "its instruction needs CPL0";
const STATE: &str = "its registers are not switched";
const MONITORING: &str = "performance, power and temperature are the host's";
const VIRTUALISATION: &str = "a guest runs no virtual machine";
const SIDE_CHANNEL: &str = "it would let a guest watch or slow down others";

/// Reason for what no row names.
pub const UNKNOWN: &str = "not known here";

const fn hidden(bit: u32, name: &'static str, why: &'static str) -> Hidden {
    Hidden { bit, name, why }
}

/// A word in which the bits of these numbers, 0 to 31, are set.
#[allow(clippy::indexing_slicing, reason = "at compile time")]
const fn bits(list: &[u32]) -> u32 {
    let (mut mask, mut n) = (0, 0);
    while n < list.len() {
        mask |= 1 << list[n];
        n += 1;
    }
    mask
}

/// Bits `first` to `last`.
const fn range(first: u32, last: u32) -> u32 {
    u32::MAX >> (31 - (last - first)) << first
}

const LEAF_1_ECX: Register = Features(
    // SSE3 PCLMULQDQ, SSSE3, FMA CX16, SSE4.1 SSE4.2, MOVBE POPCNT, AES XSAVE OSXSAVE AVX F16C RDRAND HYPERVISOR
    bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23]) | range(25, 31),
    &[
        hidden(2, "DTES64", MONITORING),
        hidden(3, "MONITOR", CPL0),
        hidden(4, "DSCPL", MONITORING),
        hidden(5, "VMX", VIRTUALISATION),
        hidden(6, "SMX", CPL0),
        hidden(7, "EIST", MONITORING),
        hidden(8, "TM2", MONITORING),
        hidden(10, "CNXTID", MSR),
        hidden(11, "SDBG", MSR),
        hidden(14, "XTPR", MSR),
        hidden(15, "PDCM", MONITORING),
        hidden(17, "PCID", PAGING),
        hidden(18, "DCA", MSR),
        hidden(21, "X2APIC", INTERRUPTS),
        hidden(24, "TSC_DEADLINE", INTERRUPTS),
    ],
);

const LEAF_1_EDX: Register = Features(
    // FPU, DE, TSC MSR PAE, CX8 APIC, SEP, CMOV PAT, CLFLUSH, MMX FXSR SSE SSE2 SS; HTT is made up
    bits(&[0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 19, 28]) | range(23, 27),
    &[
        hidden(1, "VME", "there is no virtual 8086 mode in 64-bit guests"),
        hidden(3, "PSE", PAGING),
        hidden(7, "MCE", MACHINE_CHECK),
        hidden(12, "MTRR", "what memory is cached how is the host's to say"),
        hidden(13, "PGE", PAGING),
        hidden(14, "MCA", MACHINE_CHECK),
        hidden(17, "PSE36", PAGING),
        hidden(18, "PSN", SIDE_CHANNEL),
        hidden(21, "DS", MONITORING),
        hidden(22, "ACPI", MONITORING),
        hidden(29, "TM", MONITORING),
        hidden(31, "PBE", MONITORING),
    ],
);

const LEAF_7_EBX: Register = Features(
    // FSGSBASE, BMI1, AVX2 FDP_EXCP_ONLY, BMI2 ERMS, NO_FPU_SEL, AVX512F DQ RDSEED ADX, IFMA, CLFLUSHOPT CLWB, PF ER CD
    // SHA BW VL
    bits(&[0, 3, 5, 6, 8, 9, 13, 16, 17, 18, 19, 21, 23, 24]) | range(26, 31),
    &[
        hidden(1, "TSC_ADJUST", MSR),
        hidden(2, "SGX", CPL0),
        hidden(4, "HLE", SIDE_CHANNEL),
        hidden(7, "SMEP", PROTECTION),
        hidden(10, "INVPCID", PAGING),
        hidden(11, "RTM", SIDE_CHANNEL),
        hidden(12, "PQM", MONITORING),
        hidden(14, "MPX", STATE),
        hidden(15, "PQE", MONITORING),
        hidden(20, "SMAP", PROTECTION),
        hidden(25, "PROC_TRACE", MONITORING),
    ],
);

const LEAF_7_ECX: Register = Features(
    // PREFETCHWT1 AVX512_VBMI, VBMI2, GFNI VAES VPCLMULQDQ VNNI BITALG, VPOPCNTDQ, CLDEMOTE, MOVDIRI MOVDIR64B
    bits(&[0, 1, 6, 14, 25, 27, 28]) | range(8, 12),
    &[
        hidden(2, "UMIP", PROTECTION),
        hidden(3, "PKU", PAGING),
        hidden(4, "OSPKE", PAGING),
        hidden(5, "WAITPKG", MSR),
        hidden(7, "CET_SS", STATE),
        hidden(13, "TME", MSR),
        hidden(16, "LA57", PAGING),
        hidden(22, "RDPID", "it reads TSC_AUX, which no guest can set: Linux takes it for the CPU's number"),
        hidden(23, "KL", STATE),
        hidden(24, "BUS_LOCK_DETECT", MSR),
        hidden(29, "ENQCMD", CPL0),
        hidden(30, "SGX_LC", CPL0),
        hidden(31, "PKS", PAGING),
    ],
);

const LEAF_7_EDX: Register = Features(
    // AVX512_4VNNIW 4FMAPS FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX512_FP16
    bits(&[2, 3, 4, 8, 10, 14, 23]),
    &[
        hidden(5, "UINTR", INTERRUPTS),
        hidden(9, "SRBDS_CTRL", MSR),
        hidden(11, "RTM_ALWAYS_ABORT", SIDE_CHANNEL),
        hidden(13, "TSX_FORCE_ABORT", MSR),
        hidden(15, "HYBRID", "a vCPU moves between CPUs of all kinds"),
        hidden(16, "TSXLDTRK", SIDE_CHANNEL),
        hidden(18, "PCONFIG", CPL0),
        hidden(19, "ARCH_LBR", MONITORING),
        hidden(20, "CET_IBT", STATE),
        hidden(22, "AMX_BF16", STATE),
        hidden(24, "AMX_TILE", STATE),
        hidden(25, "AMX_INT8", STATE),
        hidden(26, "IBRSB", MSR),
        hidden(27, "STIBP", MSR),
        hidden(28, "L1D_FLUSH", MSR),
        hidden(29, "ARCH_CAPS", MSR),
        hidden(30, "CORE_CAPS", MSR),
        hidden(31, "SSBD", MSR),
    ],
);

const LEAF_7_1_EAX: Register = Features(
    // SHA512 SM3 SM4, AVX_VNNI AVX512_BF16, CMPCCXADD, FZRM FSRS FSRCS, AVX_IFMA
    bits(&[0, 1, 2, 4, 5, 7, 10, 11, 12, 23]),
    &[
        hidden(3, "RAO_INT", UNKNOWN),
        hidden(6, "LASS", PROTECTION),
        hidden(8, "ARCH_PERFMON_EXT", MONITORING),
        hidden(17, "FRED", INTERRUPTS),
        hidden(18, "LKGS", CPL0),
        hidden(19, "WRMSRNS", CPL0),
        hidden(20, "NMI_SRC", INTERRUPTS),
        hidden(21, "AMX_FP16", STATE),
        hidden(22, "HRESET", MONITORING),
        hidden(26, "LAM", PAGING),
        hidden(27, "MSRLIST", MSR),
    ],
);

const LEAF_7_1_EDX: Register = Features(
    // AVX_VNNI_INT8 AVX_NE_CONVERT, AVX_VNNI_INT16, PREFETCHITI
    bits(&[4, 5, 10, 14]),
    &[
        hidden(8, "AMX_COMPLEX", STATE),
        hidden(17, "UIRET_UIF", INTERRUPTS),
        hidden(18, "CET_SSS", STATE),
        hidden(19, "AVX10", UNKNOWN),
        hidden(21, "APX_F", STATE),
    ],
);

const LEAF_7_2_EDX: Register = Features(
    bits(&[5]), // MCDT_NO
    &[
        hidden(0, "PSFD", MSR),
        hidden(1, "IPRED_CTRL", MSR),
        hidden(2, "RRSBA_CTRL", MSR),
        hidden(3, "DDPD_U", MSR),
        hidden(4, "BHI_CTRL", MSR),
    ],
);

const LEAF_D_1_EAX: Register = Features(
    range(0, 2), // XSAVEOPT XSAVEC XGETBV1
    &[hidden(3, "XSAVES", CPL0), hidden(4, "XFD", MSR)],
);

const EXTENDED_1_ECX: Register = Features(
    // LAHF_LM, ABM SSE4A MISALIGNSSE 3DNOWPREFETCH, XOP, FMA4, TBM TOPOEXT; CMP_LEGACY is made up
    bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21, 22]),
    &[
        hidden(2, "SVM", VIRTUALISATION),
        hidden(3, "EXTAPIC", INTERRUPTS),
        hidden(4, "CR8_LEGACY", INTERRUPTS),
        hidden(9, "OSVW", MSR),
        hidden(10, "IBS", MONITORING),
        hidden(12, "SKINIT", CPL0),
        hidden(13, "WDT", MSR),
        hidden(15, "LWP", STATE),
        hidden(17, "TCE", PAGING),
        hidden(19, "NODEID_MSR", MSR),
        hidden(23, "PERFCTR_CORE", MONITORING),
        hidden(24, "PERFCTR_NB", MONITORING),
        hidden(26, "DBEXT", MSR),
        hidden(27, "PERFTSC", MONITORING),
        hidden(28, "PERFCTR_LLC", MONITORING),
        hidden(29, "MONITORX", SIDE_CHANNEL),
        hidden(30, "ADDR_MASK_EXT", MSR),
    ],
);

const EXTENDED_1_EDX: Register = Features(
    // As leaf 1's; SYSCALL, NX, MMXEXT, FFXSR RDTSCP LM 3DNOWEXT 3DNOW
    bits(&[0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 20, 22, 23, 24, 25, 27, 29, 30, 31]),
    &[
        hidden(1, "VME", "there is no virtual 8086 mode in 64-bit guests"),
        hidden(3, "PSE", PAGING),
        hidden(7, "MCE", MACHINE_CHECK),
        hidden(12, "MTRR", "what memory is cached how is the host's to say"),
        hidden(13, "PGE", PAGING),
        hidden(14, "MCA", MACHINE_CHECK),
        hidden(17, "PSE36", PAGING),
        hidden(19, "MP", UNKNOWN),
        hidden(26, "PAGE1GB", PAGING),
    ],
);

const EXTENDED_7_EDX: Register = Features(
    bits(&[8]), // ITSC
    &[
        hidden(0, "TS", MONITORING),
        hidden(7, "HW_PSTATE", MONITORING),
        hidden(9, "CPB", MONITORING),
        hidden(10, "EFRO", MONITORING),
    ],
);

const EXTENDED_8_EBX: Register = Features(
    bits(&[0, 2, 26, 29]), // CLZERO, RSTR_FP_ERR_PTRS, SSB_NO, BTC_NO
    &[
        hidden(1, "IRPERF", MONITORING),
        hidden(3, "INVLPGB", PAGING),
        hidden(4, "RDPRU", MONITORING),
        hidden(8, "MCOMMIT", MSR),
        hidden(9, "WBNOINVD", CPL0),
        hidden(12, "IBPB", MSR),
        hidden(14, "IBRS", MSR),
        hidden(15, "STIBP", MSR),
        hidden(16, "IBRS_ALWAYS", MSR),
        hidden(17, "STIBP_ALWAYS", MSR),
        hidden(18, "IBRS_FAST", MSR),
        hidden(19, "IBRS_SAME_MODE", MSR),
        hidden(20, "NO_LMSL", MSR),
        hidden(23, "PPIN", MSR),
        hidden(24, "SSBD", MSR),
        hidden(25, "VIRT_SSBD", MSR),
        hidden(28, "PSFD", MSR),
        hidden(30, "IBPB_RET", MSR),
    ],
);

const EXTENDED_21_EAX: Register = Features(
    // NO_NESTED_DATA_BP, LFENCE_DISPATCH, NSCB, FSRS FSRC, SRSO_NO
    bits(&[0, 2, 6, 10, 11, 29]),
    &[
        hidden(7, "UAI", MSR),
        hidden(8, "AUTO_IBRS", MSR),
        hidden(9, "NO_SMM_CTL_MSR", MSR),
        hidden(13, "PREFETCH_CTL_MSR", MSR),
        hidden(17, "CPUID_USER_DIS", MSR),
        hidden(27, "SBPB", MSR),
        hidden(28, "IBPB_BRTYPE", MSR),
    ],
);

const LAST: Register = MadeUp("the last one that there is");
const SHARING: Register = MadeUp("shared by vCPUs as the topology has it");
const TOPOLOGY: Register = MadeUp("each vCPU is a core; all are in one package");
const XSTATE: Register = MadeUp("what is switched, and its size");
const RATE: Register = MadeUp("the TSC's rate, where Intel's processors do not say it");

const fn row(leaf: u32, subleaves: Subleaves, about: &'static str, registers: [Register; 4]) -> Row {
    Row { leaf, subleaves, about, registers }
}

/// All leaves that guests get, but for the hypervisors' range.
pub const ROWS: &[Row] = &[
    row(0, Subleaves::None, "vendor", [LAST, Passed, Passed, Passed]),
    row(1, Subleaves::None, "version, topology, features", [Passed, TOPOLOGY, LEAF_1_ECX, LEAF_1_EDX]),
    row(2, Subleaves::None, "caches", [Passed; 4]),
    row(4, Subleaves::Caches, "caches", [SHARING, Passed, Passed, Passed]),
    row(7, Subleaves::One(0), "features", [LAST, LEAF_7_EBX, LEAF_7_ECX, LEAF_7_EDX]),
    row(7, Subleaves::One(1), "features", [LEAF_7_1_EAX, Zero, Zero, LEAF_7_1_EDX]),
    row(7, Subleaves::One(2), "features", [Zero, Zero, Zero, LEAF_7_2_EDX]),
    row(0xb, Subleaves::Levels, "topology", [TOPOLOGY; 4]),
    row(0xd, Subleaves::One(0), "extended state", [XSTATE; 4]),
    row(0xd, Subleaves::One(1), "extended state", [LEAF_D_1_EAX, XSTATE, XSTATE, XSTATE]),
    row(0xd, Subleaves::Components, "extended state: a component", [Passed, Passed, Passed, Zero]),
    row(0x15, Subleaves::None, "TSC", [RATE; 4]),
    row(0x16, Subleaves::None, "frequencies", [RATE; 4]),
    row(0x1f, Subleaves::Levels, "topology", [TOPOLOGY; 4]),
    row(0x8000_0000, Subleaves::None, "vendor", [LAST, Passed, Passed, Passed]),
    row(0x8000_0001, Subleaves::None, "features", [Passed, Passed, EXTENDED_1_ECX, EXTENDED_1_EDX]),
    row(0x8000_0002, Subleaves::None, "name", [Passed; 4]),
    row(0x8000_0003, Subleaves::None, "name", [Passed; 4]),
    row(0x8000_0004, Subleaves::None, "name", [Passed; 4]),
    row(0x8000_0005, Subleaves::None, "caches", [Passed; 4]),
    row(0x8000_0006, Subleaves::None, "caches", [Passed; 4]),
    row(0x8000_0007, Subleaves::None, "TSC", [Zero, Zero, Zero, EXTENDED_7_EDX]),
    row(
        0x8000_0008,
        Subleaves::None,
        "sizes of addresses, topology",
        [Features(range(0, 15), &[]), EXTENDED_8_EBX, TOPOLOGY, Zero],
    ),
    row(0x8000_001a, Subleaves::None, "what is fast", [Passed, Zero, Zero, Zero]),
    row(0x8000_001d, Subleaves::Caches, "caches", [SHARING, Passed, Passed, Passed]),
    row(0x8000_001e, Subleaves::None, "topology", [TOPOLOGY; 4]),
    row(0x8000_0021, Subleaves::None, "features", [EXTENDED_21_EAX, Zero, Zero, Zero]),
];

/// What a feature that is passed needs beyond the processor's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// These components of extended state are switched.
    State(u64),
    /// The host runs its instructions at CPL3.
    RunsAtCpl3,
    /// There are several vCPUs.
    Several,
}

impl Need {
    /// Why the feature is hidden where that is not so.
    pub fn why(self) -> &'static str {
        match self {
            Self::State(_) => STATE,
            Self::RunsAtCpl3 => "the host does not run it at CPL3",
            Self::Several => "there is one vCPU",
        }
    }
}

/// A feature that needs something.
#[derive(Clone, Copy, Debug)]
pub struct Conditional {
    /// The leaf and the subleaf that tell of the feature.
    pub question: (u32, u32),
    /// 0 for EAX to 3 for EDX.
    pub register: usize,
    /// The number of the feature's bit in that register, 0 to 31.
    pub bit: u32,
    /// The feature's name, such as `AVX2`.
    pub name: &'static str,
    /// What must be so for guests to get the feature.
    pub need: Need,
}

const AVX: Need = Need::State(0x7);
const AVX_512: Need = Need::State(0xe7);

const fn conditional(
    question: (u32, u32),
    register: usize,
    bit: u32,
    name: &'static str,
    need: Need,
) -> Conditional {
    Conditional { question, register, bit, name, need }
}

/// Features that need something; the others are passed wherever the processor has them.
pub const CONDITIONAL: &[Conditional] = &[
    conditional((1, 0), 2, 12, "FMA", AVX),
    conditional((1, 0), 2, 28, "AVX", AVX),
    conditional((1, 0), 2, 29, "F16C", AVX),
    conditional((1, 0), 2, 26, "XSAVE", Need::State(0x3)),
    conditional((1, 0), 2, 27, "OSXSAVE", Need::State(0x3)),
    conditional((1, 0), 3, 28, "HTT", Need::Several),
    conditional((7, 0), 1, 0, "FSGSBASE", Need::RunsAtCpl3),
    conditional((7, 0), 1, 5, "AVX2", AVX),
    conditional((7, 0), 1, 16, "AVX512F", AVX_512),
    conditional((7, 0), 1, 17, "AVX512DQ", AVX_512),
    conditional((7, 0), 1, 21, "AVX512_IFMA", AVX_512),
    conditional((7, 0), 1, 26, "AVX512PF", AVX_512),
    conditional((7, 0), 1, 27, "AVX512ER", AVX_512),
    conditional((7, 0), 1, 28, "AVX512CD", AVX_512),
    conditional((7, 0), 1, 30, "AVX512BW", AVX_512),
    conditional((7, 0), 1, 31, "AVX512VL", AVX_512),
    conditional((7, 0), 2, 1, "AVX512_VBMI", AVX_512),
    conditional((7, 0), 2, 6, "AVX512_VBMI2", AVX_512),
    conditional((7, 0), 2, 11, "AVX512_VNNI", AVX_512),
    conditional((7, 0), 2, 12, "AVX512_BITALG", AVX_512),
    conditional((7, 0), 2, 14, "AVX512_VPOPCNTDQ", AVX_512),
    conditional((7, 0), 2, 9, "VAES", AVX),
    conditional((7, 0), 2, 10, "VPCLMULQDQ", AVX),
    conditional((7, 0), 3, 2, "AVX512_4VNNIW", AVX_512),
    conditional((7, 0), 3, 3, "AVX512_4FMAPS", AVX_512),
    conditional((7, 0), 3, 8, "AVX512_VP2INTERSECT", AVX_512),
    conditional((7, 0), 3, 23, "AVX512_FP16", AVX_512),
    conditional((7, 1), 0, 0, "SHA512", AVX),
    conditional((7, 1), 0, 1, "SM3", AVX),
    conditional((7, 1), 0, 2, "SM4", AVX),
    conditional((7, 1), 0, 4, "AVX_VNNI", AVX),
    conditional((7, 1), 0, 23, "AVX_IFMA", AVX),
    conditional((7, 1), 0, 5, "AVX512_BF16", AVX_512),
    conditional((7, 1), 3, 4, "AVX_VNNI_INT8", AVX),
    conditional((7, 1), 3, 5, "AVX_NE_CONVERT", AVX),
    conditional((7, 1), 3, 10, "AVX_VNNI_INT16", AVX),
    conditional((0xd, 1), 0, 0, "XSAVEOPT", Need::State(0x3)),
    conditional((0xd, 1), 0, 1, "XSAVEC", Need::State(0x3)),
    conditional((0xd, 1), 0, 2, "XGETBV1", Need::State(0x3)),
    conditional((0x8000_0001, 0), 2, 11, "XOP", AVX),
    conditional((0x8000_0001, 0), 2, 16, "FMA4", AVX),
    conditional((0x8000_0001, 0), 2, 1, "CMP_LEGACY", Need::Several),
];
