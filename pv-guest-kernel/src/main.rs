fn main() {
    eprintln!("This is the guest kernel's host shell; the image is built by the hypervisor's build.rs.");
}
