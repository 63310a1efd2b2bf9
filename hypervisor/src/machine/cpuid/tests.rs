use super::*;

const FACTS: Processor = Processor { tsc_khz: 2_400_000, xcr0: 0x2ff, fsgsbase: true, honours_xcr0: true };

/// A vendor's name in EBX, ECX, EDX.
fn vendor(name: &[u8; 12]) -> [u32; 3] {
    let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
    [word(0), word(8), word(4)]
}

/// Sizes as Intel's processors have them: size, asker, flags.
const COMPONENTS: [(u32, [u32; 3]); 7] = [
    (2, [0x100, 0x240, 0]),
    (3, [0x40, 0x3c0, 0]),
    (4, [0x40, 0x400, 0]),
    (5, [0x40, 0x440, 0]),
    (6, [0x200, 0x480, 0]),
    (7, [0x400, 0x680, 0]),
    (9, [0x8, 0xa80, 0]),
];

/// A processor that has all features, named and not.
fn everything(name: &[u8; 12], leaf: u32, subleaf: u32) -> Registers {
    let [ebx, ecx, edx] = vendor(name);
    match (leaf, subleaf) {
        (0, _) => [0x40, ebx, ecx, edx],
        (0x8000_0000, _) => [0x8000_0040, ebx, ecx, edx],
        (4 | 0x8000_001d, 0) => [0xfc00_0021 | 0x3ff << 14, 1, 2, 3], // of level 1
        (4 | 0x8000_001d, 1) => [0xfc00_0063 | 0x3ff << 14, 1, 2, 3], // of level 3
        (4 | 0x8000_001d, _) => [0; 4],
        (7, 0) => [u32::MAX; 4],
        (0xd, 0) => [0x2ff, 0xa88, 0xa88, 0],
        (0xd, 2..) => {
            let found = COMPONENTS.iter().find(|(n, _)| *n == subleaf);
            found.map_or([0; 4], |(_, [size, asker, flags])| [*size, *asker, *flags, 0])
        }
        (0x15 | 0x16, _) => [0; 4],
        _ => [u32::MAX; 4],
    }
}

fn intel() -> MachineCpuid {
    MachineCpuid::new(|leaf, subleaf| everything(b"GenuineIntel", leaf, subleaf), FACTS)
}

fn amd() -> MachineCpuid {
    MachineCpuid::new(|leaf, subleaf| everything(b"AuthenticAMD", leaf, subleaf), FACTS)
}

fn is_shown(policy: &MachineCpuid, question: Question, register: usize, bit: u32) -> bool {
    policy.cpuid(question.0, question.1)[register] & 1 << bit != 0
}

#[test]
fn what_a_pv_guest_must_not_use_is_hidden() {
    let hidden: [(Question, usize, &[u32]); 14] = [
        ((1, 0), ECX, &[3, 5, 17, 21, 24]), // MONITOR VMX PCID X2APIC TSC_DEADLINE
        ((1, 0), EDX, &[1, 3, 7, 12, 13, 14, 17]), // VME PSE MCE MTRR PGE MCA PSE36
        ((7, 0), EBX, &[7, 10, 20]),        // SMEP INVPCID SMAP
        ((7, 0), ECX, &[2, 3, 4, 7, 16, 22]), // UMIP PKU OSPKE CET_SS LA57 RDPID
        ((7, 0), EDX, &[20, 22, 24, 25, 26, 27, 29, 31]), // CET_IBT, AMX, MSRs of speculation
        ((7, 1), EAX, &[17, 21, 26]),       // FRED AMX_FP16 LAM
        ((0xd, 0), EAX, &[3, 4, 8, 9]),     // MPX PT PKRU
        ((0xd, 1), EAX, &[3, 4]),           // XSAVES XFD
        ((0x8000_0001, 0), ECX, &[2, 10, 15]), // SVM IBS LWP
        ((0x8000_0001, 0), EDX, &[1, 3, 7, 12, 13, 14, 17, 26]), // as leaf 1, PAGE1GB
        ((0x8000_0008, 0), EBX, &[3, 9, 12, 14]), // INVLPGB WBNOINVD IBPB IBRS
        ((0x8000_0021, 0), EAX, &[8, 17]),  // AUTO_IBRS CPUID_USER_DIS
        ((7, 0), EDX, &[0, 1, 6, 12, 17, 21]), // no name here
        ((0x8000_0021, 0), EAX, &[30, 31]), // no name here
    ];
    for (question, register, bits) in hidden {
        for bit in bits {
            for policy in [intel(), amd()] {
                assert!(!is_shown(&policy, question, register, *bit), "{question:x?} {register} {bit}");
            }
        }
    }
    for leaf in [3, 5, 6, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x17, 0x19, 0x1d, 0x8000_000a, 0x8000_001f] {
        assert_eq!(intel().cpuid(leaf, 0), [0; 4], "{leaf:#x}");
    }
}

#[test]
fn what_works_at_cpl3_is_shown() {
    let shown: [(Question, usize, &[u32]); 6] = [
        ((1, 0), ECX, &[0, 9, 12, 13, 19, 20, 23, 25, 26, 27, 28, 29, 30, 31]), // to AVX, XSAVE, OSXSAVE, HYPERVISOR
        ((1, 0), EDX, &[0, 4, 5, 6, 8, 15, 24, 25, 26]),
        ((7, 0), EBX, &[0, 3, 5, 8, 9, 16, 30, 31]), // FSGSBASE BMI1 AVX2 BMI2 ERMS AVX512
        ((0xd, 1), EAX, &[0, 1, 2]),
        ((0x8000_0001, 0), EDX, &[11, 20, 27, 29]), // SYSCALL NX RDTSCP LM
        ((0x8000_0007, 0), EDX, &[8]),
    ];
    for (question, register, bits) in shown {
        for bit in bits {
            assert!(is_shown(&intel(), question, register, *bit), "{question:x?} {register} {bit}");
        }
    }
}

/// Whatever a processor has, each feature that a guest does not find has a reason, and a name if it is known.
#[test]
fn each_hidden_feature_has_a_reason() {
    for policy in [intel(), amd()] {
        let hidden: Vec<_> = policy.told(Asker::ALONE).into_iter().flat_map(|told| told.hidden).collect();
        assert!(hidden.len() > 150, "{}", hidden.len());
        for feature in hidden {
            assert!(!feature.why.is_empty(), "{feature:?}");
            assert!(!feature.name.is_empty() || feature.why == table::UNKNOWN, "{feature:?}");
        }
    }
}

#[test]
fn the_table_says_one_thing_of_each_feature() {
    for row in ROWS {
        for rule in &row.registers {
            let Register::Features(shown, hidden) = rule else { continue };
            let mut seen = *shown;
            for feature in *hidden {
                assert_eq!(seen & 1 << feature.bit, 0, "{} of leaf {:#x}", feature.name, row.leaf);
                seen |= 1 << feature.bit;
            }
        }
    }
}

#[test]
fn extended_state_is_what_is_switched_and_has_its_size() {
    let policy = intel();
    assert_eq!(policy.xcr0(), 0xe7);
    assert_eq!(policy.cpuid(0xd, 0), [0xe7, 0xa80, 0xa80, 0], "up to the end of the last component");
    let [_, compact, ..] = policy.cpuid(0xd, 1);
    assert_eq!(compact, 576 + 0x100 + 0x40 + 0x200 + 0x400);
    for (n, [size, asker, flags]) in COMPONENTS {
        let expected = if 0xe7 & 1 << n != 0 { [size, asker, flags, 0] } else { [0; 4] };
        assert_eq!(policy.cpuid(0xd, n), expected, "component {n}");
    }
    assert_eq!(policy.cpuid(0xd, 1)[ECX..], [0, 0], "no supervisor state");
}

/// A buffer of that size holds what the processor stores, by the XCR0 that it goes by.
#[test]
fn sizes_are_those_of_the_xcr0_that_counts() {
    let asker = |xcr0| Asker { xcr0, ..Asker::ALONE };
    let sizes = |policy: &MachineCpuid, xcr0| {
        (policy.seen_by(asker(xcr0), 0xd, 0), policy.seen_by(asker(xcr0), 0xd, 1)[EBX])
    };
    let policy = intel();
    for (xcr0, size, compact) in
        [(None, 0xa80, 0x980), (Some(0xe7), 0xa80, 0x980), (Some(7), 0x340, 0x340), (Some(3), 576, 576)]
    {
        assert_eq!(sizes(&policy, xcr0), ([0xe7, size, 0xa80, 0], compact), "{xcr0:x?}");
    }
    let ignores = Processor { honours_xcr0: false, ..FACTS };
    let policy = MachineCpuid::new(|leaf, n| everything(b"GenuineIntel", leaf, n), ignores);
    assert_eq!(sizes(&policy, Some(3)), ([0xe7, 0xa80, 0xa80, 0], 0x980), "the processor stores all");
}

#[test]
fn a_compact_image_aligns_what_asks_for_it() {
    let components = [(2, [0x100, 0, 0, 0]), (5, [0x8, 0, 0, 0]), (6, [0x200, 0, 2, 0])];
    assert_eq!(xstate::compact_size(&components), 576 + 0x100 + 0x40 + 0x200);
}

/// Without the state there are no instructions on it: neither AVX-512 without its three parts, nor AVX without XSAVE.
#[test]
fn vector_instructions_need_their_state() {
    let with =
        |xcr0| MachineCpuid::new(|leaf, n| everything(b"GenuineIntel", leaf, n), Processor { xcr0, ..FACTS });
    let avx = |policy: &MachineCpuid| (is_shown(policy, (1, 0), ECX, 28), is_shown(policy, (7, 0), EBX, 5));
    let avx_512 =
        |policy: &MachineCpuid| (is_shown(policy, (7, 0), EBX, 16), is_shown(policy, (7, 0), ECX, 11));
    for (xcr0, switched, has_avx, has_avx_512) in [
        (0xe7, 0xe7, true, true),
        (0x67, 0x7, true, false),
        (0x7, 0x7, true, false),
        (0x3, 0x3, false, false),
    ] {
        let policy = with(xcr0);
        assert_eq!((policy.xcr0(), policy.has_xsave()), (switched, true), "{xcr0:#x}");
        assert_eq!(
            (avx(&policy), avx_512(&policy)),
            ((has_avx, has_avx), (has_avx_512, has_avx_512)),
            "{xcr0:#x}"
        );
    }
    let policy = with(0);
    assert_eq!((policy.xcr0(), policy.has_xsave(), avx(&policy)), (0, false, (false, false)));
    assert_eq!((policy.cpuid(0xd, 0), policy.cpuid(0xd, 1), policy.cpuid(0xd, 2)), ([0; 4], [0; 4], [0; 4]));

    let told = with(0x7).told(Asker::ALONE);
    let leaf_7 = told.iter().find(|told| (told.leaf, told.register) == (7, "EBX")).unwrap();
    assert!(
        leaf_7
            .hidden
            .iter()
            .any(|feature| (feature.name, feature.why) == ("AVX512F", "its registers are not switched"))
    );
}

#[test]
fn fsgsbase_is_shown_where_it_runs() {
    let with = |fsgsbase| {
        let policy = MachineCpuid::new(
            |leaf, n| everything(b"GenuineIntel", leaf, n),
            Processor { fsgsbase, ..FACTS },
        );
        is_shown(&policy, (7, 0), EBX, 0)
    };
    assert_eq!((with(true), with(false)), (true, false));
}

#[test]
fn the_rate_is_told_to_whoever_believes_it() {
    let hertz = |[denominator, numerator, crystal, _]: Registers| {
        u64::from(crystal) * u64::from(numerator) / u64::from(denominator)
    };
    let policy = intel();
    assert_eq!(hertz(policy.cpuid(0x15, 0)), 2_400_000_000);
    assert_eq!(policy.cpuid(0x16, 0)[EAX], 2400);
    assert!(policy.cpuid(0, 0)[EAX] >= 0x16);
    assert_eq!((amd().cpuid(0x15, 0), amd().cpuid(0x16, 0)), ([0; 4], [0; 4]), "reserved");

    // A processor whose last leaf is below, and one that says it itself.
    let small = |leaf, n| match leaf {
        0 => [0xd, vendor(b"GenuineIntel")[0], vendor(b"GenuineIntel")[1], vendor(b"GenuineIntel")[2]],
        leaf => everything(b"GenuineIntel", leaf, n),
    };
    let policy = MachineCpuid::new(small, FACTS);
    assert_eq!((policy.cpuid(0, 0)[EAX], hertz(policy.cpuid(0x15, 0))), (0x16, 2_400_000_000));
    let own = |leaf, n| match leaf {
        0x15 => [2, 192, 25_000_000, 0],
        0x16 => [2300, 3000, 100, 0],
        leaf => everything(b"GenuineIntel", leaf, n),
    };
    let policy = MachineCpuid::new(own, FACTS);
    assert_eq!(
        (policy.cpuid(0x15, 0), policy.cpuid(0x16, 0)),
        ([2, 192, 25_000_000, 0], [2300, 3000, 100, 0])
    );
}

#[test]
fn leaves_that_are_not_there_are_zero() {
    let small = |leaf, n| match leaf {
        0 => [2, 0, 0, 0],
        0x8000_0000 => [0x8000_0001, 0, 0, 0],
        leaf => everything(b"GenuineIntel", leaf, n),
    };
    let policy = MachineCpuid::new(small, FACTS);
    assert_eq!((policy.cpuid(0, 0)[EAX], policy.cpuid(0x8000_0000, 0)[EAX]), (2, 0x8000_0001));
    for leaf in [4, 7, 0xb, 0xd, 0x1f, 0x8000_0008, 0x8000_001e, 0x4000_0000, 0xc000_0000] {
        assert_eq!(policy.seen_by(Asker { vcpu: 1, of: 2, xcr0: None }, leaf, 0), [0; 4], "{leaf:#x}");
    }
    assert_eq!(intel().cpuid(7, 3), [0; 4]);
    assert_eq!(intel().cpuid(7, 0)[EAX], 2, "the last subleaf that is known");
    assert_eq!(intel().cpuid(2, 17), intel().cpuid(2, 0), "a leaf that ignores ECX");
}

/// Each way to count the vCPUs comes to the same, and no two have one APIC ID.
#[test]
fn topology_fits_the_vcpus() {
    for (of, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (32, 5)] {
        for vcpu in 0..of {
            let asker = Asker { vcpu, of, xcr0: None };
            for policy in [intel(), amd()] {
                let ask = |leaf, subleaf| policy.seen_by(asker, leaf, subleaf);
                let [_, ebx, _, edx] = ask(1, 0);
                assert_eq!(
                    (ebx >> 24, ebx >> 16 & 0xff, ebx & 0xffff),
                    (vcpu, of, 0xffff),
                    "leaf 1 of {asker:?}"
                );
                assert_eq!(edx >> 28 & 1 != 0, of > 1, "HTT of {asker:?}");
                for leaf in [0xb, 0x1f] {
                    assert_eq!(ask(leaf, 0), [0, 1, 1 << 8, vcpu], "threads of {asker:?}");
                    assert_eq!(ask(leaf, 1), [bits, of, 2 << 8 | 1, vcpu], "cores of {asker:?}");
                    assert_eq!(ask(leaf, 2), [0, 0, 2, vcpu]);
                }
            }
            let [own, shared] = [0, 1].map(|n| intel().seen_by(asker, 4, n)[EAX]);
            assert_eq!((own >> 26, own >> 14 & 0xfff), ((1 << bits) - 1, 0), "level 1 of {asker:?}");
            assert_eq!(
                (shared >> 26, shared >> 14 & 0xfff),
                ((1 << bits) - 1, (1 << bits) - 1),
                "level 3 of {asker:?}"
            );
            assert_eq!(
                amd().seen_by(asker, 0x8000_0008, 0)[ECX],
                bits << 12 | (of - 1),
                "leaf 8 of {asker:?}"
            );
            assert_eq!(amd().seen_by(asker, 0x8000_001e, 0), [vcpu, vcpu, 0, 0]);
            assert_eq!(amd().seen_by(asker, 0x8000_001d, 1)[EAX] >> 14 & 0xfff, (1 << bits) - 1);
            assert_eq!(amd().seen_by(asker, 0x8000_0001, 0)[ECX] >> 1 & 1 != 0, of > 1, "CMP_LEGACY");
            assert_eq!(intel().seen_by(asker, 0x8000_0008, 0)[ECX], 0);
        }
    }
}

/// All three parts of it, whichever instructions are meant.
#[test]
fn whatever_is_named_avx_512_needs_its_state() {
    for feature in CONDITIONAL {
        let needs_it = feature.need == Need::State(0xe7);
        assert_eq!(needs_it, feature.name.starts_with("AVX512"), "{}", feature.name);
    }
}

/// XSAVEOPT and XGETBV1 make no compact images.
#[test]
fn there_is_no_compact_size_without_xsavec() {
    let ask = |leaf, n| match (leaf, n) {
        (0xd, 1) => [0b101, 0, 0, 0],
        _ => everything(b"GenuineIntel", leaf, n),
    };
    let policy = MachineCpuid::new(ask, FACTS);
    assert_eq!(policy.seen_by(Asker::ALONE, 0xd, 1), [0b101, 0, 0, 0]);
}
