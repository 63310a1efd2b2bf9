//! Builds the bundled guest kernel, which `src/kernel_image.rs` embeds.
//!
//! The kernel is a member of the workspace, but its image needs flags that nothing else may have: so a
//! nested cargo builds it, with a target directory of its own (this cargo holds the lock of the other)
//! and `--target` (so that the flags stay away from build scripts). `PARAVANE_KERNEL_IMAGE` in the
//! environment names an image to embed instead.
//!
//! Only what is not written here is watched: a file that is newer than this script's last run has it run again. And the
//! name of the variable that gives the path is another than that of the override: cargo hands the former to the
//! programs that it runs, and a cargo among them must not take it for the latter.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const OVERRIDE: &str = "PARAVANE_KERNEL_IMAGE";
/// What tells the path to `src/kernel_image.rs`.
const PATH: &str = "KERNEL_IMAGE_PATH";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Everything that the image is made of, seen from the workspace.
const SOURCES: [&str; 4] = ["pv-guest-kernel", "pv-abi", "Cargo.toml", "Cargo.lock"];
const FLAGS: [&str; 8] = [
    "--cfg",
    "guest_image",
    // Without it the crate asks the processor by `cpuid`.
    "--cfg",
    "sha2_backend=\"soft\"",
    // Linked at a fixed address in the top 2 GiB.
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    // A trap in kernel mode pushes its frame at RSP.
    "-Cno-redzone=yes",
    // For back traces.
    "-Cforce-frame-pointers=yes",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let image = match env::var_os(OVERRIDE) {
        Some(image) => {
            let image = std::path::absolute(image).expect("the image's path");
            println!("cargo::rerun-if-changed={}", image.display());
            image
        }
        None => build(),
    };
    println!("cargo::rustc-env={PATH}={}", image.display());
}

/// Builds the image and gives its path.
fn build() -> PathBuf {
    // As it is now: what is compiled in is where a copied target directory was first built.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().expect("the workspace");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target_dir = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR")).join("guest");
    let mut cargo = Command::new(env::var_os("CARGO").expect("CARGO"));
    // What cargo set for this package would confuse the nested one; clippy's wrapper must not check it.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let inherited =
            name.starts_with("CARGO") && !name.starts_with("CARGO_HOME") && !name.starts_with("CARGO_NET");
        if inherited || name.starts_with("RUSTC") || name == "RUSTFLAGS" {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--package", "pv-guest-kernel", "--profile", "guest"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .status()
        .expect("starting cargo");
    assert!(status.success(), "building the guest kernel failed: {status}");
    target_dir.join(TARGET).join("guest").join("pv-guest-kernel")
}
