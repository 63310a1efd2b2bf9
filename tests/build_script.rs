//! `hypervisor/build.rs`, in a workspace that is as small as can be: what is built is not built again, and what the image
//! is made of is watched.

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");

const WORKSPACE: &str = r#"
[workspace]
resolver = "3"
members = ["hypervisor", "pv-guest-kernel"]

[profile.guest]
inherits = "release"
panic = "abort"
"#;

/// A kernel that does nothing.
const KERNEL: &str = r#"
#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    loop {}
}
"#;

const KERNEL_SCRIPT: &str = r#"
fn main() {
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
"#;

const LIBRARY: &str = r#"pub static IMAGE: &[u8] = include_bytes!(env!("KERNEL_IMAGE_PATH"));"#;

/// A copy of what the build script needs, with stubs for the rest.
struct Workspace(TempDir);

impl Workspace {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        let package =
            |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
        let kernel = package("pv-guest-kernel") + "[[bin]]\nname = \"pv-guest-kernel\"\ntest = false\n";
        this.write("Cargo.toml", WORKSPACE);
        this.write("hypervisor/Cargo.toml", &package("hypervisor"));
        this.write("hypervisor/build.rs", &fs::read_to_string(SCRIPT).expect("the build script"));
        this.write("hypervisor/src/lib.rs", LIBRARY);
        this.write("pv-guest-kernel/Cargo.toml", &kernel);
        this.write("pv-guest-kernel/build.rs", KERNEL_SCRIPT);
        this.write("pv-guest-kernel/src/main.rs", KERNEL);
        this.write("pv-abi/src/lib.rs", "");
        this
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        fs::write(path, text).expect("a file");
    }

    /// Builds the hypervisor, and says whether anything was compiled.
    #[track_caller]
    fn build(&self, image: Option<&Path>) -> bool {
        let mut cargo = Command::new(env!("CARGO"));
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CARGO_") && name_text != "CARGO_HOME" {
                cargo.env_remove(&name);
            }
        }
        cargo.env_remove("PARAVANE_KERNEL_IMAGE");
        cargo.envs(image.map(|image| ("PARAVANE_KERNEL_IMAGE", image)));
        cargo.args(["build", "--offline", "--package", "hypervisor"]).current_dir(&self.0);
        let output = cargo.output().expect("cargo starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text.contains("Compiling")
    }
}

#[test]
fn what_is_built_is_not_built_again() {
    let workspace = Workspace::new();
    assert!(workspace.build(None), "the first time all is compiled");
    assert!(!workspace.build(None), "the second time nothing is");
    workspace.write("pv-guest-kernel/src/main.rs", &format!("{KERNEL}// Another kernel."));
    assert!(workspace.build(None), "the image is made of another source");
    assert!(!workspace.build(None), "and that is built, too");
}

#[test]
fn an_image_that_is_given_is_watched() {
    let workspace = Workspace::new();
    let image = workspace.0.path().join("image");
    workspace.write("image", "one");
    workspace.build(Some(&image));
    assert!(!workspace.build(Some(&image)), "nothing has changed");
    workspace.write("image", "another");
    assert!(workspace.build(Some(&image)), "it has changed");
}
