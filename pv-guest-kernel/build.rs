//! Gives the linker its script, but only when the image is being built: see `hypervisor/build.rs`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(guest_image)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=image.ld");
    if std::env::var_os("CARGO_CFG_GUEST_IMAGE").is_none() {
        return;
    }
    let script = std::env::current_dir().expect("the package's directory").join("image.ld");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--orphan-handling=error",
        "-Wl,-z,max-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
