//! `paravane bench`: every row is there, under its name, and as JSON it is what programs expect. No test looks at a
//! time: hosts differ, and are busy.

mod support;

use hypervisor::bench::{Row, suite};
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
    main_one_at_a_time(vec![kvm_test("core_has_all_its_rows", core_has_all_its_rows)])
}

fn names() -> Vec<String> {
    let calls = ["null/syscall", "null/doorbell", "event/self", "fault/user-kernel", "switch/address-space"];
    let batches = ["validate", "update", "revoke", "revoke-scattered"];
    let batches = batches.iter().flat_map(|row| COUNTS.iter().map(move |count| format!("mmu/{row}/{count}")));
    let made = ["create/machine", "create/domain", "create/domain-again", "boot/prompt"];
    let names = calls.into_iter().map(str::to_owned).chain(batches).chain(made.map(str::to_owned));
    names.map(|name| format!("core/{name}")).collect()
}

fn core_has_all_its_rows() -> Result<(), Failed> {
    let mut rows = Vec::new();
    let core = suite("core").ok_or("there is no suite core")?;
    (core.run)(PAIRS, &mut |row| rows.push(row)).map_err(|error| error.to_string())?;
    let seen: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    check(seen == names(), || format!("other rows than expected: {seen:#?}"))?;
    let text = serde_json::to_string(&rows)?;
    let json: Vec<Value> = serde_json::from_str(&text)?;
    rows.iter().zip(&json).try_for_each(|(row, json)| check_row(row, json))
}

fn check_row(row: &Row, json: &Value) -> Result<(), Failed> {
    let positive = |field: &str| json[field].as_f64().is_some_and(|value| value > 0.0 && value.is_finite());
    let has_floor = !WITHOUT_FLOOR.contains(&row.name.as_str());
    let floors = ["floor", "ratio"].iter().all(|field| match has_floor {
        true => positive(field),
        false => json[field].is_null(),
    });
    let ordered = row.low <= row.high;
    let well_formed = ["value", "low", "high"].into_iter().all(positive);
    let labelled = json["unit"] == "ns" && json["samples"] == PAIRS && json["name"] == row.name.as_str();
    check(floors && ordered && well_formed && labelled, || format!("not as a row should be: {json}"))
}
