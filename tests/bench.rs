//! `paravane bench`: every row is there, under its name, and as JSON it is what programs expect. No test looks at a
//! time: hosts differ, and are busy.

mod support;

use hypervisor::bench::{EACH, NANOSECONDS, PER_SECOND, Row, Settings, suite};
use libtest_mimic::Failed;
use serde_json::Value;
use std::process::ExitCode;
use support::{check, kvm_test, main_one_at_a_time};

/// Fewer than a row needs to say anything, and enough to go through everything twice.
const PAIRS: usize = 2;
const COUNTS: [u32; 5] = [1, 8, 64, 512, 2048];
/// Rows that have no floor.
const WITHOUT_FLOOR: [&str; 3] = ["core/create/domain", "core/create/domain-again", "core/boot/prompt"];

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        kvm_test("core_has_all_its_rows", core_has_all_its_rows),
        kvm_test("block_has_all_its_rows", block_has_all_its_rows),
    ])
}

fn names() -> Vec<String> {
    let calls = ["null/syscall", "null/doorbell", "event/self", "fault/user-kernel", "switch/address-space"];
    let batches = ["validate", "update", "revoke", "revoke-scattered"];
    let batches = batches.iter().flat_map(|row| COUNTS.iter().map(move |count| format!("mmu/{row}/{count}")));
    let emulated =
        ["emulate/cli", "emulate/in", "emulate/mov-from-cr0", "emulate/rdmsr", "writable-page-table"];
    let computed = ["cpu/integer", "cpu/avx", "cpu/pointer-chase"];
    let made = ["create/machine", "create/domain", "create/domain-again", "boot/prompt", "boot/linux"];
    let owned = |name: &&str| (*name).to_owned();
    let others = emulated.iter().chain(&computed).chain(&made).map(owned);
    let names = calls.iter().map(owned).chain(batches).chain(others);
    names.map(|name| format!("core/{name}")).collect()
}

/// The rows of a suite, which are those and no others.
fn rows(name: &str, names: &[String]) -> Result<Vec<Row>, Failed> {
    let mut rows = Vec::new();
    let suite = suite(name).ok_or("there is no such suite")?;
    (suite.run)(&Settings { pairs: PAIRS, linux: None }, &mut |row| rows.push(row))
        .map_err(|error| error.to_string())?;
    let seen: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    check(seen == names, || format!("other rows than expected: {seen:#?}"))?;
    Ok(rows)
}

/// Of the suite `block`, and in which unit. All but one have a floor: the host.
const BLOCK: [(&str, &str); 14] = [
    ("block/randread-4k-qd32", PER_SECOND),
    ("block/write-4k", PER_SECOND),
    ("block/write-64k", PER_SECOND),
    ("block/fdatasync", PER_SECOND),
    ("block/direct-qd1", PER_SECOND),
    ("block/latency-qd1", NANOSECONDS),
    ("block/per-cpu-second", PER_SECOND),
    ("block/doorbells-per-request", EACH),
    ("block/qemu-randread-4k-qd32", PER_SECOND),
    ("block/qemu-write-4k", PER_SECOND),
    ("block/qemu-write-64k", PER_SECOND),
    ("block/qemu-fdatasync", PER_SECOND),
    ("block/qemu-direct-qd1", PER_SECOND),
    ("block/qemu-latency-qd1", NANOSECONDS),
];

/// Whether a row may be skipped for that reason: on a file system without `O_DIRECT`, or where there is no QEMU.
fn may_be_skipped(name: &str, reason: &str) -> bool {
    match name {
        "block/direct-qd1" => reason.contains("direct"),
        "block/qemu-direct-qd1" if reason.contains("the host itself cannot open") => true,
        _ => name.starts_with("block/qemu-") && reason.ends_with("is not installed"),
    }
}

/// That what was read and written is right, the suite checks itself.
fn block_has_all_its_rows() -> Result<(), Failed> {
    let rows = rows("block", &BLOCK.map(|(name, _)| name.to_owned()))?;
    rows.iter().zip(BLOCK).try_for_each(|(row, (name, unit))| {
        if let Some(reason) = &row.skipped {
            eprintln!("{name} is skipped here: {reason}");
            return check(may_be_skipped(name, reason), || format!("{row:?}"));
        }
        let positive = |value: Option<f64>| value.is_some_and(|value| value > 0.0 && value.is_finite());
        let fits = match name {
            // With both ends awake there need not be any.
            "block/doorbells-per-request" => row.floor.is_none() && (0.0..=2.0).contains(&row.value),
            _ => positive(Some(row.value)) && positive(row.floor) && positive(row.ratio),
        };
        let whole = row.samples == PAIRS && row.unit == unit && row.low <= row.high;
        check(fits && whole, || format!("{row:?}"))
    })
}

fn core_has_all_its_rows() -> Result<(), Failed> {
    let rows = rows("core", &names())?;
    let text = serde_json::to_string(&rows)?;
    let json: Vec<Value> = serde_json::from_str(&text)?;
    rows.iter().zip(&json).try_for_each(|(row, json)| check_row(row, json))
}

fn check_row(row: &Row, json: &Value) -> Result<(), Failed> {
    let positive = |field: &str| json[field].as_f64().is_some_and(|value| value > 0.0 && value.is_finite());
    if let Some(reason) = &row.skipped {
        eprintln!("{} is skipped here: {reason}", row.name);
        // tests/peers/linux measures it.
        let is_expected = match row.name.as_str() {
            "core/boot/linux" => reason.contains("--linux"),
            "core/cpu/avx" => reason.contains("AVX"),
            _ => false,
        };
        return check(is_expected && json["value"].is_null(), || format!("{row:?}"));
    }
    let unit = if row.name.starts_with("core/cpu/") { PER_SECOND } else { NANOSECONDS };
    let has_floor = !WITHOUT_FLOOR.contains(&row.name.as_str());
    let floors = ["floor", "ratio"].iter().all(|field| match has_floor {
        true => positive(field),
        false => json[field].is_null(),
    });
    let ordered = row.low <= row.high;
    let well_formed = ["value", "low", "high"].into_iter().all(positive);
    let labelled = json["unit"] == unit && json["samples"] == PAIRS && json["name"] == row.name.as_str();
    check(floors && ordered && well_formed && labelled, || format!("not as a row should be: {json}"))
}
